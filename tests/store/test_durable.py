"""What the promise "a commit is durable" rests on, as SQLite says it (PRAGMA synchronous, journal_mode, mmap_size)."""

from __future__ import annotations

from contracts.engines import Engine
from pillarbox.store.api import Store, Target

FULL = 2


def test_every_connection_syncs_each_commit(engine: Engine) -> None:
    """WAL with synchronous=NORMAL loses acknowledged commits in a power cut."""

    async def story(store: Store) -> None:
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        message = engine.message()
        job = engine.job(message, Target("local", account))
        await store.spool.accept(message, [job])
        await store.mailboxes.deliver(account, [engine.delivery(job, message)])
        await store.mailboxes.list(account)
        await store.directory.add_domain("pillarbox.test")
        file = store._accounts.get(account)  # type: ignore[attr-defined]
        writers = [file.writer, store._spool_file.writer, store._directory_file.writer]  # type: ignore[attr-defined]
        for db in (file.reader, *(writer.db for writer in writers)):
            assert db is not None
            assert db.pragma("synchronous") == FULL
            assert db.pragma("journal_mode") == "wal"
            assert db.pragma("mmap_size") in (0, None)

    engine.run(story)
