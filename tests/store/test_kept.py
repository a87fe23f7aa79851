"""What a delivering connection keeps between its transactions is never believed when something else has changed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from contracts.engines import Engine
from pillarbox.model.flags import DELETED, SEEN
from pillarbox.model.ids import AccountId
from pillarbox.model.uids import ALL, UidSet
from pillarbox.store.api import Store, Target


async def deliver(engine: Engine, store: Store, account: AccountId, count: int = 1) -> None:
    message = engine.message()
    jobs = [engine.job(message, Target("local", account)) for _ in range(count)]
    await asyncio.gather(*(store.mailboxes.deliver(account, [engine.delivery(job, message)]) for job in jobs))


async def check(store: Store, account: AccountId) -> list[int]:
    """Counters agree with placements; UIDs ascend. Returns them."""
    inbox = (await store.mailboxes.status(account, "INBOX")).id
    box, placed = await store.mailboxes.uids(account, inbox)
    uids = list(placed.uids)
    assert box.unseen == sum(1 for flags in placed.flags if not flags & SEEN)
    assert box.deleted == sum(1 for flags in placed.flags if flags & DELETED)
    assert uids == sorted(set(uids))
    assert box.messages == len(uids)
    assert not uids or box.uidnext > uids[-1]
    return uids


@pytest.mark.parametrize("seed", range(12))
def test_deliveries_between_changes_of_others(engine: Engine, seed: int) -> None:
    """Two processes deliver, flag, move and expunge in one mailbox by turns, or at once."""

    async def story(store: Store) -> None:
        chance = random.Random(seed)
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        box = (await store.mailboxes.status(account, "INBOX")).id
        seen: set[int] = set()
        uids: list[int] = []
        highest = 0
        async with engine.opened() as other:

            async def flag(side: Store) -> None:
                await side.mailboxes.set_flags(account, box, ALL, "+", frozenset({"\\Seen"}))

            async def move(side: Store) -> None:
                uids = await check(side, account)
                if uids:
                    await side.mailboxes.copy(account, box, UidSet.of([chance.choice(uids)]), "Archive", move=True)

            async def expunge(side: Store) -> None:
                uids = await check(side, account)
                if uids:
                    await side.mailboxes.expunge(account, box, UidSet.of([chance.choice(uids)]), only_deleted=False)

            async def mark(side: Store) -> None:
                uids = await check(side, account)
                if uids:
                    some = UidSet.of(sorted(chance.sample(uids, min(3, len(uids)))))
                    await side.mailboxes.set_flags(account, box, some, chance.choice("+-"), frozenset({"\\Deleted"}))

            async def purge(side: Store) -> None:
                await side.mailboxes.expunge(account, box, ALL)
                assert not (await side.mailboxes.status(account, "INBOX")).deleted

            async def append(side: Store) -> None:
                await side.mailboxes.append(account, box, [engine.email()])

            async def few(side: Store) -> None:
                await deliver(engine, side, account, chance.randrange(1, 4))

            async def both(side: Store) -> None:
                await asyncio.gather(few(side), few(other), flag(side), few(side))

            async def together(side: Store) -> None:
                """In one transaction: what was changed before the delivery stays so."""
                some = UidSet.of(sorted(chance.sample(uids, min(3, len(uids)))))
                change = side.mailboxes.set_flags(account, box, some, "+", frozenset({"\\Deleted", "\\Seen"}))
                changed, _ = await asyncio.gather(change, few(side))
                _, placed = await side.mailboxes.uids(account, box)
                now = dict(zip(placed.uids, placed.flags, strict=True))
                assert all(now[uid] & DELETED for uid in changed.changed.uids)

            steps: list[Callable[[Store], Awaitable[None]]] = [
                few, few, few, few, flag, mark, mark, purge, move, expunge, append, both, together, together,
            ]  # fmt: skip
            for _ in range(60):
                await chance.choice(steps)(chance.choice((store, store, other)))
                uids = await check(chance.choice((store, other)), account)
                new = [uid for uid in uids if uid not in seen]
                assert not new or new[0] > highest  # no UID came back
                seen.update(uids)
                highest = max(highest, *uids) if uids else highest
        assert await store.verify(account) == []

    engine.run(story)
