"""How an account's file is laid out: what makes reading all of a large mailbox cheap."""

from __future__ import annotations

from contracts.engines import Engine
from pillarbox.model.uids import ALL
from pillarbox.store.api import Store
from pillarbox.store.sqlite import placements
from pillarbox.store.sqlite.engine import SqliteStore


def test_messages_filed_in_any_number_at_once_end_in_few_chunks(engine: Engine) -> None:
    async def story(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        filed = 0
        for batch in (1, 100, 65, 64, 3, 300, *[1] * 200, 900, 100, 7):
            await store.mailboxes.append(account, inbox, [engine.email(i) for i in range(filed, filed + batch)])
            filed += batch
        counts = await store._accounts.run(
            lambda: store._accounts.aside(account, lambda db: db.execute("SELECT count FROM chunk").fetchall())
        )
        assert sum(count for (count,) in counts) == filed
        assert len(counts) <= 4 and max(counts) <= (placements.FULL,)
        slices = [piece async for piece in store.mailboxes.fetch(account, inbox, ALL, ("subject",))]
        assert [form for piece in slices for form in piece.forms] == [(str(i),) for i in range(filed)]
        assert await store.verify() == []

    engine.run(story)


def test_forms_of_an_older_parser_are_made_anew_wherever_they_are(engine: Engine) -> None:
    async def story(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        await store.mailboxes.append(account, inbox, [engine.email(i) for i in range(3)])
        columns = ("envelope", "bodystructure", "parts", "headers", "field_codes", "subject", "body", "preview")

        async def forms(*asked: str) -> list[tuple[object, ...]]:
            return [form async for piece in store.mailboxes.fetch(account, inbox, ALL, asked) for form in piece.forms]

        async def spoil() -> None:
            for sql in (
                "UPDATE email SET version=0, bodystructure='', parts='' WHERE id=2",
                "UPDATE content SET body='', preview='' WHERE id=2",
                "UPDATE head SET envelope='', headers='', field_codes='', subject='' WHERE id=2",
            ):
                await store._accounts.write(account, lambda db, sql=sql: db.execute(sql).fetchall())
            store._accounts.get(account).files.current.clear()

        whole = await forms(*columns)
        for at, column in enumerate(columns):
            await spoil()
            assert await forms(column) == [(form[at],) for form in whole]
            await store._accounts.write(account, lambda db: None)  # after the renewing
            store._accounts.get(account).files.current.clear()
            assert await forms(*columns) == whole

    engine.run(story)
