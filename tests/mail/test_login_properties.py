"""What is remembered of logins never answers for another account, password, verifier or mechanism. Cases 186, 189."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.mail.logins import LoginDesk
from pillarbox.model.errors import Refused
from pillarbox.model.secret import Secret, make_secret, saslprep

from .world import World, session

USERS = ("ada", "bob", "ada@us.example", "adab")
NAMES = ("ada", "bob", "adab")
PASSWORDS = ("pw", "pwpw", "b", "other", "ｐｗ")
SALTS = (b"x" * 16, b"y" * 16)


def secret(password: str, salt: bytes) -> Secret:
    return make_secret(password, salt, 1)  # one round: as right as many


STEPS = st.one_of(
    st.tuples(st.just("login"), st.sampled_from(USERS), st.sampled_from(PASSWORDS)),
    st.tuples(st.just("scram"), st.sampled_from(USERS), st.booleans()),
    st.tuples(st.just("set"), st.sampled_from(NAMES), st.tuples(st.sampled_from(PASSWORDS), st.sampled_from(SALTS))),
    st.tuples(st.just("state"), st.sampled_from(NAMES), st.sampled_from(["active", "disabled"])),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 299, 301, 90_000])),
)


async def refused(work: Any) -> str:
    try:
        return str((await work).id)
    except Refused as error:
        return str(error.status)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_case_189_a_login_is_right_if_the_password_is(steps: list[tuple[str, str, Any]]) -> None:
    """Accounts may have the same password and even the same salt: what is known of one never opens another."""

    async def story() -> None:
        world = World()
        await world.furnish([])
        truth = {name: "pw" if name != "bob" else "other" for name in NAMES}
        states = dict.fromkeys(NAMES, "active")
        for name in NAMES:
            await world.add_user(f"{name}@us.example", secret=secret(truth[name], SALTS[0]))
        desk = LoginDesk(
            world.store, world.settings, world.clock, world.random, world.log, world.metrics,  # type: ignore[arg-type]
        )  # fmt: skip
        directory = world.store.directory
        for kind, name, value in steps:
            account = name.removesuffix("@us.example")
            at = session("imap", trusted=True)
            if kind == "login":
                good = states[account] == "active" and saslprep(value) == saslprep(truth[account])
                assert await refused(desk.password(at, name, value)) == (account if good else "5.7.8")
            elif kind == "scram":
                verifier, found = await desk.verifier(at, name)
                assert (found is not None) == (states[account] == "active")
                done = await refused(desk.scram_done(at, name, found, value))
                assert done == (account if value and found is not None else "5.7.8")
                assert verifier.stored_key  # and what SCRAM has shown is no password that PLAIN may use
            elif kind == "set":
                password, salt = value
                truth[name] = password
                await directory.set_secret((await world.account(name)).id, secret(password, salt))
            elif kind == "state":
                states[name] = value
                await directory.set_state((await world.account(name)).id, value, 0)
            else:
                world.clock.advance(value)
        desk.close()

    asyncio.run(story())


@settings(max_examples=150, deadline=None)
@given(name=st.text(max_size=20) | st.text("aAdｄ@us.example*%'/ \0\u00ad", max_size=24))
def test_case_186_a_name_is_nobody_or_the_one_account_it_spells(name: str) -> None:
    async def story() -> None:
        world = World()
        await world.furnish([])
        await world.add_user("ada@us.example", secret=secret("pw", SALTS[0]))
        desk = LoginDesk(
            world.store, world.settings, world.clock, world.random, world.log, world.metrics,  # type: ignore[arg-type]
        )  # fmt: skip
        said = await refused(desk.password(session("imap", trusted=True), name, "pw"))
        try:
            canonical = saslprep(name).lower().removesuffix(".").removesuffix("@us.example")
        except ValueError:
            canonical = ""
        assert said == ("ada" if canonical == "ada" else "5.7.8")
        desk.close()

    asyncio.run(story())
