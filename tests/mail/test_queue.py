"""The queue: attempts, retries, destinations, clocks, reports. Cases 18, 20, 22 to 26, 102, 105."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail import queue
from pillarbox.mail.desk import Hop, MxHost
from pillarbox.mail.retry import is_delay_due, next_attempt_s, retry_delay_s
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import AccountUnavailable, Trouble
from pillarbox.model.ids import JobId, SpoolId, make_id
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.model.settings import Outbound, Queue, Route
from pillarbox.model.status import Status
from pillarbox.store.api import Job, Spooled, Target

from .world import MESSAGE, SETTINGS, World, address

GREYLISTED = Deferred(Status(4, 7, 1), "try later", "mx.away.example")
NO_ANSWER = Deferred(Status(4, 4, 1), "no answer")
UNKNOWN = Failed(Status(5, 1, 1), "no such user", "mx.away.example")
DAY_S = 86400.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def away_world(settings: Any = SETTINGS) -> World:
    """A world with a few domains to send to."""
    world = await World(settings).furnish()
    for i, name in enumerate(("away.example", "other.example", "dead.example")):
        world.resolver.mxs[name] = [MxHost(10, f"mx.{name}"), MxHost(20, f"mx2.{name}")]
        world.resolver.hosts[f"mx.{name}"] = [f"8.8.{i}.1"]
        world.resolver.hosts[f"mx2.{name}"] = [f"8.8.{i}.2"]
    return world


async def post(world: World, sender: str, *recipients: str | Recipient, **fields: Any) -> list[JobId]:
    """Put a message into the spool, as intake does."""
    now_s = world.clock.now()
    writer = world.store.blobs.writer()
    writer.write(MESSAGE)
    envelope = Envelope(address(sender) if sender else None, **fields)
    message = Spooled(
        SpoolId(make_id(now_s, world.random)), envelope, await writer.finish(), b"Received: by us\r\n", now_s
    )
    jobs = []
    for recipient in recipients:
        if isinstance(recipient, str):
            recipient = Recipient(address(recipient))
        domain = recipient.address.domain
        target = Target("local", recipient.address.local) if domain == "us.example" else Target("remote", domain)
        expires_s = now_s + world.settings.queue.lifetime_s
        jobs.append(
            Job(
                JobId(make_id(now_s, world.random)),
                message.id,
                recipient,
                target,
                queued_s=now_s,
                next_s=now_s,
                expires_s=expires_s,
            )
        )
    await world.store.spool.accept(message, jobs)
    return [job.id for job in jobs]


async def turn(world: World, mover: Any) -> None:
    """One step, and all that it started."""
    await mover.step()
    await mover.settled()


async def pass_time(world: World, mover: Any, seconds: float) -> int:
    """Let the queue work for a while, each job at its time; returns the steps that took."""
    until_s = world.clock.now() + seconds
    steps = 0
    while True:
        await turn(world, mover)
        steps += 1
        due_s = await world.store.spool.next_due()
        if due_s is None or due_s > until_s:
            world.clock.advance(max(until_s - world.clock.now(), 0))
            return steps
        world.clock.advance(max(due_s - world.clock.now(), 0.001))


def test_mail_for_one_host_goes_in_one_transaction():
    async def scenario():
        world = await away_world()
        mover = world.mover()
        await post(world, "ada@us.example", *(f"u{i}@away.example" for i in range(150)), "x@other.example")
        await turn(world, mover)
        sizes = sorted((sent.hop.host, len(sent.recipients)) for sent in world.wire.sent)
        assert sizes == [("mx.away.example", 50), ("mx.away.example", 100), ("mx.other.example", 1)]
        assert world.wire.sent[0].octets == b"Received: by us\r\n" + MESSAGE
        assert world.store.spool.rows == {}
        await mover.stop()
        assert world.wire.closed

    run(scenario())


def test_outcomes_are_each_recipient_s_own():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: {"a": Delivered(), "b": GREYLISTED, "c": UNKNOWN}[rcpt[0]]
        mover = world.mover()
        _, later, bad = await post(world, "ada@us.example", "a@away.example", "b@away.example", "c@away.example")
        await turn(world, mover)
        await turn(world, mover)
        assert world.store.spool.ended[bad] == UNKNOWN
        assert world.store.spool.rows[later].job.attempts == 1
        [report] = world.inbox("ada")
        assert b"c@away.example" in report and b"b@away.example" not in report

    run(scenario())


def test_the_next_host_is_tried_when_one_does_not_answer():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: NO_ANSWER if hop.host.startswith("mx.") else Delivered(remote=hop.host)
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "a@away.example")
        await turn(world, mover)
        assert [hop.host for hop in world.wire.tried] == ["mx.away.example", "mx2.away.example"]
        assert world.store.spool.ended[job] == Delivered(remote="mx2.away.example")

    run(scenario())


def test_case_018_no_reply_after_the_final_dot_is_tried_again():
    async def scenario():
        world = await away_world()
        lost = Deferred(Status(4, 4, 2), "connection lost", "mx.away.example", unknown=True)
        answers = iter([lost, Delivered()])
        world.wire.answer = lambda hop, rcpt: next(answers)
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "a@away.example")
        await pass_time(world, mover, 3600)
        assert isinstance(world.store.spool.ended[job], Delivered)

    run(scenario())


@given(attempts=st.integers(1, 200), chance=st.floats(0, 1, exclude_max=True))
def test_case_023_delays_double_with_jitter_and_stay_under_four_hours(attempts, chance):
    delay_s = retry_delay_s(attempts, Queue(), chance)
    nominal_s = min(300.0 * 2 ** min(attempts - 1, 30), 4 * 3600.0)
    assert 0.9 * nominal_s <= delay_s <= min(1.1 * nominal_s, 4 * 3600.0)


@given(
    attempts=st.integers(1, 50),
    now_s=st.floats(0, 2e9),
    left_s=st.floats(-1e6, 1e6),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_the_last_attempt_comes_soon_after_the_lifetime(attempts, now_s, left_s, chance):
    due_s = next_attempt_s(now_s, attempts, now_s + left_s, Queue(), chance)
    assert now_s + 59 <= due_s <= now_s + 4 * 3600 + 1
    if left_s > 60:
        assert due_s <= now_s + left_s + 2


def test_case_023_greylisting_is_retried_on_schedule_and_no_notice_before_four_hours():
    async def scenario():
        world = await away_world()
        tried: list[float] = []
        start_s = world.clock.now()

        def answer(hop: Hop, rcpt: str) -> Outcome:
            tried.append(world.clock.now() - start_s)
            return GREYLISTED

        world.wire.answer = answer
        mover = world.mover()
        await post(world, "ada@us.example", "a@away.example")
        await pass_time(world, mover, 3.9 * 3600)
        assert world.inbox("ada") == []
        gaps = [b - a for a, b in itertools.pairwise(tried)]
        assert all(abs(gap - 300 * 2**i) <= 30 * 2**i + 1 for i, gap in enumerate(gaps)) and len(gaps) >= 4
        await pass_time(world, mover, DAY_S)
        [notice] = world.inbox("ada")
        assert b"Action: delayed" in notice and b"Your message is delayed" in notice
        assert max(b - a for a, b in itertools.pairwise(tried)) <= 4 * 3600 + 1

    run(scenario())


def test_case_024_after_five_days_one_report_and_the_end():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: GREYLISTED
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "a@away.example")
        [silent] = await post(world, "", "b@away.example")
        await pass_time(world, mover, 5 * DAY_S - 60)
        assert job in world.store.spool.rows
        await pass_time(world, mover, 3600)
        await turn(world, mover)
        assert world.store.spool.rows == {}
        for ended in (job, silent):
            outcome = world.store.spool.ended[ended]
            assert isinstance(outcome, Failed) and outcome.status == (5, 4, 7)
        delayed, failed = world.inbox("ada")
        assert b"Action: delayed" in delayed
        assert b"Action: failed" in failed and b"Status: 5.4.7" in failed and b"4.7.1 try later" in failed
        assert world.metrics.counts["double_bounces"] == 1

    run(scenario())


def test_case_020_a_clock_that_jumps_returns_nothing_untried():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: GREYLISTED
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "a@away.example")
        await turn(world, mover)
        world.clock.jump(6 * DAY_S)
        tries = len(world.wire.tried)
        world.wire.answer = lambda hop, rcpt: Delivered()
        await turn(world, mover)
        assert len(world.wire.tried) == tries + 1
        assert isinstance(world.store.spool.ended[job], Delivered)
        world.wire.answer = lambda hop, rcpt: GREYLISTED
        [job] = await post(world, "ada@us.example", "a@away.example")
        await turn(world, mover)
        world.clock.jump(-DAY_S)
        world.wire.answer = lambda hop, rcpt: Delivered()
        await turn(world, mover)
        assert isinstance(world.store.spool.ended[job], Delivered)

    run(scenario())


def test_case_022_a_dead_host_gets_one_probe_and_others_go_on():
    async def scenario():
        world = await away_world(replace(SETTINGS, queue=Queue(per_destination=5)))
        world.resolver.mxs["dead.example"] = [MxHost(10, "mx.dead.example")]
        at_once: Counter[str] = Counter()
        most: Counter[str] = Counter()
        real = world.wire.send

        async def send(hop: Hop, parcel: Any) -> list[Outcome]:
            at_once[hop.host] += 1
            most[hop.host] = max(most[hop.host], at_once[hop.host])
            await asyncio.sleep(0)
            at_once[hop.host] -= 1
            return await real(hop, parcel)

        world.wire.send = send  # type: ignore[method-assign]
        world.wire.answer = lambda hop, rcpt: NO_ANSWER if "dead" in hop.host else Delivered(remote=hop.host)
        mover = world.mover()
        for _ in range(400):
            await post(world, "", "x@dead.example")
        for _ in range(20):
            await post(world, "", "x@away.example")
        for _ in range(12):
            await turn(world, mover)
        tried = Counter(hop.host for hop in world.wire.tried)
        assert tried["mx.away.example"] == 20
        assert tried["mx.dead.example"] <= 10
        assert most["mx.dead.example"] <= 5
        rows = list(world.store.spool.rows.values())
        assert len(rows) == 400 and all(row.job.attempts == 1 and not row.leased for row in rows)
        world.wire.tried.clear()
        most.clear()
        world.clock.advance(400)
        await turn(world, mover)
        assert len(world.wire.tried) == 1  # the probe
        assert most["mx.dead.example"] == 1
        world.clock.advance(1300)
        world.wire.answer = lambda hop, rcpt: Delivered(remote=hop.host)
        for _ in range(12):
            await turn(world, mover)
        assert len(world.store.spool.rows) == 0

    run(scenario())


def test_a_small_destination_does_not_wait_for_big_ones():
    async def scenario():
        world = await away_world(replace(SETTINGS, queue=Queue(per_destination=2, concurrency=4)))
        order: list[str] = []

        async def send(hop: Hop, parcel: Any) -> list[Outcome]:
            order.append(hop.host)
            await asyncio.sleep(0)
            return [Delivered()]

        world.wire.send = send  # type: ignore[method-assign]
        mover = world.mover()
        for _ in range(20):
            await post(world, "", "x@away.example")
            await post(world, "", "x@other.example")
        await post(world, "", "x@dead.example")
        for _ in range(20):
            await turn(world, mover)
        assert len(order) == 41
        assert order.index("mx.dead.example") < 10

    run(scenario())


def test_suspended_mail_expires_only_after_a_real_attempt():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: NO_ANSWER
        mover = world.mover()
        for _ in range(50):
            await post(world, "ada@us.example", "x@dead.example")
        await pass_time(world, mover, 5 * DAY_S + 8 * 3600)
        await turn(world, mover)
        assert world.store.spool.rows == {}
        failed = [email for email in world.inbox("ada") if b"Action: failed" in email]
        assert len(failed) == 50

    run(scenario())


@pytest.mark.parametrize(
    ("domain", "status"),
    [("null.example", "5.1.10"), ("nosuch.example", "5.1.2"), ("inside.example", "5.4.4"), ("self.example", "5.4.6")],
)
def test_cases_102_and_103_domains_that_take_no_mail(domain, status):
    async def scenario():
        world = await away_world()
        world.resolver.mxs["null.example"] = [MxHost(0, "")]
        world.resolver.hosts["inside.example"] = ["127.0.0.1"]
        world.resolver.mxs["self.example"] = [MxHost(0, "mx.us.example")]
        mover = world.mover()
        [job] = await post(world, "ada@us.example", f"x@{domain}")
        await turn(world, mover)
        assert str(world.store.spool.ended[job].status) == status
        assert world.wire.tried == []

    run(scenario())


def test_case_105_dns_that_does_not_answer_defers():
    async def scenario():
        world = await away_world()
        world.resolver.broken.add("dark.example")
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "x@dark.example")
        await turn(world, mover)
        assert world.store.spool.rows[job].job.attempts == 1

    run(scenario())


def test_a_changed_route_holds_for_what_is_queued():
    async def scenario():
        world = await away_world()
        await post(world, "ada@us.example", "x@away.example", "y@other.example")
        world.change(outbound=Outbound(routes=(Route("*", "10.0.0.25", 2525),)))
        mover = world.mover()
        await turn(world, mover)
        [sent] = world.wire.sent
        assert (sent.hop.address, sent.hop.port, len(sent.recipients)) == ("10.0.0.25", 2525, 2)

    run(scenario())


def test_local_jobs_of_a_process_that_died_are_delivered_once():
    async def scenario():
        world = await away_world()
        mover = world.mover()
        await post(world, "carl@away.example", "ada@us.example", "bob@us.example")
        await world.store.spool.claim(10, world.clock.now())
        await turn(world, mover)
        assert world.inbox("ada") == []
        world.store.spool.lose_leases()
        await turn(world, mover)
        assert len(world.inbox("ada")) == len(world.inbox("bob")) == 1
        assert world.inbox("ada")[0].startswith(b"Return-Path: <carl@away.example>\r\nDelivered-To: ada@us.example\r\n")

    run(scenario())


def test_case_026_an_outcome_under_a_lost_lease_counts_for_nothing():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: UNKNOWN
        mover = world.mover()
        jobs = await post(world, "ada@us.example", "x@away.example", "y@away.example")
        await mover.step()
        world.store.spool.rows[jobs[0]].token += 1
        await mover.settled()
        assert jobs[0] in world.store.spool.rows and jobs[1] not in world.store.spool.rows
        [(_, report_jobs)] = world.store.spool.reports
        assert len(report_jobs) == 1
        assert ("warning", "lease lost") in [line[:2] for line in world.log.lines]

    run(scenario())


def test_an_account_in_trouble_waits_and_others_do_not():
    async def scenario():
        world = await away_world()
        world.store.mailboxes.trouble = lambda name, _: AccountUnavailable("damaged") if name == "ada" else None
        mover = world.mover()
        [ada, _] = await post(world, "carl@away.example", "ada@us.example", "bob@us.example")
        await turn(world, mover)
        assert len(world.inbox("bob")) == 1
        assert world.store.spool.rows[ada].job.attempts == 1
        world.store.mailboxes.trouble = lambda name, _: None
        await pass_time(world, mover, 3600)
        assert len(world.inbox("ada")) == 1

    run(scenario())


def test_one_bad_message_in_a_batch_does_not_stop_the_others():
    async def scenario():
        world = await away_world()
        mover = world.mover()
        [bad] = await post(world, "carl@away.example", "ada@us.example")
        for _ in range(5):
            await post(world, "carl@away.example", "ada@us.example")
        world.store.mailboxes.trouble = lambda name, deliveries: (
            ValueError("bug") if any(delivery.job == bad for delivery in deliveries) else None
        )
        await turn(world, mover)
        assert len(world.inbox("ada")) == 5 and bad in world.store.spool.rows

    run(scenario())


def test_when_the_spool_fails_outcomes_are_kept_until_it_does_not():
    async def scenario():
        world = await away_world()
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        mover = world.mover(sleep=sleep)
        world.store.spool.trouble = [Trouble("disk"), Trouble("disk")]
        [job] = await post(world, "ada@us.example", "x@away.example")
        await turn(world, mover)
        assert waits == [1.0, 2.0] and isinstance(world.store.spool.ended[job], Delivered)

    run(scenario())


def test_a_wire_that_breaks_is_our_trouble():
    async def scenario():
        world = await away_world()

        async def send(hop: Hop, parcel: Any) -> list[Outcome]:
            raise RuntimeError("bug")

        world.wire.send = send  # type: ignore[method-assign]
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "x@away.example")
        await turn(world, mover)
        assert world.store.spool.rows[job].job.attempts == 1 and "sending failed" in world.log.events("error")

    run(scenario())


def test_run_works_when_woken_and_stops():
    async def scenario():
        world = await away_world()
        mover = world.mover()
        running = asyncio.create_task(mover.run())
        await asyncio.sleep(0)
        [job] = await post(world, "ada@us.example", "x@away.example")
        world.signals.publish("spool")
        while job not in world.store.spool.ended:
            await asyncio.sleep(0)
        await mover.stop()
        await asyncio.wait_for(running, 10)

    run(scenario())


def test_stopping_gives_back_what_was_not_done():
    async def scenario():
        world = await away_world(replace(SETTINGS, queue=Queue(per_destination=1)))
        begun = asyncio.Event()

        async def send(hop: Hop, parcel: Any) -> list[Outcome]:
            begun.set()
            await asyncio.sleep(0)
            return [Delivered()]

        world.wire.send = send  # type: ignore[method-assign]
        mover = world.mover()
        for _ in range(3):
            await post(world, "", "x@away.example")
        await mover.step()
        await begun.wait()
        await mover.stop()
        rows = list(world.store.spool.rows.values())
        assert len(rows) == 2
        assert all(not row.leased and row.job.next_s == world.clock.now() for row in rows)
        await turn(world, world.mover())
        assert world.store.spool.rows == {}

    run(scenario())


def test_a_transaction_that_hangs_is_given_back_at_the_end(monkeypatch):
    async def scenario():
        world = await away_world()

        async def send(hop: Hop, parcel: Any) -> list[Outcome]:
            await asyncio.Event().wait()
            raise AssertionError

        world.wire.send = send  # type: ignore[method-assign]
        mover = world.mover()
        [job] = await post(world, "", "x@away.example")
        await mover.step()
        await asyncio.sleep(0)
        monkeypatch.setattr(queue, "STOP_S", 0.01)
        await mover.stop()
        assert not world.store.spool.rows[job].leased

    run(scenario())


def test_delay_notices_are_due_once():
    assert not is_delay_due(4 * 3600 - 1, 0, False, Queue())
    assert is_delay_due(4 * 3600, 0, False, Queue())
    assert not is_delay_due(4 * 3600, 0, True, Queue())
    assert not is_delay_due(1e9, 0, False, Queue(delay_notice_s=0))
