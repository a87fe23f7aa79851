"""What operators do to domains, users and aliases."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from pillarbox.mail.accounts import Admin, BadInput
from pillarbox.model.address import Address
from pillarbox.model.errors import Exists, NotFound
from pillarbox.model.secret import secret_matches

from .test_queue import away_world, post, turn
from .world import World


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def admin(world: World) -> Admin:
    return Admin(world.store, world.clock, world.random, world.settings, world.signals)  # type: ignore[arg-type]


def test_a_new_user_can_log_in_and_get_mail():
    async def scenario():
        world = await World().furnish()
        account = await admin(world).add_user("Cy@US.example", "secret", 5000)
        assert account.secret is not None and secret_matches(account.secret, "secret")
        assert (account.address, account.quota_octets) == (Address("Cy", "us.example"), 5000)
        assert world.store.mailboxes.filed[account.id] == []
        assert "directory" in world.signals.topics
        assert (await admin(world).user("cy@us.example")).id == account.id

    run(scenario())


def test_many_users_are_all_or_none():
    async def scenario():
        world = await World().furnish()
        made = await admin(world).add_users([(f"u{i}@us.example", f"password {i}") for i in range(20)])
        assert len({account.id for account in made}) == 20
        assert all(secret_matches(a.secret, f"password {i}") for i, a in enumerate(made) if a.secret)
        for bad, error in [
            (("u1@us.example", "x"), Exists),
            (("new@elsewhere.example", "x"), NotFound),
            (("new@us.example", ""), BadInput),
            (("not an address", "x"), BadInput),
            (("new+detail@us.example", "x"), BadInput),
            (("good@us.example", "x"), Exists),  # given twice
        ]:
            with pytest.raises(error):
                await admin(world).add_users([("good@us.example", "x"), bad])
        assert len(await admin(world).users()) == 22

    run(scenario())


def test_passwords_quotas_and_states():
    async def scenario():
        world = await World().furnish()
        desk = admin(world)
        await desk.set_password("ada@us.example", "new one")
        await desk.set_quota("ada@us.example", 7)
        await desk.disable_user("ada@us.example")
        account = await desk.user("ada@us.example")
        assert account.secret is not None and secret_matches(account.secret, "new one")
        assert (account.quota_octets, account.state) == (7, "disabled")
        assert "directory" in world.signals.topics and f"account:{account.id}" not in world.signals.topics
        await desk.enable_user("ada@us.example")
        assert (await desk.user("ada@us.example")).state == "active"
        with pytest.raises(NotFound):
            await desk.set_quota("nobody@us.example", 1)
        with pytest.raises(BadInput):
            await desk.set_quota("ada@us.example", -1)

    run(scenario())


def test_a_removed_user_s_queued_mail_is_returned_and_the_user_can_come_back():
    async def scenario():
        world = await away_world()
        desk, mover = admin(world), world.mover()
        [job] = await post(world, "ada@us.example", "bob@us.example")
        row = world.store.spool.rows[job]
        row.job = replace(row.job, next_s=row.job.next_s + 9999)
        await desk.remove_user("bob@us.example")
        with pytest.raises(NotFound):
            await desk.user("bob@us.example")
        await turn(world, mover)
        await turn(world, mover)
        assert b"Status: 5.1.1" in world.inbox("ada")[0]
        assert (await desk.restore_user("bob@us.example")).id == "bob"
        assert (await desk.user("bob@us.example")).state == "active"
        with pytest.raises(Exists):
            await desk.restore_user("bob@us.example")
        with pytest.raises(NotFound):
            await desk.restore_user("nobody@us.example")

    run(scenario())


def test_domains_and_aliases():
    async def scenario():
        world = await World().furnish()
        desk = admin(world)
        assert await desk.add_domain("Bücher.example.") == "xn--bcher-kva.example"
        with pytest.raises(Exists):
            await desk.add_domain("bücher.example")
        for text in ("", "a b", "-x.example", "x" * 300):
            with pytest.raises(BadInput):
                await desk.add_domain(text)
        await desk.add_alias("Team@us.example", ["ada@us.example", "far@away.example", "ada@us.example"])
        await desk.add_alias("@us.example", ["bob@us.example"])
        await desk.add_alias("postmaster", ["bob@us.example"])
        assert [len(alias.targets) for alias in await desk.aliases()] == [2, 1, 1]
        with pytest.raises(BadInput):
            await desk.add_alias("x@us.example", [])
        await desk.remove_alias("@us.example")
        with pytest.raises(NotFound):
            await desk.remove_alias("@us.example")
        await desk.remove_domain("bücher.example")
        assert await desk.domains() == ["us.example"]

    run(scenario())
