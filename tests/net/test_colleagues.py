"""Links between workers: what is handed over arrives whole, once, and nothing is lost silently."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from pillarbox.message.wire import wire_forms
from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import JobId, SpoolId
from pillarbox.model.mailbox import Content
from pillarbox.net import colleagues
from pillarbox.net.colleagues import Links
from pillarbox.store.api import Handed, Job, Spooled, Target

OCTETS = b"Subject: \xc3\xa9\r\n\r\nbody \x80\xff\r\n"


def handed(number: int, size: int = 0) -> Handed:
    octets = OCTETS + b"x" * size
    spool_id = SpoolId(number.to_bytes(16, "big"))
    content = Content(hashlib.sha256(octets).digest(), len(octets), octets)
    message = Spooled(
        spool_id, Envelope(None, body="8BITMIME"), content, b"Received: x\r\n", 1.5, None, "smtp", "<x>", 3
    )
    recipient = Recipient(Address("ada+x", "us.example"), "rfc822;a", frozenset({"NEVER"}))
    job = Job(JobId(b"j" * 16), spool_id, recipient, Target("local", "a"), original=Address("ä", "us.example"))
    return Handed(message, (job,), 1, wire_forms(octets, b"Received: x\r\n"))


class Side:
    """One process's links and what they did."""

    def __init__(self, run: Path, number: int, count: int = 2) -> None:
        self.taken: list[Handed] = []
        self.lost = 0
        self.full = False
        self.freed = asyncio.Event()
        self.links = Links(run, number, count, self.taken.append, lambda: self.full, self._room, self._lost)

    async def _room(self) -> None:
        await self.freed.wait()

    def _lost(self) -> None:
        self.lost += 1


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def run(tmp_path: Path, story: Callable[[Side, Side], Awaitable[None]]) -> None:
    async def whole() -> None:
        one, two = Side(tmp_path, 0), Side(tmp_path, 1)
        await one.links.start(101)
        await two.links.start(102)
        try:
            await until(lambda: holder_of(one, 102) and holder_of(two, 101))
            await story(one, two)
        finally:
            one.links.close()
            two.links.close()

    asyncio.run(whole())


def holder_of(side: Side, holder: int) -> str:
    """An account that this holder delivers for, as `side` sees it."""
    return next((name for name in "abcdefghijklmnop" if side.links.holder_for(name) == holder), "")


def test_accounts_are_shared_out_and_both_sides_agree(tmp_path: Path) -> None:
    async def story(one: Side, two: Side) -> None:
        for name in (f"account-{number}" for number in range(200)):
            assert sorted((one.links.holder_for(name), two.links.holder_for(name))) in ([0, 101], [0, 102])
        shares = [sum(1 for n in range(200) if not side.links.holder_for(f"account-{n}")) for side in (one, two)]
        assert min(shares) > 60

    run(tmp_path, story)


def test_what_is_handed_over_arrives_as_it_was(tmp_path: Path) -> None:
    async def story(one: Side, two: Side) -> None:
        many = [handed(number, size) for number, size in enumerate([0, 10, 300_000, 0, 65536])]
        for each in many:
            assert one.links.hand(102, each)
        await until(lambda: len(two.taken) == len(many))
        assert two.taken == many
        assert not one.links.hand(999, many[0])

    run(tmp_path, story)


def test_who_is_full_reads_on_when_there_is_room(tmp_path: Path) -> None:
    async def story(one: Side, two: Side) -> None:
        two.full = True
        name = holder_of(one, 102)
        for number in range(60):
            assert one.links.hand(102, handed(number, 100_000))
        await until(lambda: two.taken)
        assert one.links.holder_for(name) == 0  # so far behind that it gets nothing more
        assert len(two.taken) < 60
        two.full = False
        two.freed.set()
        await until(lambda: len(two.taken) == 60)
        assert one.links.holder_for(name) == 102
        assert [each.message.id for each in two.taken] == [handed(number).message.id for number in range(60)]

    run(tmp_path, story)


def test_the_end_of_a_link_is_told_to_both_and_a_new_process_is_found(tmp_path: Path) -> None:
    async def story(one: Side, two: Side) -> None:
        name = holder_of(one, 102)
        two.links.close()
        await until(lambda: one.lost and not one.links.holder_for(name))
        assert not one.links.hand(102, handed(1))
        again = Side(tmp_path, 1)
        await again.links.start(103)
        await until(lambda: one.links.holder_for(name) == 103)
        assert one.links.hand(103, handed(2))
        await until(lambda: again.taken)
        again.links.close()

    run(tmp_path, story)


def test_a_broken_frame_ends_the_link_and_nothing_else(tmp_path: Path) -> None:
    async def story(one: Side, two: Side) -> None:
        for octets in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "1.handover")
            assert int.from_bytes(await reader.readexactly(8), "big") == 102
            writer.write(octets)
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            writer.close()
        assert one.links.hand(102, handed(3))
        await until(lambda: two.taken)

    run(tmp_path, story)


def test_a_frame_in_single_octets(tmp_path: Path) -> None:
    async def story(one: Side, two: Side) -> None:
        frame = colleagues._encode(handed(4))
        _, writer = await asyncio.open_unix_connection(tmp_path / "1.handover")
        for octet in len(frame).to_bytes(4, "big") + frame:
            writer.write(bytes((octet,)))
            await writer.drain()
            await asyncio.sleep(0)
        await until(lambda: two.taken)
        assert two.taken == [handed(4)]
        writer.close()

    run(tmp_path, story)
