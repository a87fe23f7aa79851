"""Several sessions on one mailbox: what each client is told keeps its list of messages right. Cases 178, 179."""

from __future__ import annotations

import random
import re

import pytest

from .imap_world import Client, World, play, sample


class Mirror:
    """A client that believes every word: a list of (UID or None), changed only by EXISTS and EXPUNGE."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.uids: list[int | None] = []

    async def say(self, command: str) -> list[str]:
        lines = await self.client.command(command)
        may_expunge = command.split()[0] not in ("FETCH", "STORE", "SEARCH")
        for line in lines:
            if found := re.match(r"\* (\d+) EXISTS", line):
                assert int(found[1]) >= len(self.uids)
                self.uids += [None] * (int(found[1]) - len(self.uids))
            elif found := re.match(r"\* (\d+) EXPUNGE", line):
                assert may_expunge, command
                del self.uids[int(found[1]) - 1]
            elif found := re.match(r"\* (\d+) FETCH \(.*UID (\d+)", line):
                number, uid = int(found[1]), int(found[2])
                assert self.uids[number - 1] in (None, uid), (command, line)
                self.uids[number - 1] = uid
        known = [uid for uid in self.uids if uid]
        assert known == sorted(set(known))
        assert re.match(r"t\d+ OK", lines[-1]) or " BAD No such message" in lines[-1], (command, lines[-1])
        return lines


def step(choice: random.Random, mirror: Mirror) -> str:
    """Something that a client does."""
    count = len(mirror.uids) or 1
    number = choice.randint(1, count)
    some = f"{number}:{min(count, number + choice.randint(0, 3))}"
    known = [uid for uid in mirror.uids if uid] or [1]
    return choice.choice(
        [
            f"FETCH {some} (UID FLAGS)",
            "FETCH 1:* (UID)",
            f"STORE {some} +FLAGS (\\Deleted)",
            f"STORE {some} -FLAGS.SILENT (\\Deleted)",
            f"UID STORE {choice.choice(known)} +FLAGS (\\Flagged)",
            "EXPUNGE",
            f"UID EXPUNGE {choice.choice(known)}",
            "SEARCH DELETED",
            "UID SEARCH ALL",
            "NOOP",
            f"UID COPY {choice.choice(known)} INBOX",
            f"UID MOVE {choice.choice(known)} INBOX",
            "UID FETCH 1:* (FLAGS)",
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_case_178_mirrors_stay_right(tmp_path, seed):
    async def story(world: World) -> None:
        choice = random.Random(seed)
        await world.file(*map(sample, range(8)))
        mirrors = [Mirror(await world.connect("ada")) for _ in range(3)]
        for mirror in mirrors:
            await mirror.say("SELECT INBOX")
        for turn in range(120):
            if turn % 15 == 7:
                await world.file(sample(turn), sample(turn + 1))
            mirror = choice.choice(mirrors)
            await mirror.say(step(choice, mirror))
        truth = [uid async for uid in _uids(world)]
        for mirror in mirrors:
            await mirror.say("NOOP")
            await mirror.say("FETCH 1:* (UID)")
            assert mirror.uids == truth

    play(tmp_path, story)


async def _uids(world: World):
    account = world.accounts["ada"]
    mailbox = await world.store.mailboxes.status(account, "INBOX")
    for uid in (await world.store.mailboxes.uids(account, mailbox.id))[1].uids:
        yield uid


def test_case_179_uidvalidity_rises(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")

        async def validity(name: str) -> int:
            said = (await client.command(f"STATUS {name} (UIDVALIDITY UIDNEXT)"))[0]
            found = re.search(r"UIDVALIDITY (\d+) UIDNEXT (\d+)", said)
            assert found
            return int(found[1])

        await client.command("CREATE Work")
        first = await validity("Work")
        await client.command("DELETE Work")
        await client.command("CREATE Work")
        second = await validity("Work")
        await client.command("RENAME Work Old")
        assert await validity("Old") == second
        await client.command("CREATE Work")
        assert first < second < await validity("Work")

    play(tmp_path, story)


def test_pipelined_appends_and_idle_elsewhere(tmp_path):
    async def story(world: World) -> None:
        watcher, writer = await world.connect("ada", "INBOX"), await world.connect("ada")
        watcher.send("w IDLE\r\n")
        await watcher.line()
        message = sample(1)
        for number in range(40):
            writer.send(b"a%d APPEND INBOX {%d+}\r\n%b\r\n" % (number, len(message), message))
        for number in range(40):
            assert (await writer.line()).startswith(f"a{number} OK [APPENDUID")
        exists = 0
        while exists < 40:
            if found := re.match(r"\* (\d+) EXISTS", await watcher.line()):
                exists = int(found[1])
        watcher.send("DONE\r\n")
        assert (await watcher.until("w"))[-1].startswith("w OK")

    play(tmp_path, story)
