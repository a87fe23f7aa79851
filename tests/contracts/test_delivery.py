"""How a delivery that cannot be done is told."""

from __future__ import annotations

import pytest

from pillarbox.model.errors import NoSuchAccount
from pillarbox.model.ids import AccountId
from pillarbox.store.api import Store, Target

from .engines import Engine


def test_what_fails_is_told_by_the_awaitable(engine: Engine) -> None:
    """Whoever delivers by callbacks must not be surprised after the commit."""

    async def story(store: Store) -> None:
        message = engine.message()
        for name in (AccountId("no id"), engine.account_id()):
            job = engine.job(message, Target("local", name))
            filing = store.mailboxes.deliver(name, [engine.delivery(job, message)])
            with pytest.raises(NoSuchAccount):
                await filing

    engine.run(story)
