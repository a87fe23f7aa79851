"""Plays a session with the core alone: a desk made of dictionaries, and transcripts read from files.

A transcript has `C:` lines the client sends, `S:` lines the server must say (`…` stands for anything), and `!` lines
for what happens elsewhere: `!secured`, `!expunged 2`, `!clear` (a listener without logins in the clear), `!closed`.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from pillarbox.model.secret import make_secret
from pillarbox.model.uids import UidSet
from pillarbox.protocol.pop3.content import stuffed, top
from pillarbox.protocol.pop3.events import (
    AskVerifier,
    Close,
    Listing,
    Login,
    Retrieve,
    Say,
    ScramDone,
    StartTls,
    Update,
)
from pillarbox.protocol.pop3.maildrop import Maildrop
from pillarbox.protocol.pop3.server import Pop3Server

MESSAGES = {
    11: b"Subject: one\r\n\r\n.dot\r\n",
    15: b"Subject: two\r\n\r\n1\r\n2\r\n3\r\n",
    16: b"Subject: three\r\n",
}
USER = "ada@pillarbox.test"
PASSWORD = "secret word"
SECRET = make_secret(PASSWORD, b"salt" * 4, 4096)


@dataclass
class Desk:
    """A core and what it talks to. `said` is all that the client hears; `asked` the questions, in order."""

    clear: bool = True
    messages: dict[int, bytes] = field(default_factory=lambda: dict(MESSAGES))
    said: bytes = b""
    asked: list[object] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.core = Pop3Server("mx.pillarbox.test", lambda: "serverNONCE", cleartext_login=self.clear)
        self.said = self.core.greeting()

    def receive(self, octets: bytes) -> None:
        """Octets from the client, and all that follows from them."""
        self.core.receive(octets)
        while not self.closed and (event := self.core.next_event()):
            self.said += self.answer(event)

    def answer(self, event: object) -> bytes:
        core = self.core
        if not isinstance(event, (Say, Listing)):
            self.asked.append(event)
        match event:
            case Say(octets) | StartTls(octets):
                return octets
            case Close(octets):
                self.closed = True
                return octets
            case Listing(pieces):
                return b"".join(pieces)
            case Login(username, password):
                if username == "locked":
                    return core.refuse("IN-USE", "another session has this mailbox open")
                return self._login((username, password) == (USER, PASSWORD))
            case AskVerifier():
                core.verifier(SECRET)
                return b""
            case ScramDone(username, ok):
                return self._login(ok and username == USER)
            case Retrieve(index, lines):
                assert core.maildrop
                octets: bytes | None = self.messages[core.maildrop.uid(index)]
                assert octets is not None
                octets = octets if lines is None else top(octets, lines)
                assert octets is not None
                return core.retrieved() + stuffed(octets)
            case Update(uids):
                for uid in uids:
                    del self.messages[uid]
                self.closed = True
                return core.updated(True)
        raise AssertionError(event)

    def _login(self, ok: bool) -> bytes:
        if not ok:
            return self.core.refuse("AUTH", "authentication failed")
        sizes = array("Q", map(len, self.messages.values()))
        return self.core.welcome(Maildrop(0xABC, array("I", self.messages), sizes))

    def elsewhere(self, what: str) -> None:
        match what.split():
            case ["secured"]:
                self.core.secured()
            case ["expunged", number]:
                assert self.core.maildrop
                self.core.maildrop.expunged(UidSet.of([list(MESSAGES)[int(number) - 1]]))
            case ["closed"]:
                assert self.closed
            case _:
                raise AssertionError(what)


def perform(path: Path) -> None:
    """Play a transcript; raises AssertionError at the first line that is not as written."""
    lines = path.read_text("utf-8").splitlines()
    desk = Desk(clear="!clear" not in lines)
    for line in lines:
        if not line or line.startswith("#") or line == "!clear":
            continue
        mark, _, text = line.partition(" ")
        match mark:
            case "C:":
                assert desk.said == b"", f"{path.name}: before {line!r} the server said {desk.said!r}"
                desk.receive(text.encode() + b"\r\n")
            case "S:":
                said, _, desk.said = desk.said.partition(b"\r\n")
                pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", text))
                assert re.fullmatch(pattern, said.decode()), f"{path.name}: {said!r} instead of {line!r}"
            case _:
                desk.elsewhere(line.removeprefix("!"))
    assert desk.said == b"", f"{path.name}: the server said {desk.said!r} in the end"
