"""Jobs go to whoever delivers for the account; whatever happens to links, none is lost."""

from __future__ import annotations

import asyncio

from pillarbox.mail.deliver import LocalDelivery
from pillarbox.mail.dispatch import Dispatch
from pillarbox.mail.reports import Reporter
from pillarbox.mail.route import Router
from pillarbox.mail.settle import Settler
from pillarbox.message.wire import wire_forms
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import JobId, SpoolId
from pillarbox.model.mailbox import Content
from pillarbox.store.api import Handed, Job, Spooled, Target

from .world import MESSAGE, World, address


class Links:
    """Says who has which account, and keeps what is handed over."""

    def __init__(self, holders: dict[str, int], works: bool = True) -> None:
        self.holders = holders
        self.works = works
        self.handed: list[tuple[int, Handed]] = []

    def holder_for(self, account: str) -> int:
        return self.holders.get(account, 0)

    def hand(self, holder: int, handed: Handed) -> bool:
        self.handed.append((holder, handed))
        return self.works


def dispatch_of(world: World, links: Links | None) -> Dispatch:
    store, clock, log = world.store, world.clock, world.log
    router = Router(store.directory, world.settings, clock)  # type: ignore[arg-type]
    reporter = Reporter(store, router, world.settings, clock, world.random, log)  # type: ignore[arg-type]
    settler = Settler(store.spool, reporter, world.settings, clock, world.random, log)  # type: ignore[arg-type]
    local = LocalDelivery(store.mailboxes, clock, settler, log)  # type: ignore[arg-type]
    return Dispatch(store.spool, local, links, world.signals, log)  # type: ignore[arg-type]


def message_for(world: World, *targets: Target) -> tuple[Spooled, list[Job]]:
    content = Content(b"h" * 32, len(MESSAGE), MESSAGE)
    spooled = Spooled(SpoolId(b"s" * 16), Envelope(address("carl@elsewhere.example")), content)
    jobs = [
        Job(JobId(bytes((n,)) * 16), spooled.id, Recipient(address(f"{t.name}@us.example")), t)
        for n, t in enumerate(targets)
    ]
    return spooled, jobs


ADA, BOB, FAR = Target("local", "ada"), Target("local", "bob"), Target("remote", "far")


def test_what_is_ours_is_delivered_and_what_is_a_colleagues_is_handed_over() -> None:
    async def story() -> None:
        world = await World().furnish()
        links = Links({"bob": 7})
        dispatch = dispatch_of(world, links)
        spooled, jobs = message_for(world, ADA, BOB, FAR)
        await dispatch.accept(spooled, jobs, (), wire_forms(MESSAGE))
        [(holder, handed)] = links.handed
        assert [world.store.spool.rows[job.id].holder for job in jobs] == [0, 7, 0]
        assert holder == 7 and handed.jobs == (jobs[1],) and handed.message == spooled and handed.token == 1
        await dispatch.close()
        assert [filed.job for filed in world.store.mailboxes.filed["ada"]] == [jobs[0].id]
        assert not world.store.mailboxes.filed["bob"]
        assert world.signals.topics == ["spool"]  # for the one that goes elsewhere

    asyncio.run(story())


def test_where_a_link_broke_after_the_commit_the_mover_is_told() -> None:
    async def story() -> None:
        world = await World().furnish()
        dispatch = dispatch_of(world, Links({"bob": 7}, works=False))
        spooled, jobs = message_for(world, BOB)
        await dispatch.accept(spooled, jobs, (), wire_forms(MESSAGE))
        assert world.store.spool.rows[jobs[0].id].leased
        await dispatch.close()
        assert not world.store.spool.rows[jobs[0].id].leased
        assert world.signals.topics == ["spool"]
        [claim] = await world.store.spool.claim(10, world.clock.now())
        assert claim.job == jobs[0]

    asyncio.run(story())


def test_what_a_colleague_accepted_is_adopted_and_delivered() -> None:
    async def story() -> None:
        world = await World().furnish()
        dispatch = dispatch_of(world, Links({}))
        spooled, jobs = message_for(world, BOB)
        [claim] = await world.store.spool.accept(spooled, jobs, claim=1)
        dispatch.take_over(Handed(spooled, (jobs[0],), claim.token, wire_forms(MESSAGE)))
        await dispatch.close()
        assert world.store.spool.adopted == [jobs[0].id]
        assert [filed.job for filed in world.store.mailboxes.filed["bob"]] == [jobs[0].id]
        assert not world.store.spool.rows

    asyncio.run(story())


def test_alone_everything_local_is_ours() -> None:
    async def story() -> None:
        world = await World().furnish()
        dispatch = dispatch_of(world, None)
        spooled, jobs = message_for(world, ADA, BOB)
        await dispatch.accept(spooled, jobs, (), wire_forms(MESSAGE))
        await dispatch.close()
        assert not world.store.spool.rows and world.signals.topics == []

    asyncio.run(story())
