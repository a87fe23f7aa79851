"""The queue under a seeded world of refusals, delays, silence, lost leases, failing commits and clocks that jump.

Invariant: every recipient ends delivered, returned or held; a report goes exactly where one is due; retries keep their
schedule. The same seed tells the same story.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pytest

from pillarbox.mail.desk import Hop, MxHost
from pillarbox.model.address import Address
from pillarbox.model.envelope import Recipient
from pillarbox.model.errors import AccountUnavailable, Trouble
from pillarbox.model.ids import JobId
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.model.settings import Queue
from pillarbox.model.status import Status
from pillarbox.store.api import Selection

from .test_queue import away_world, post
from .world import SETTINGS, World

DOMAINS = 40
MESSAGES = 250
DAY_S = 86400.0


@dataclass
class Story:
    """What the world decided for each recipient, and what it saw."""

    chance: random.Random
    fates: dict[str, str] = field(default_factory=dict)
    """By local part: ok, later (a few 4yz), never (5yz), silent (its host is dead), lost (once no reply), grey."""
    tries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[str, str] = field(default_factory=dict)

    def answer(self, world: World, hop: Hop, recipient: str) -> Outcome:
        name = recipient.partition("@")[0]
        tries = self.tries[name]
        tries.append(world.clock.now())
        match self.fates.get(name, "ok"):
            case "later" if len(tries) <= 3:
                return Deferred(Status(4, 2, 1), "busy", hop.host)
            case "grey":
                return Deferred(Status(4, 7, 1), "come back", hop.host)
            case "lost" if len(tries) == 1:
                return Deferred(Status(4, 4, 2), "connection lost", hop.host, unknown=True)
            case "never":
                return Failed(Status(5, 1, 1), "no such user", hop.host)
            case "silent":
                return Deferred(Status(4, 4, 1), "no answer", hop.host)
            case _:
                return Delivered(remote=hop.host)


async def play(seed: int) -> tuple[World, Story, dict[JobId, tuple[str, str]]]:
    """Run the world to its end; what was posted, as job → (local part, sender)."""
    chance = random.Random(seed)
    world = await away_world(replace(SETTINGS, queue=Queue(per_destination=4, concurrency=20)))
    story = Story(chance)
    for number in range(DOMAINS):
        host = f"mx.d{number}.example"
        world.resolver.mxs[f"d{number}.example"] = [MxHost(10, host)]
        world.resolver.hosts[host] = [f"8.9.{number}.1"]
    world.wire.answer = lambda hop, recipient: story.answer(world, hop, recipient)
    world.store.mailboxes.trouble = lambda account, _: (
        AccountUnavailable("busy") if account == "bob" and chance.random() < 0.3 else None
    )
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    mover = world.mover(sleep=sleep)
    posted: dict[JobId, tuple[str, str]] = {}
    for number in range(MESSAGES):
        sender = chance.choice(["ada@us.example", "ada@us.example", "", "carl@d0.example"])
        recipients: list[str | Recipient] = []
        for index in range(chance.choice([1, 1, 2, 5, 30])):
            domain = chance.randrange(DOMAINS)
            fate = "silent" if domain < 4 else chance.choice(["ok"] * 7 + ["later", "never", "lost"] * 2 + ["grey"])
            name = f"m{number}r{index}"
            story.fates[name] = fate
            recipients.append(Recipient(Address(name, f"d{domain}.example")))
        if chance.random() < 0.2:
            recipients.append("bob@us.example")
        for job, recipient in zip(await post(world, sender, *recipients), recipients, strict=True):
            name = "bob" if isinstance(recipient, str) else recipient.address.local
            posted[job] = (name, sender)
        if chance.random() < 0.3:
            await mover.step()
    held = [job for job, (name, _) in posted.items() if name == "m3r0"]
    for job in held:
        row = world.store.spool.rows.get(job)
        if row is not None and not row.leased:
            row.job = replace(row.job, state="held")
    await run_out(world, mover, chance)
    return world, story, posted


async def run_out(world: World, mover: object, chance: random.Random) -> None:
    """Let time pass, with its accidents, until nothing waits."""
    spool = world.store.spool
    for _ in range(20_000):
        event = chance.random()
        if event < 0.02:
            world.clock.jump(chance.choice([-DAY_S, DAY_S, -3600.0, 3600.0]))
        elif event < 0.05:
            spool.trouble.append(Trouble("disk"))
        await mover.step()  # type: ignore[attr-defined]
        if event > 0.98:
            spool.lose_leases()
        await mover.settled()  # type: ignore[attr-defined]
        due_s = await spool.next_due()
        if due_s is None:
            return
        # Time goes to where a good many jobs are due, so that the story is short.
        world.clock.advance(max(due_s - world.clock.now(), 0) + 1800.0)
    raise AssertionError("the queue never ended")


@lru_cache(maxsize=4)
def played(seed: int) -> tuple[World, Story, dict[JobId, tuple[str, str]]]:
    return asyncio.run(play(seed))


@pytest.mark.parametrize("seed", [1, 2])
def test_every_recipient_comes_to_its_end(seed):
    world, story, posted = played(seed)
    spool = world.store.spool
    ends: Counter[str] = Counter()
    for job, (name, _) in posted.items():
        if job in spool.rows:
            assert spool.rows[job].job.state == "held"
            ends["held"] += 1
            continue
        outcome = spool.ended[job]
        fate = story.fates.get(name, "local")
        ends[fate] += 1
        if fate in ("ok", "later", "lost", "local"):
            # A clock that jumps by days may end a patient one early, but never untried.
            assert isinstance(outcome, Delivered) or outcome.status == (5, 4, 7)
        elif fate == "never":
            assert isinstance(outcome, Failed) and outcome.status in ((5, 1, 1), (5, 4, 7))
        else:
            assert isinstance(outcome, Failed) and outcome.status == (5, 4, 7)
            assert fate == "silent" or story.tries[name]
    assert len(posted) > 1000 and ends["ok"] > 200 and ends["silent"] > 50
    bob = [job for job, (name, _) in posted.items() if name == "bob"]
    filed = Counter(email.job for email in world.store.mailboxes.filed["bob"])
    assert all(filed[job] <= 1 for job in bob)


@pytest.mark.parametrize("seed", [1, 2])
def test_reports_go_exactly_where_they_are_due(seed):
    world, _, posted = played(seed)
    spool = world.store.spool
    expected: Counter[str] = Counter()
    for job, (name, sender) in posted.items():
        if isinstance(spool.ended.get(job), Failed) and sender:
            expected[name] += 1
    told: Counter[str] = Counter()
    for report, jobs in spool.reports:
        assert report.envelope.reverse_path is None and len(jobs) == 1
        data = report.content.data or b""
        if b"Action: failed" in data:
            for line in data.split(b"\r\n"):
                if line.startswith(b"Final-Recipient: rfc822; "):
                    told[line.partition(b"; ")[2].partition(b"@")[0].decode()] += 1
        else:
            assert str(jobs[0].recipient.address) == "ada@us.example"  # delays are told to our own only
    assert told == expected


def test_the_same_seed_tells_the_same_story():
    first, second = played(1), asyncio.run(play(1))
    assert first[1].tries == second[1].tries
    assert first[0].store.spool.ended == second[0].store.spool.ended


def test_nothing_is_tried_more_often_than_the_schedule_allows():
    async def scenario() -> None:
        world = await away_world()
        tries: dict[str, list[float]] = defaultdict(list)

        def answer(hop: Hop, recipient: str) -> Outcome:
            tries[recipient].append(world.clock.now())
            return Deferred(Status(4, 2, 1), "busy", hop.host)

        world.wire.answer = answer
        mover = world.mover()
        for number in range(40):
            await post(world, "", f"u{number}@away.example")
        await world.store.spool.retry(Selection(), world.clock.now())
        for _ in range(3000):
            await mover.step()
            await mover.settled()
            due_s = await world.store.spool.next_due()
            if due_s is None:
                break
            world.clock.advance(max(due_s - world.clock.now(), 0))
        assert len(tries) == 40 and world.store.spool.rows == {}
        for times in tries.values():
            gaps = [b - a for a, b in itertools.pairwise(times)]
            for index, gap_s in enumerate(gaps[:-1]):
                nominal_s = min(300 * 2.0**index, 4 * 3600.0)
                assert 0.9 * nominal_s - 1 <= gap_s <= min(1.1 * nominal_s, 4 * 3600.0) + 1
            assert times[-1] - times[0] >= 5 * DAY_S

    asyncio.run(scenario())
