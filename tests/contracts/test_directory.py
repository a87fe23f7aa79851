"""Domains, accounts, aliases and keys."""

from __future__ import annotations

import pytest

from pillarbox.model.address import Address
from pillarbox.model.errors import Exists, NotFound
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import Secret
from pillarbox.store.api import Alias, Store

from .engines import Engine

ADA = Address("Ada", "pillarbox.test")
SECRET = Secret(b"s" * 16, 4096, b"k" * 32, b"v" * 32)


def account(engine: Engine, address: Address = ADA, state: str = "active") -> Account:
    return Account(engine.account_id(), address, state, 1000, 5.0, SECRET)


def test_accounts_are_found_by_address_in_any_case(engine: Engine) -> None:
    async def story(store: Store) -> None:
        directory = store.directory
        with pytest.raises(NotFound):
            await directory.add_account(account(engine))
        await directory.add_domain("pillarbox.test")
        with pytest.raises(Exists):
            await directory.add_domain("PILLARBOX.test")
        ada = account(engine)
        before = await directory.version()
        assert await directory.account(ADA) is None
        await directory.add_account(ada)
        assert await directory.version() != before
        assert await directory.account(Address("aDA", "pillarbox.test")) == ada
        assert await directory.account_by_id(ada.id) == ada
        assert await directory.accounts() == await directory.accounts("pillarbox.test", "active") == [ada]
        with pytest.raises(Exists):
            await directory.add_account(account(engine, Address("ADA", "pillarbox.test")))
        with pytest.raises(Exists):
            await directory.remove_domain("pillarbox.test")
        assert await directory.is_local_domain("Pillarbox.test") and not await directory.is_local_domain("x.test")

    engine.run(story)


def test_many_accounts_are_added_all_or_none(engine: Engine) -> None:
    async def story(store: Store) -> None:
        await store.directory.add_domain("pillarbox.test")
        many = [account(engine, Address(name, "pillarbox.test")) for name in ("a", "b", "A")]
        with pytest.raises(Exists):
            await store.directory.add_accounts(many)
        assert await store.directory.accounts() == []
        await store.directory.add_accounts(many[:2])
        assert [a.address.local for a in await store.directory.accounts()] == ["a", "b"]

    engine.run(story)


def test_changes_by_another_process_are_seen_within_a_second(engine: Engine) -> None:
    async def story(store: Store) -> None:
        await store.directory.add_domain("pillarbox.test")
        ada = account(engine)
        await store.directory.add_account(ada)
        async with engine.opened() as other:
            assert await other.directory.account(ADA) == ada
            await store.directory.set_secret(ada.id, Secret(b"t" * 16, 4096, b"k" * 32, b"v" * 32))
            await store.directory.set_quota(ada.id, 5)
            await store.directory.set_state(ada.id, "disabled", 0)
            engine.clock.advance(1)
            found = await other.directory.account(ADA)
            assert found is not None and found.secret is not None
            assert (found.quota_octets, found.state, found.secret.salt) == (5, "disabled", b"t" * 16)

    engine.run(story)


def test_removed_accounts_free_their_address(engine: Engine) -> None:
    async def story(store: Store) -> None:
        directory = store.directory
        await directory.add_domain("pillarbox.test")
        ada = account(engine)
        await directory.add_account(ada)
        await directory.set_state(ada.id, "removed", 0)
        assert await directory.account(ADA) is None
        found = await directory.account_by_id(ada.id)
        assert found is not None and found.state == "removed"
        await directory.set_state(ada.id, "active", 0)
        await directory.set_state(ada.id, "removed", 0)
        await directory.add_alias(Alias(ADA, (Address("x", "elsewhere.test"),)))
        with pytest.raises(Exists):
            await directory.set_state(ada.id, "active", 0)
        with pytest.raises(NotFound):
            await directory.set_state(engine.account_id(), "active", 0)
        with pytest.raises(NotFound):
            await directory.set_quota(engine.account_id(), 1)

    engine.run(story)


def test_aliases(engine: Engine) -> None:
    async def story(store: Store) -> None:
        directory = store.directory
        await directory.add_domain("pillarbox.test")
        await directory.add_account(account(engine))
        with pytest.raises(Exists):
            await directory.add_alias(Alias(ADA, (ADA,)))
        with pytest.raises(NotFound):
            await directory.add_alias(Alias(Address("x", "other.test"), (ADA,)))
        catch_all = Alias(Address("", "pillarbox.test"), (ADA, Address("b", "elsewhere.test")))
        bare = Alias(Address("postmaster", ""), (ADA,))
        await directory.add_alias(catch_all)
        await directory.add_alias(bare)
        assert await directory.alias(Address("", "pillarbox.test")) == catch_all
        assert await directory.alias(Address("Postmaster", "")) == bare
        assert await directory.aliases("pillarbox.test") == [catch_all] and len(await directory.aliases()) == 2
        replaced = Alias(catch_all.address, (ADA,))
        await directory.add_alias(replaced)
        assert await directory.alias(catch_all.address) == replaced
        await directory.remove_alias(catch_all.address)
        assert await directory.alias(catch_all.address) is None
        with pytest.raises(NotFound):
            await directory.remove_alias(catch_all.address)

    engine.run(story)


def test_keys_expire(engine: Engine) -> None:
    async def story(store: Store) -> None:
        now_s = engine.clock.now()
        await store.keys.put("rate/a", b"1", now_s + 10)
        await store.keys.put("rate/a", b"2", now_s + 10)
        await store.keys.put("rate/b%", b"3", now_s + 100)
        await store.keys.put("rbte", b"4", now_s + 100)
        assert await store.keys.get("rate/a") == b"2"
        assert await store.keys.scan("rate/") == [("rate/a", b"2"), ("rate/b%", b"3")]
        assert len(await store.keys.scan("")) == 3
        engine.clock.advance(11)
        assert await store.keys.get("rate/a") is None
        assert await store.keys.scan("rate/") == [("rate/b%", b"3")]
        await store.checkpoint()
        await store.keys.delete("rbte")
        assert await store.keys.scan("") == [("rate/b%", b"3")]

    engine.run(story)
