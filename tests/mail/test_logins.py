"""Credentials: right, wrong, too often, too many at once. Cases 56, 57, 182 to 186, 189."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from pillarbox.mail import logins
from pillarbox.mail.desk import Session
from pillarbox.mail.logins import LoginDesk
from pillarbox.model.errors import Refused
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import Secret, make_secret
from pillarbox.model.settings import Limits

from .world import SETTINGS, World, session

PASSWORD = "correct horse"
SECRET = make_secret(PASSWORD, b"0123456789abcdef", 4096)


class House:
    """A world with passwords, a count of slow hashes, and of seconds waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.world = World(replace(SETTINGS, limits=replace(Limits(), **limits)))
        self.waited: list[float] = []
        self.hashes: list[Secret] = []
        real = logins.secret_matches

        def counted(secret: Secret, password: str) -> bool:
            self.hashes.append(secret)
            return real(secret, password)

        monkeypatch.setattr(logins, "secret_matches", counted)

    async def open(self) -> LoginDesk:
        await self.world.furnish([])
        await self.world.add_user("ada@us.example", secret=SECRET)
        await self.world.add_user("bob@us.example", secret=make_secret("bob's", b"x" * 16, 4096))
        return self.desk()

    def desk(self) -> LoginDesk:
        world = self.world

        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)

        return LoginDesk(
            world.store,  # type: ignore[arg-type]
            world.settings,
            world.clock,
            world.random,
            world.log,
            world.metrics,
            sleep=sleep,
        )


async def login(desk: LoginDesk, at: Session, name: str, password: str) -> str:
    return await said(desk.password(at, name, password))


async def said(work: Awaitable[Account]) -> str:
    """The account, or the status it was refused with."""
    try:
        return (await work).id
    except Refused as refused:
        return str(refused.status)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("ada@us.example", True),
        ("ADA@US.example", True),
        ("ada", True),
        ("ａda@us.example", True),  # NFKC makes it ada: one canonical form (case 186)
        ("a*", False),
        ("%u", False),
        ("' or 1", False),
        ("../ada", False),
        ("ada\0b", False),
        ("ada ", False),
        (" ada@us.example", False),
        ("ada@us.example\0", False),
        ("ada@us.example.", True),
        ("ada+x@us.example", False),
        ("", False),
        ("@us.example", False),
        ("ada@", False),
        ("\ud800@us.example", False),
        ("x" * 5000, False),
    ],
)
def test_case_186_names(monkeypatch, name, known):
    async def scenario():
        desk = await House(monkeypatch).open()
        assert await login(desk, session("imap"), name, PASSWORD) == ("ada" if known else "5.7.8")

    asyncio.run(scenario())


