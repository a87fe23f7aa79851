"""Accounts that a process has open are closed when nobody asks for them any more."""

from __future__ import annotations

import os

from contracts.engines import Engine
from pillarbox.model.ids import AccountId
from pillarbox.store.api import Store
from pillarbox.store.sqlite import accounts
from pillarbox.store.sqlite.engine import SqliteStore


def _opened(account: AccountId) -> int:
    """How many descriptors of this account the process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += account in os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def test_what_nobody_asked_for_in_some_sweeps_is_closed(engine: Engine) -> None:
    async def story(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        quiet, busy = engine.account_id(), engine.account_id()
        for account in (quiet, busy):
            await store.mailboxes.create_account(account)
            inbox = (await store.mailboxes.status(account, "INBOX")).id
            await store.mailboxes.append(account, inbox, [engine.email()])
        assert _opened(quiet) and _opened(busy)
        for _ in range(accounts.SWEEPS):
            await store.mailboxes.status(busy, "INBOX")
            store._accounts._sweep()
        await store._accounts.run(lambda: None)
        while _opened(quiet):
            await store._accounts.run(lambda: None)
        assert _opened(busy)
        assert (await store.mailboxes.status(quiet, "INBOX")).messages == 1

    engine.run(story)


def test_a_small_machine_keeps_some_open_and_a_large_one_no_more_than_it_has_descriptors() -> None:
    assert 4 <= accounts.fitting() <= max(300, os.sysconf("SC_PHYS_PAGES"))
