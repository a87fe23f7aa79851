"""The spool: what was accepted is there, each job has one claimant, delivery is exactly once. docs/queue-states.md."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from pillarbox.model.address import Address
from pillarbox.model.errors import LeaseLost, NotFound
from pillarbox.model.outcome import Deferred, Delivered, Failed
from pillarbox.model.status import Status
from pillarbox.model.uids import ALL
from pillarbox.store.api import Claim, Selection, Settlement, Store, Target, TraceEvent

from .engines import Engine

REMOTE = Target("remote", "elsewhere.test")
LOCAL = Target("local", "someone")
LATER = Deferred(Status(4, 2, 0), "try later", "mx.elsewhere.test")


def done(claim: Claim) -> Settlement:
    return Settlement(claim.job.id, claim.token, Delivered())


def test_what_was_accepted_comes_out_as_it_went_in(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message(b"Subject: hello\r\n\r\nworld\r\n", prefix=b"Received: x\r\n", origin="smtp 192.0.2.1")
        job = engine.job(message, REMOTE, original=Address("list", "pillarbox.test"))
        assert await store.spool.accept(message, [job]) == []
        async with engine.opened() as other:
            [claim] = await other.spool.claim(10, engine.clock.now())
            assert claim.job == job
            assert claim.message == message
            assert await other.spool.settle([done(claim)]) == []
        assert (await store.spool.counts())["messages"] == 0
        with pytest.raises(NotFound):
            await store.spool.content(message.id)

    engine.run(story)


def test_accept_with_claim_leases_local_jobs_to_this_process(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        local, remote = engine.job(message, LOCAL), engine.job(message, REMOTE)
        [claim] = await store.spool.accept(message, [local, remote], claim=2)
        assert claim.job == local and claim.message == message
        async with engine.opened() as other:
            [theirs] = await other.spool.claim(10, engine.clock.now())
            assert theirs.job == remote
            await other.spool.settle([done(theirs)])
        await store.spool.settle([done(claim)])
        assert (await store.spool.counts()) == {"queued": 0, "held": 0, "leased": 0, "messages": 0, "octets": 0}

    engine.run(story)


def test_two_runners_never_share_a_job_case_026(engine: Engine) -> None:
    async def story(store: Store) -> None:
        for _ in range(40):
            message = engine.message()
            await store.spool.accept(message, [engine.job(message, REMOTE)])
        async with engine.opened() as other:
            now_s = engine.clock.now()
            batches = await asyncio.gather(*((store, other)[i % 2].spool.claim(5, now_s) for i in range(12)))
        jobs = [claim.job.id for batch in batches for claim in batch]
        assert len(jobs) == len(set(jobs)) == 40

    engine.run(story)


def test_jobs_of_a_dead_process_are_free_at_once_case_026(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        async with engine.opened() as other:
            [held] = await other.spool.accept(message, [engine.job(message, LOCAL)], claim=1)
            assert await store.spool.claim(10, engine.clock.now()) == []
        [claim] = await store.spool.claim(10, engine.clock.now())
        assert claim.job.id == held.job.id and claim.token > held.token

    engine.run(story)


def test_a_lease_that_is_not_renewed_is_lost(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        async with engine.opened() as other:
            [held] = await other.spool.accept(message, [engine.job(message, LOCAL)], claim=1)
            engine.clock.advance(40)
            await other.spool.renew(engine.clock.now())
            engine.clock.advance(40)
            assert await store.spool.claim(10, engine.clock.now()) == []
            engine.clock.jump(86400)  # the wall clock ends no lease (case 20)
            assert await store.spool.claim(10, engine.clock.now()) == []
            engine.clock.advance(21)
            [claim] = await store.spool.claim(10, engine.clock.now())
            assert await other.spool.settle([done(held)]) == [held.job.id]
            report = engine.message(b"Subject: report\r\n\r\n")
            with pytest.raises(LeaseLost):
                await other.spool.settle([done(held)], reports=[(report, [engine.job(report, REMOTE)])])
            assert (await store.spool.counts())["messages"] == 1
            assert await store.spool.settle([done(claim)]) == []

    engine.run(story)


def test_deferred_jobs_come_back_when_they_are_due(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        await store.spool.accept(message, [engine.job(message, REMOTE)])
        now_s = engine.clock.now()
        [claim] = await store.spool.claim(10, now_s)
        assert await store.spool.next_due() is None
        await store.spool.settle([Settlement(claim.job.id, claim.token, LATER, now_s + 300, delay_reported=True)])
        assert await store.spool.next_due() == now_s + 300
        assert await store.spool.claim(10, now_s + 299) == []
        [again] = await store.spool.claim(10, now_s + 300)
        assert (again.job.attempts, again.job.delay_reported) == (1, True)
        assert again.job.last == "4.2.0 try later (mx.elsewhere.test)"
        assert await store.spool.settle([done(claim)]) == [claim.job.id]

    engine.run(story)


def test_claims_are_fair_between_targets(engine: Engine) -> None:
    async def story(store: Store) -> None:
        for target in ["busy.test"] * 30 + ["a.test", "b.test"]:
            message = engine.message()
            await store.spool.accept(message, [engine.job(message, Target("remote", target))])
        now_s = engine.clock.now()
        first = await store.spool.claim(6, now_s)
        assert sorted(claim.job.target.name for claim in first) == ["a.test", "b.test"] + ["busy.test"] * 4
        assert await store.spool.claim(6, now_s, [Target("remote", "busy.test")]) == []
        assert len(await store.spool.claim(100, now_s)) == 26

    engine.run(story)


def test_a_failure_and_its_report_are_one_commit(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        await store.spool.accept(message, [engine.job(message, REMOTE)])
        [claim] = await store.spool.claim(1, engine.clock.now())
        report = engine.message(b"Subject: it failed\r\n\r\n")
        settled = [Settlement(claim.job.id, claim.token, Failed(Status(5, 1, 1), "unknown"))]
        await store.spool.settle(settled, reports=[(report, [engine.job(report, LOCAL)])])
        [(job, found)] = await store.spool.peek(Selection())
        assert found.id == report.id and job.target == LOCAL and found.content.data is None
        assert await store.spool.content(report.id) == report.content

    engine.run(story)


def test_what_operators_do(engine: Engine) -> None:
    async def story(store: Store) -> None:
        now_s = engine.clock.now()
        for i in range(4):
            message = engine.message()
            target = Target("remote", f"d{i}.test")
            await store.spool.accept(message, [engine.job(message, target, next_s=now_s + 100 * i)])
        one = Selection(domain="d1.test")
        assert await store.spool.hold(one) == 1
        assert await store.spool.retry(Selection(), now_s) == 3
        assert [c.job.target.name for c in await store.spool.claim(10, now_s)] == ["d0.test", "d2.test", "d3.test"]
        assert (await store.spool.counts())["held"] == 1
        [(held, _)] = await store.spool.peek(Selection(state="held"))
        assert held.recipient.address.domain == "d1.test"
        assert len(await store.spool.peek(Selection(state="leased", limit=2))) == 2
        assert await store.spool.release(one, now_s) == 1
        [claim] = await store.spool.claim(10, now_s)
        assert await store.spool.drop(Selection(recipient="BOB@d1.test"), now_s) == 1
        assert await store.spool.settle([done(claim)]) == [claim.job.id]
        assert (await store.spool.counts())["messages"] == 3
        assert await store.spool.drop(Selection(sender="eve@elsewhere.test"), now_s) == 3
        assert await store.verify() == []

    engine.run(story)


def test_trace(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message, other = engine.message(), engine.message()

        def event(name: str, to: str = "", spooled: bytes = message.id, **fields: str) -> TraceEvent:
            return TraceEvent(engine.clock.now(), spooled, name, to, "m@x", "eve@elsewhere.test", dict(fields))  # type: ignore[arg-type]

        await store.spool.accept(message, [engine.job(message, LOCAL)], [event("received", peer="192.0.2.1")])
        engine.clock.advance(1)
        await store.spool.accept(
            other,
            [engine.job(other, LOCAL)],
            [TraceEvent(engine.clock.now(), other.id, "received", "bob@x", "n@x", "dan@x")],
        )
        await store.spool.settle([], [event("delivered", "Ada@pillarbox.test", original="Info@pillarbox.test")])
        for text in (message.id.hex(), "m@x", "EVE@elsewhere.test", "ada@pillarbox.test", "info@pillarbox.test"):
            found = await store.spool.trace(text)
            assert [e.event for e in found] == ["received", "delivered"]
        assert found[0].fields == {"peer": "192.0.2.1"}
        assert await store.spool.trace("nobody@x") == []
        await store.spool.sweep(engine.clock.now() - 0.5 + 86400, 1)
        assert [e.event for e in await store.spool.trace("m@x")] == ["delivered"]
        await store.spool.sweep(engine.clock.now() + 86400 * 9, 1)
        assert await store.spool.trace("m@x") == []

    engine.run(story)


def test_delivery_is_exactly_once(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        message = engine.message()
        job = engine.job(message, Target("local", account))
        [claim] = await store.spool.accept(message, [job], claim=1)
        [filed] = await store.mailboxes.deliver(account, [engine.delivery(job, message, "no such mailbox")])
        assert filed is not None and filed.uid == 1
        inbox = await store.mailboxes.status(account, "INBOX")
        await store.mailboxes.expunge(account, inbox.id, ALL, False)
        assert await store.mailboxes.deliver(account, [engine.delivery(job, message)]) == [None]
        await store.spool.settle([done(claim)])
        assert (await store.mailboxes.status(account, "INBOX")).messages == 0

    engine.run(story)


def test_many_at_once_share_commits(engine: Engine) -> None:
    async def story(store: Store) -> None:
        accounts = [engine.account_id() for _ in range(3)]
        for account in accounts:
            await store.mailboxes.create_account(account)

        async def one(i: int) -> int:
            message = engine.message(b"Subject: %d\r\n\r\n" % i)
            jobs = [engine.job(message, Target("local", account)) for account in accounts]
            claims = await store.spool.accept(message, jobs, claim=len(jobs))
            for claim in claims:
                account = claim.job.target.name
                [filed] = await store.mailboxes.deliver(account, [engine.delivery(claim.job, message)])
                assert filed is not None
            await store.spool.settle([done(claim) for claim in claims])
            return filed.uid

        uids = await asyncio.gather(*(one(i) for i in range(60)))
        assert sorted(uids) == list(range(1, 61))
        assert (await store.spool.counts())["messages"] == 0
        assert await store.verify() == []

    engine.run(story)


def test_a_cancelled_accept_does_not_keep_its_jobs(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        task = asyncio.ensure_future(store.spool.accept(message, [engine.job(message, LOCAL)], claim=1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(200):  # it may have been accepted or not; nobody keeps it
            if not (await store.spool.counts())["leased"]:
                break
        assert (await store.spool.counts())["leased"] == 0

    engine.run(story)


def test_large_queues_are_claimed_in_small_steps_case_021(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        jobs = [engine.job(message, Target("remote", f"d{i % 500}.test")) for i in range(5000)]
        await store.spool.accept(message, jobs)
        busy = [Target("remote", f"d{i}.test") for i in range(400)]
        claims = await store.spool.claim(100, engine.clock.now(), busy)
        assert len({claim.job.target.name for claim in claims}) == 100
        assert all(claim.message == dataclasses.replace(message) for claim in claims)

    engine.run(story)


def test_a_job_may_be_leased_to_a_colleague_who_is_handed_it(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        ours, theirs = engine.job(message, LOCAL), engine.job(message, Target("local", "colleague"))
        async with engine.opened() as other, engine.opened() as mover:
            holders = {"colleague": await other.spool.enroll()}
            claims = await store.spool.accept(message, [ours, theirs], claim=2, holders=holders)
            assert [claim.job for claim in claims] == [ours, theirs]
            assert await mover.spool.claim(10, engine.clock.now()) == []
            assert await store.spool.settle([done(claims[1])]) == [theirs.id]  # it is not ours
            other.spool.adopt([claims[1]])
            assert await other.spool.settle([done(claims[1])]) == []
            assert await store.spool.settle([done(claims[0])]) == []
            assert (await store.spool.counts())["messages"] == 0

    engine.run(story)


def test_what_was_leased_to_a_colleague_is_free_when_it_dies_or_cannot_be_reached(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        first, second = (engine.job(message, Target("local", "colleague")) for _ in range(2))
        async with engine.opened() as mover:
            async with engine.opened() as other:
                holder = await other.spool.enroll()
                claims = await store.spool.accept(message, [first, second], claim=2, holders={"colleague": holder})
                await store.spool.give_up(claims[:1], holder)
                [free] = await mover.spool.claim(10, engine.clock.now())
                assert free.job.id == first.id and free.token > claims[0].token
            [free] = await mover.spool.claim(10, engine.clock.now())
            assert free.job.id == second.id

    engine.run(story)


def test_jobs_that_were_lost_on_the_way_are_reclaimed_and_no_others(engine: Engine) -> None:
    async def story(store: Store) -> None:
        message = engine.message()
        known, lost = (engine.job(message, Target("local", "colleague")) for _ in range(2))
        async with engine.opened() as other, engine.opened() as mover:
            holders = {"colleague": await other.spool.enroll()}
            claims = await store.spool.accept(message, [known, lost], claim=2, holders=holders)
            other.spool.adopt(claims[:1])
            engine.clock.advance(30)
            young = engine.message()
            await store.spool.accept(young, [engine.job(young, Target("local", "colleague"))], claim=1, holders=holders)
            assert await other.spool.reclaim(engine.clock.now() - 20) == 1
            [free] = await mover.spool.claim(10, engine.clock.now())
            assert free.job.id == lost.id
            assert await other.spool.settle([done(claims[0])]) == []

    engine.run(story)


def test_a_job_leased_to_a_holder_that_was_taken_for_dead_is_free_when_it_is(engine: Engine) -> None:
    """Else nobody would ever look for it."""

    async def story(store: Store) -> None:
        message = engine.message()
        job = engine.job(message, Target("local", "colleague"))
        async with engine.opened() as mover:
            async with engine.opened() as other:
                holder = await other.spool.enroll()
                engine.clock.advance(61)
                assert await mover.spool.claim(10, engine.clock.now()) == []  # its row goes
            await store.spool.accept(message, [job], claim=1, holders={"colleague": holder})
            [free] = await mover.spool.claim(10, engine.clock.now())
            assert free.job.id == job.id

    engine.run(story)
