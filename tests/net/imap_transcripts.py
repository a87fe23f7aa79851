"""Plays transcripts of IMAP: one file per rule.

    Given: 3 messages            (or: Given: nobody is logged in; Given: Work; Given: TLS)
    1 C: a SELECT INBOX          connection 1 says a line (CRLF is added; \\r\\n and \\xNN are octets)
    1 S: * 3 EXISTS              and hears exactly this; … is any text, {uid} is caught and must be the same later
    1 S~ a OK …                  lines are passed over until this one
    1 closed                     the connection is at its end
    + 2 messages                 new mail arrives

Connections are made when they are first named, and log in as ada unless the file says otherwise; after
`Given: selected` they select INBOX.
"""

from __future__ import annotations

import re
from pathlib import Path

from .imap_world import Client, World, sample

_STEP = re.compile(r"(\d) (C:|S:|S~|closed|TLS)(?: (.*))?")
_ARRIVE = re.compile(r"\+ (\d+) messages?(?: in (\S+))?(?: (\(.*\)))?")
_GIVEN = re.compile(r"Given: (\d+) messages?(?: in (\S+))?(?: (\(.*\)))?")


async def play_transcript(path: Path, world: World) -> None:
    script = _Script(world)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            await script.step(line)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{path.name}:{number}: {line}\n{error}") from error


class _Script:
    def __init__(self, world: World) -> None:
        self.world = world
        self.clients: dict[str, Client] = {}
        self.caught: dict[str, str] = {}
        self.user = "ada"
        self.select = ""
        self.count = 0

    async def step(self, line: str) -> None:
        line = line.rstrip()
        if not line or line.startswith("#"):
            return
        if filed := (_GIVEN.fullmatch(line) or _ARRIVE.fullmatch(line)):
            await self._file(int(filed[1]), filed[2] or "INBOX", filed[3] or "()")
        elif line.startswith("Given: "):
            await self._given(line.removeprefix("Given: "))
        else:
            found = _STEP.fullmatch(line)
            assert found, "not a step of a transcript"
            await self._talk(found[1], found[2], found[3] or "")

    async def _file(self, count: int, box: str, flags: str) -> None:
        numbers = range(self.count + 1, self.count + count + 1)
        self.count += count
        await self.world.file(*map(sample, numbers), box=box, flags=tuple(flags.strip("()").split()))

    async def _given(self, what: str) -> None:
        if what == "nobody is logged in":
            self.user = ""
        elif what == "selected":
            self.select = "INBOX"
        else:
            await self.world.store.mailboxes.create(self.world.accounts["ada"], what)

    async def _talk(self, name: str, kind: str, text: str) -> None:
        if name not in self.clients:
            self.clients[name] = await self.world.connect(self.user, self.select)
        client = self.clients[name]
        match kind:
            case "C:":
                octets = re.sub(r"\{(\w+)\}", lambda m: self.caught.get(m[1], m[0]), text).encode()
                client.send(_unescape(octets) + b"\r\n")
            case "S:":
                heard = await client.line()
                assert self._matches(text, heard), f"heard: {heard}"
            case "S~":
                passed = []
                while not self._matches(text, heard := await client.line()):
                    passed.append(heard)
                    assert heard, "\n".join(["heard:", *passed])
            case "closed":
                assert await client.line() == ""

    def _matches(self, pattern: str, heard: str) -> bool:
        names: list[str] = []

        def part(found: re.Match[str]) -> str:
            if found[0] == "…":
                return ".*"
            if found[1] in self.caught:
                return re.escape(self.caught[found[1]])
            names.append(found[1])
            return rf"(?P<{found[1]}>[^ \])]+)"

        pieces = re.split(r"(…|\{[a-z]\w*\})", pattern)
        expression = "".join(
            re.sub(r"…|\{(\w+)\}", part, piece) if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)
        )
        found = re.fullmatch(expression, heard, re.DOTALL)
        if found:
            self.caught |= {name: found[name] for name in names}
        return bool(found)


def _unescape(octets: bytes) -> bytes:
    octets = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), octets)
    return octets.replace(b"\\r\\n", b"\r\n")
