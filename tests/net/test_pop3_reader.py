"""What a POP3 session reads ahead: every answer is the message, whatever was asked before. RFC 1939 §7."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from net.pop3_world import FakeMailboxes, World
from pillarbox.net import pop3_reader
from pillarbox.protocol.pop3.content import top
from pillarbox.store.api import Bundle

Story = Callable[[World], Coroutine[Any, Any, None]]


def messages(count: int, chance: random.Random) -> list[bytes]:
    """Some with dots, some without a body, some with a header longer than what is read of it at first."""
    made = []
    for number in range(count):
        header = b"Subject: %d\r\n" % number + b"X-Long: %s\r\n" % (b"x" * chance.choice((0, 10, 5000, 20_000)))
        body = b"".join(
            chance.choice((b"line\r\n", b".dot\r\n", b"..\r\n", b"\r\n")) for _ in range(chance.randrange(9))
        )
        made.append(header + (b"\r\n" + body if number % 7 else b""))
    return made


def play(tmp_path: Path, mailboxes: FakeMailboxes, story: Story) -> None:
    async def whole() -> None:
        async with World(tmp_path, mailboxes).serving() as world:
            await story(world)

    asyncio.run(whole())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("knows_parts", [True, False])
def test_whatever_is_asked_in_whatever_order(tmp_path: Path, seed: int, knows_parts: bool) -> None:
    chance = random.Random(seed)
    kept = messages(60, chance)
    mailboxes = FakeMailboxes(*kept)
    mailboxes.knows_parts = knows_parts

    async def story(world: World) -> None:
        client = await world.client()
        number = 0
        for _ in range(60):
            step = chance.choice((1, 1, 1, 1, 0, -3, 7))
            asked = []
            for _ in range(chance.choice((1, 1, 1, 5, 20))):
                number = (number + step) % len(kept)
                lines = chance.choice((None, 0, 0, 3))
                asked.append((number, lines))
            client.write(*[f"RETR {n + 1}" if lines is None else f"TOP {n + 1} {lines}" for n, lines in asked])
            for n, lines in asked:
                said = await client.line()
                assert said == (f"+OK {len(kept[n])} octets" if lines is None else "+OK")
                assert await client.body() == (kept[n] if lines is None else top(kept[n], lines))

    play(tmp_path, mailboxes, story)


def test_what_was_read_ahead_is_not_served_after_it_was_expunged(tmp_path: Path) -> None:
    mailboxes = FakeMailboxes(*messages(20, random.Random(1)))

    async def story(world: World) -> None:
        client = await world.client()
        for number in (1, 2, 3, 4):
            await client.ask(f"RETR {number}")
        mailboxes.expunge_elsewhere(5)
        mailboxes.expunge_elsewhere(7)
        world.signals.publish(f"account:{'0' * 26}")
        client.write("RETR 5", "RETR 6", "RETR 7", "RETR 8")
        assert (await client.line()).startswith("-ERR message expunged")
        assert await client.line() == f"+OK {len(mailboxes.messages[6])} octets"
        assert await client.body() == mailboxes.messages[6]
        assert (await client.line()).startswith("-ERR message expunged")
        assert (await client.line()).startswith("+OK")

    play(tmp_path, mailboxes, story)


def test_what_is_expunged_while_it_is_read_is_not_served(tmp_path: Path) -> None:
    """The read itself tells that the account has changed, before any signal does."""
    mailboxes = FakeMailboxes(*messages(20, random.Random(2)))
    read = mailboxes.bundle

    async def bundle(*said: Any, **more: Any) -> Bundle:
        found = await read(*said, **more)
        if mailboxes.fetches == ["9"]:
            mailboxes.expunge_elsewhere(9)
            return Bundle(mailboxes.change, found.octets, found.sizes, found.body_starts, found.dotted)
        return found

    mailboxes.bundle = bundle  # type: ignore[method-assign]

    async def story(world: World) -> None:
        client = await world.client()
        assert (await client.say("RETR 9")).startswith("-ERR message expunged")

    play(tmp_path, mailboxes, story)


def test_a_run_is_bounded(tmp_path: Path) -> None:
    """Two runs of 256 KiB at most are read for a client, however large its messages and however many it asks for."""
    mailboxes = FakeMailboxes(*[b"Subject: %d\r\n\r\n" % i + b"x" * 60_000 + b"\r\n" for i in range(40)])
    read, sizes = mailboxes.bundle, []

    async def bundle(*said: Any, **more: Any) -> Bundle:
        found = await read(*said, **more)
        sizes.append(len(found.octets))
        return found

    mailboxes.bundle = bundle  # type: ignore[method-assign]

    async def story(world: World) -> None:
        client = await world.client()
        client.write(*[f"RETR {number}" for number in range(1, 41)])
        for _ in range(40):
            await client.line()
            await client.body()

    play(tmp_path, mailboxes, story)
    assert sum(sizes) >= 40 * 60_000 and max(sizes) <= pop3_reader.RUN_OCTETS
    assert len(sizes) <= 12
