"""How much work a verb is, counted in steps of SQLite's machine, whatever the mailbox holds. Case 196."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from contracts.engines import Engine
from pillarbox.store.api import Store
from pillarbox.store.sqlite.engine import init_home


class Steps:
    """Counts what all connections that are opened meanwhile do."""

    count = 0

    def opened(self, db: apsw.Connection) -> None:
        db.set_progress_handler(self._step, 1)

    def _step(self) -> bool:
        self.count += 1
        return False


@contextmanager
def counted() -> Iterator[Steps]:
    steps = Steps()
    apsw.connection_hooks.append(steps.opened)
    try:
        yield steps
    finally:
        apsw.connection_hooks.remove(steps.opened)


def work_of_status(home: Path, messages: int, mailboxes: int) -> int:
    """Steps for a hundred STATUS of a mailbox that holds so many messages, among so many others."""
    init_home(home)
    engine = Engine("sqlite", home)

    async def story(store: Store) -> int:
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        for number in range(mailboxes):
            await store.mailboxes.create(account, f"box{number}")
        inbox = await store.mailboxes.status(account, "INBOX")
        if messages:
            await store.mailboxes.append(account, inbox.id, [engine.email(n) for n in range(messages)], 0)
        await store.mailboxes.status(account, "INBOX")
        before = steps.count
        for _ in range(100):
            found = await store.mailboxes.status(account, "INBOX")
            await store.mailboxes.modseq(account)
        assert found.messages == found.unseen == messages
        return steps.count - before

    with counted() as steps:
        return engine.run(story)


@pytest.mark.parametrize(("messages", "mailboxes"), [(2000, 1), (1, 300)])
def test_case_196_status_costs_the_same_in_a_large_account(tmp_path: Path, messages: int, mailboxes: int) -> None:
    small = work_of_status(tmp_path / "small", 1, 1)
    assert small >= 100 * 5, "nothing is counted"
    assert work_of_status(tmp_path / "large", messages, mailboxes) <= small + 1000  # ten steps each, for a deeper tree
