"""Mailboxes of an account: names, UIDs, flags, copies, what is remembered. RFC 3501, RFC 4315, RFC 7162."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillarbox.model.errors import (
    LimitReached,
    MailboxExists,
    MailboxName,
    NoSuchAccount,
    NoSuchMailbox,
    NoSuchMessage,
    OverQuota,
)
from pillarbox.model.flags import SEEN
from pillarbox.model.ids import AccountId
from pillarbox.model.settings import Limits, Settings
from pillarbox.model.uids import ALL, UidSet
from pillarbox.store.api import Slice, Store

from .engines import SIMPLE, Engine


async def with_account(engine: Engine, store: Store) -> tuple[AccountId, int]:
    account = engine.account_id()
    await store.mailboxes.create_account(account)
    return account, (await store.mailboxes.status(account, "inbox")).id


async def fetched(
    store: Store, account: AccountId, box: int, uids: UidSet = ALL, *columns: str, since: int = 0
) -> Slice:
    whole: list[Slice] = [piece async for piece in store.mailboxes.fetch(account, box, uids, columns, since)]
    joined = Slice(type(whole[0].placements)() if whole else (await store.mailboxes.uids(account, box))[1])
    rows: list[tuple[Any, ...]] = []
    joined.placements.uids = joined.placements.uids[:0]
    joined.placements.flags = joined.placements.flags[:0]
    for piece in whole:
        joined.placements.uids += piece.placements.uids
        joined.placements.flags += piece.placements.flags
        rows += piece.forms
    return Slice.of_rows(joined.placements, rows)


def test_a_new_account_has_the_standard_mailboxes(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, _ = await with_account(engine, store)
        await store.mailboxes.create_account(account)
        names = [box.name for box in await store.mailboxes.list(account)]
        assert names == ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"]
        assert (await store.mailboxes.status(account, "Sent")).special_use == "\\Sent"
        assert await store.mailboxes.subscriptions(account) == sorted(names)
        with pytest.raises(NoSuchAccount):
            await store.mailboxes.list(engine.account_id())
        with pytest.raises(NoSuchAccount):
            await store.mailboxes.list(AccountId("../../etc/passwd"))

    engine.run(story)


def test_append_and_fetch(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        before = await store.mailboxes.modseq(account)
        emails = [engine.email(i, flags=frozenset(["\\Seen", "$Work"]) if i % 2 else frozenset()) for i in range(3)]
        filed = await store.mailboxes.append(account, inbox, emails)
        assert [headline.uid for headline in filed] == [1, 2, 3]
        assert await store.mailboxes.modseq(account) > before
        found = await fetched(store, account, inbox, ALL, "subject", "envelope", "data", "email_id")
        assert [form[0] for form in found.forms] == ["0", "1", "2"]
        assert [form[2] for form in found.forms] == [SIMPLE % (i, i, i) for i in range(3)]
        assert [form[3] for form in found.forms] == [email.id for email in emails]
        assert b"ada" in found.forms[0][1]
        box = await store.mailboxes.mailbox(account, inbox)
        assert (box.messages, box.unseen, box.uidnext, box.keywords) == (3, 2, 4, ("$Work",))
        assert await store.mailboxes.size(account) == (sum(e.content.size for e in emails), 3)
        email = await store.mailboxes.open(account, filed[1].email)
        assert await email.read() == SIMPLE % (1, 1, 1)
        assert await email.read(6, 3) == b"Ada"
        with pytest.raises(NoSuchMessage):
            await store.mailboxes.open(account, 999)

    engine.run(story)


def test_prefix_and_content_are_one_message(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        [filed] = await store.mailboxes.append(account, inbox, [engine.email(7, prefix=b"Delivered-To: ada\r\n")])
        email = await store.mailboxes.open(account, filed.email)
        whole = b"Delivered-To: ada\r\n" + SIMPLE % (7, 7, 7)
        assert email.size == len(whole) == (await store.mailboxes.size(account))[0]
        assert await email.read() == whole
        for offset in range(0, len(whole) + 2, 5):
            assert await email.read(offset, 11) == whole[offset : offset + 11]

    engine.run(story)


def test_two_flags_at_once_are_both_set_case_035(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        await store.mailboxes.append(account, inbox, [engine.email()])
        async with engine.opened() as other:
            await asyncio.gather(*(
                (store, other)[i % 2].mailboxes.set_flags(account, inbox, ALL, "+", frozenset([f"k{i}"]))
                for i in range(20)
            ))  # fmt: skip
        box, found = await store.mailboxes.uids(account, inbox)
        assert set(box.keywords) == {f"k{i}" for i in range(20)}
        assert found.flags[0] == ((1 << 20) - 1) << 5

    engine.run(story)


def test_flags_modseq_and_unchangedsince(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        await store.mailboxes.append(account, inbox, [engine.email(i) for i in range(5)])
        start = await store.mailboxes.modseq(account)
        stored = await store.mailboxes.set_flags(account, inbox, UidSet.of([2, 3]), "+", frozenset(["\\Seen"]))
        assert stored.modseq == start + 1 and list(stored.changed.uids) == [2, 3]
        assert stored.mailbox.unseen == 3
        same = await store.mailboxes.set_flags(account, inbox, UidSet.of([2, 3]), "+", frozenset(["\\seen"]))
        assert same.modseq == start + 1 and not len(same.changed)
        some = await store.mailboxes.set_flags(account, inbox, ALL, "=", frozenset(["\\Deleted"]), start)
        assert str(some.refused) == "2:3" and list(some.changed.uids) == [1, 4, 5]
        changes = await store.mailboxes.changes(account, inbox, start + 1)
        assert list(changes.changed.uids) == [1, 4, 5] and not changes.expunged
        gone = await store.mailboxes.expunge(account, inbox, UidSet.of([1, 2, 5, 9]))
        assert str(gone) == "1,5"
        changes = await store.mailboxes.changes(account, inbox, start)
        assert list(changes.changed.uids) == [2, 3, 4] and str(changes.expunged) == "1,5"
        assert changes.mailbox.messages == 3 and changes.mailbox.deleted == 1
        found = await fetched(store, account, inbox, ALL, since=start + 1)
        assert list(found.placements.uids) == [4]

    engine.run(story)


def test_copy_and_move(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        emails = [engine.email(i, flags=frozenset([f"k{i}", "\\Seen"]), received_s=1000 + i) for i in range(4)]
        await store.mailboxes.append(account, inbox, emails)
        sent = await store.mailboxes.status(account, "Sent")
        await store.mailboxes.append(account, sent.id, [engine.email(9, flags=frozenset(["other"]))])
        copied = await store.mailboxes.copy(account, inbox, UidSet.of([1, 3, 77]), "Sent")
        assert (copied.uidvalidity, copied.source_uids, copied.target_uids) == (sent.uidvalidity, (1, 3), (2, 3))
        moved = await store.mailboxes.copy(account, inbox, UidSet.of([3, 4]), "Sent", move=True)
        assert (moved.source_uids, moved.target_uids) == ((3, 4), (4, 5))
        box, found = await store.mailboxes.uids(account, sent.id)
        assert list(found.uids) == [1, 2, 3, 4, 5] and box.keywords == ("other", "k0", "k2", "k3")
        assert list(found.flags) == [1 << 5, 1 | 2 << 5, 1 | 4 << 5, 1 | 4 << 5, 1 | 8 << 5]
        changes = await store.mailboxes.changes(account, inbox, 0)
        assert list(changes.changed.uids) == [1, 2] and str(changes.expunged) == "3:4"
        assert (await store.mailboxes.size(account))[1] == 7
        [piece] = [s async for s in store.mailboxes.fetch(account, sent.id, UidSet.of([3]))]
        assert list(piece.placements.received_s) == [1002]
        with pytest.raises(NoSuchMailbox):
            await store.mailboxes.copy(account, inbox, ALL, "nowhere")
        with pytest.raises(OverQuota):
            await store.mailboxes.copy(account, inbox, ALL, "Sent", quota_octets=10)
        await store.mailboxes.expunge(account, sent.id, ALL, only_deleted=False)
        assert await (await store.mailboxes.open(account, changes.changed.emails[0])).read() == SIMPLE % (0, 0, 0)
        assert await store.verify(account) == []
        await store.checkpoint()
        assert await store.verify(account) == []

    engine.run(story)


def test_names_case_173(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, _ = await with_account(engine, store)
        box = store.mailboxes
        bad = ["", "/", "a//b", "/a", "../x", "a/..", ".", "#news", "~root", "a*b", "a%b", "a\0b", "a\nb", "x" * 300]
        bad += ["/".join("a" * 40), "\ud800", "a\u202eb", " a", "a/ b", "a" * 900 + "/" + "b" * 200]
        for name in bad:
            with pytest.raises(MailboxName):
                await box.create(account, name)
            with pytest.raises(NoSuchMailbox):
                await box.status(account, name)
        assert (await box.create(account, "Cafe\u0301")).name == "Caf\u00e9"
        assert (await box.status(account, "Cafe\u0301")).name == "Caf\u00e9"
        assert (await box.create(account, "inbox/x/y/")).name == "INBOX/x/y"
        assert (await box.status(account, "iNBOX/x")).name == "INBOX/x"
        with pytest.raises(MailboxExists):
            await box.create(account, "inbox")
        with pytest.raises(MailboxName):
            await box.delete(account, "Inbox")

    engine.run(story)


def test_delete_and_rename_case_179(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        box = store.mailboxes
        first = await box.create(account, "a/b/c")
        await box.append(account, first.id, [engine.email(i) for i in range(3)])
        with pytest.raises(MailboxName):
            await box.rename(account, "a", "a/x")
        with pytest.raises(MailboxExists):
            await box.rename(account, "a", "Sent")
        await box.rename(account, "a", "z/y")
        assert [b.name for b in await box.list(account) if b.name[0] == "z"] == ["z", "z/y", "z/y/b", "z/y/b/c"]
        assert (await box.mailbox(account, first.id)).messages == 3
        await box.delete(account, "z/y")
        assert (await box.status(account, "z/y")).special_use == "\\Noselect"
        with pytest.raises(MailboxName):
            await box.delete(account, "z/y")
        await box.delete(account, "z/y/b/c")
        with pytest.raises(NoSuchMailbox):
            await box.mailbox(account, first.id)
        with pytest.raises(NoSuchMailbox):
            await box.changes(account, first.id, 0)
        again = await box.create(account, "z/y/b/c")
        assert again.uidvalidity > first.uidvalidity and again.id > first.id
        # A name only ever sees rising UIDVALIDITY, also when an older mailbox is renamed to it.
        old = await box.create(account, "old")
        new = await box.create(account, "new")
        await box.delete(account, "new")
        await box.rename(account, "old", "new")
        assert (await box.status(account, "new")).uidvalidity > new.uidvalidity > old.uidvalidity
        await box.append(account, inbox, [engine.email(1), engine.email(2)])
        await box.rename(account, "INBOX", "kept")
        assert (await box.status(account, "kept")).messages == 2
        box_now = await box.status(account, "INBOX")
        assert (box_now.id, box_now.messages, box_now.uidnext) == (inbox, 0, 3)
        assert await store.verify(account) == []

    engine.run(story)


def test_the_number_of_mailboxes_is_bounded_case_175(engine: Engine) -> None:
    engine.settings = Settings(limits=Limits(mailboxes=10))

    async def story(store: Store) -> None:
        account, _ = await with_account(engine, store)
        await store.mailboxes.create(account, "a/b/c")
        with pytest.raises(LimitReached):
            await store.mailboxes.create(account, "d/e")
        assert len(await store.mailboxes.list(account)) == 9

    engine.run(story)


def test_keywords_are_bounded(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        await store.mailboxes.append(account, inbox, [engine.email()])
        with pytest.raises(LimitReached):
            await store.mailboxes.set_flags(account, inbox, ALL, "+", frozenset(f"k{i}" for i in range(60)))
        with pytest.raises(LimitReached):
            await store.mailboxes.append(
                account, inbox, [engine.email(), engine.email(flags=frozenset(f"k{i}" for i in range(60)))]
            )
        box = await store.mailboxes.mailbox(account, inbox)
        assert (box.messages, box.keywords) == (1, ())

    engine.run(story)


def test_quota_case_036(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        size = engine.email().content.size

        async def append() -> int:
            try:
                await store.mailboxes.append(account, inbox, [engine.email()], quota_octets=5 * size + 1)
            except OverQuota:
                return 0
            return 1

        assert sum(await asyncio.gather(*(append() for _ in range(50)))) == 5
        with pytest.raises(OverQuota):  # all or none (RFC 3502)
            await store.mailboxes.append(account, inbox, [engine.email()] * 2, quota_octets=6 * size)
        assert await store.mailboxes.size(account) == (5 * size, 5)

    engine.run(story)


def test_recent_belongs_to_the_first_who_takes_it(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        await store.mailboxes.append(account, inbox, [engine.email(), engine.email()])
        assert [await store.mailboxes.take_recent(account, inbox) for _ in range(2)] == [1, 3]
        await store.mailboxes.append(account, inbox, [engine.email()])
        assert (await store.mailboxes.mailbox(account, inbox)).recent_uid == 3
        assert await store.mailboxes.take_recent(account, inbox) == 3

    engine.run(story)


def test_subscriptions_need_no_mailbox(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, _ = await with_account(engine, store)
        await store.mailboxes.subscribe(account, "Lists/python")
        await store.mailboxes.subscribe(account, "Sent", on=False)
        names = await store.mailboxes.subscriptions(account)
        assert "Lists/python" in names and "Sent" not in names

    engine.run(story)


def test_large_mailboxes_are_fetched_in_slices(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        for start in range(0, 2600, 650):
            await store.mailboxes.append(account, inbox, [engine.email(i) for i in range(start, start + 650)])
        found = await fetched(store, account, inbox, ALL, "subject")
        assert [form[0] for form in found.forms] == [str(i) for i in range(2600)]
        some = UidSet(((5, 5), (990, 1010), (2599, 9999)))
        found = await fetched(store, account, inbox, some, "subject", "data")
        assert list(found.placements.uids) == [5, *range(990, 1011), 2599, 2600]
        assert [form[0] for form in found.forms] == [str(uid - 1) for uid in found.placements.uids]
        await store.mailboxes.expunge(account, inbox, UidSet(((2, 2000), (2010, 2590))), only_deleted=False)
        found = await fetched(store, account, inbox)
        assert list(found.placements.uids) == [1, *range(2001, 2010), *range(2591, 2601)]
        assert (await store.mailboxes.set_flags(account, inbox, ALL, "+", frozenset(["\\Seen"]))).mailbox.unseen == 0
        assert set((await store.mailboxes.uids(account, inbox))[1].flags) == {SEEN}
        await store.mailboxes.append(account, inbox, [engine.email(1)])
        assert await store.verify(account) == []

    engine.run(story)


def test_an_account_goes_to_the_trash_and_comes_back(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        await store.mailboxes.append(account, inbox, [engine.email(3)])
        async with engine.opened() as other:
            assert await other.mailboxes.modseq(account)
            await store.mailboxes.trash_account(account)
            for one in (store, other):
                with pytest.raises(NoSuchAccount):
                    await one.mailboxes.append(account, inbox, [engine.email(4)])
            with pytest.raises(NoSuchAccount):
                await other.mailboxes.modseq(account)
        with pytest.raises(NoSuchAccount):
            await store.mailboxes.trash_account(account)
        assert list(await store.mailboxes.trashed_accounts()) == [account]
        await store.mailboxes.restore_account(account)
        assert await store.mailboxes.trashed_accounts() == {}
        assert (await store.mailboxes.status(account, "INBOX")).messages == 1
        await store.mailboxes.append(account, inbox, [engine.email(4)])

    engine.run(story)


def test_names_that_were_given_up_are_remembered_in_bounds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillarbox.store.sqlite.mailboxes.RETIRED", 3)

    async def story(store: Store) -> None:
        account, _ = await with_account(engine, store)
        old = await store.mailboxes.create(account, "old")
        highest = 0
        for i in range(5):
            highest = (await store.mailboxes.create(account, f"n{i}")).uidvalidity
            await store.mailboxes.delete(account, f"n{i}")
        await store.mailboxes.rename(account, "old", "n0")
        assert (await store.mailboxes.status(account, "n0")).uidvalidity > highest - 1 > old.uidvalidity

    engine.run(story)


def test_a_deleted_mailbox_with_children_is_gone_for_those_who_have_it_open(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account = engine.account_id()
        box = store.mailboxes
        await box.create_account(account)
        parent = await box.create(account, "p")
        await box.create(account, "p/c")
        await box.append(account, parent.id, [engine.email(1)])
        since = await box.modseq(account)
        await box.delete(account, "p")
        assert await box.size(account) == (0, 0)
        with pytest.raises(NoSuchMailbox):
            await box.changes(account, parent.id, since)
        assert (await box.status(account, "p")).special_use == "\\Noselect"
        assert await store.verify() == []

    engine.run(story)


@pytest.mark.parametrize("nul", [b"", b"\0"])
@pytest.mark.parametrize(
    "columns", [("envelope",), ("headers", "field_codes"), ("bodystructure", "envelope"), ("subject", "envelope")]
)
def test_slices_are_small_even_where_headers_are_long(engine: Engine, columns: tuple[str, ...], nul: bytes) -> None:
    """A mailbox of messages that are nearly all header must not fill the memory when it is listed."""
    long = b"".join(
        b"%s: A%s <r@%s.example>\r\n" % (n, nul, b"x" * 40_000) for n in (b"To", b"Cc", b"Bcc", b"Reply-To")
    )

    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        octets = [(long if 30 <= i < 90 or i == 99 else b"") + SIMPLE % (i, i, i) for i in range(100)]
        await store.mailboxes.append(account, inbox, [engine.email(octets=each) for each in octets])
        seen: list[tuple[Any, ...]] = []
        async for piece in store.mailboxes.fetch(account, inbox, ALL, columns):
            assert list(piece.placements.uids) == list(range(len(seen) + 1, len(seen) + 1 + len(piece.forms)))
            assert sum(len(value) for form in piece.forms for value in form) < 5_000_000
            seen += piece.forms
        assert len(seen) == 100
        alone = [
            (await fetched(store, account, inbox, UidSet.of([uid]), *columns)).forms[0] for uid in (1, 30, 60, 100)
        ]
        assert alone == [seen[0], seen[29], seen[59], seen[99]]

    engine.run(story)


def test_mail_that_goes_while_it_is_fetched_is_left_out(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        await store.mailboxes.append(account, inbox, [engine.email(i) for i in range(2500)])
        for columns in (("envelope",), ("subject",), ()):
            before = set((await store.mailboxes.uids(account, inbox))[1].uids)
            doomed = {uid for uid in before if uid % 7 == 3 or uid > 2400 - 10 * len(columns)}
            seen: list[int] = []
            slices = store.mailboxes.fetch(account, inbox, ALL, columns)
            async for piece in slices:
                if not seen:
                    await store.mailboxes.expunge(account, inbox, UidSet.of(doomed), only_deleted=False)
                    await store.checkpoint()
                seen += piece.placements.uids
                assert all(piece.columns[at] is not None for at in range(len(columns)))
                if columns:
                    assert len(piece.forms) == len(piece.placements.uids)
            assert seen == sorted(set(seen))
            assert before - doomed <= set(seen) <= before

    engine.run(story)