def test_a_bare_name_is_not_guessed_among_two_domains(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        await house.world.store.directory.add_domain("second.example")
        assert await login(desk, session("imap"), "ada", PASSWORD) == "5.7.8"

    asyncio.run(scenario())


def test_a_right_login_is_remembered_for_a_while_and_only_for_that_secret(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        for _ in range(3):
            assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"
        assert len(house.hashes) == 1
        house.world.clock.advance(301)
        assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"
        assert len(house.hashes) == 2
        account = await house.world.account("ada")
        await house.world.store.directory.set_secret(account.id, make_secret("new", b"y" * 16, 4096))
        assert await login(desk, session("imap"), "ada", PASSWORD) == "5.7.8"
        assert await login(desk, session("imap"), "ada", "new") == "ada"
        assert await login(desk, session("imap"), "bob", PASSWORD) == "5.7.8"  # case 189

    asyncio.run(scenario())


def test_a_disabled_account_is_refused_also_from_memory_and_comes_back(monkeypatch):
    async def scenario():
        desk = await (house := House(monkeypatch)).open()
        directory, account = house.world.store.directory, await house.world.account("ada")
        assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"
        await directory.set_state(account.id, "disabled", 0)
        assert await login(desk, session("imap"), "ada", PASSWORD) == "5.7.8"
        verifier, found = await desk.verifier(session("imap"), "ada")
        assert found is None and verifier != SECRET
        await directory.set_state(account.id, "active", 0)
        assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"

    asyncio.run(scenario())


def test_case_183_failures_of_a_session_and_of_a_host(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        at = session("imap")
        answers = [await login(desk, at, "ada", f"wrong {i}") for i in range(4)]
        assert answers == ["5.7.8", "5.7.8", "5.7.8", "4.7.0"]
        assert house.waited == [2.0, 4.0, 8.0]
        answers = [await login(desk, session("imap"), "bob", f"wrong {i}") for i in range(8)]
        assert answers == ["5.7.8"] * 7 + ["4.7.0"]  # eleven in a minute
        assert len(house.hashes) == 10
        assert await login(desk, session("imap"), "ada", PASSWORD) == "4.7.0"
        assert await login(desk, session("imap", peer="198.51.100.1"), "ada", PASSWORD) == "ada"
        house.world.clock.advance(130)
        assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"

    asyncio.run(scenario())


def test_a_stale_phone_counts_once(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        for _ in range(40):
            assert await login(desk, session("imap"), "ada", "old password") == "5.7.8"
        assert len(house.hashes) == 1
        assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"

    asyncio.run(scenario())


def test_trusted_hosts_are_not_counted(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        for i in range(30):
            assert await login(desk, session("imap", trusted=True), "ada", f"wrong {i}") == "5.7.8"
        assert house.waited == []

    asyncio.run(scenario())


def test_case_182_an_account_under_attack_is_slow_for_strangers_only(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        home = session("imap", peer="198.51.100.1")
        assert await login(desk, home, "ada", PASSWORD) == "ada"
        for i in range(50):
            await login(desk, session("imap", peer=f"203.0.{i}.1"), "ada", f"wrong {i}")
        house.world.clock.advance(301)  # what was right is forgotten, the host is not
        house.waited.clear()
        assert await login(desk, session("imap", peer="203.0.113.200"), "ada", PASSWORD) == "ada"
        assert house.waited == [15.0]
        house.world.clock.advance(301)
        assert await login(desk, home, "ada", PASSWORD) == "ada"
        assert house.waited == [15.0]

    asyncio.run(scenario())


def test_case_182_the_pool_is_bounded(monkeypatch):
    async def scenario():
        house = House(monkeypatch, login_workers=1, login_queue=2)
        desk = await house.open()
        answers = await asyncio.gather(
            *(login(desk, session("imap", peer=f"203.0.{i}.1"), "ada", f"wrong {i}") for i in range(10))
        )
        assert sorted(answers) == ["4.3.2"] * 7 + ["5.7.8"] * 3
        assert await login(desk, session("imap"), "ada", PASSWORD) == "ada"

    asyncio.run(scenario())


def test_case_184_an_unknown_user_costs_the_same(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        assert await login(desk, session("imap"), "nobody", "x") == "5.7.8"
        assert await login(desk, session("imap"), "ada", "x") == "5.7.8"
        assert [secret.iterations for secret in house.hashes] == [4096, 4096]

    asyncio.run(scenario())


def test_case_185_huge_passwords_are_never_hashed(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        for password in ("x" * 1_000_000, "ü" * 600, "a\0b", "\ud800"):
            assert await login(desk, session("imap"), "ada", password) == "5.7.8"
            house.world.clock.advance(200)
        assert len(house.hashes) <= 1  # the lone surrogate fails in SASLprep, before any work

    asyncio.run(scenario())


def test_scram_gets_the_verifier_or_one_made_up_that_stays(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk, at = await house.open(), session("imap")
        secret, account = await desk.verifier(at, "ada")
        assert secret == SECRET and account is not None
        assert await said(desk.scram_done(at, "ada", account, True)) == "ada"
        first, nobody = await desk.verifier(at, "nobody")
        again, _ = await house.desk().verifier(at, "NOBODY")
        other, _ = await desk.verifier(at, "someone")
        assert nobody is None and first == again != other
        assert (len(first.salt), first.iterations) == (16, 4096)
        assert await said(desk.scram_done(at, "nobody", None, True)) == "5.7.8"
        assert await said(desk.scram_done(at, "ada", account, False)) == "5.7.8"
        assert at.auth_failures == 2

    asyncio.run(scenario())


def test_no_password_reaches_a_log(monkeypatch):
    async def scenario():
        house = House(monkeypatch)
        desk = await house.open()
        await login(desk, session("imap"), "ada", "s3cret-and-wrong")
        assert "s3cret" not in repr(house.world.log.lines)

    asyncio.run(scenario())
