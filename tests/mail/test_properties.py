"""Nothing a peer sends raises anything but a refusal, whatever it is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.mail.logins import LoginDesk
from pillarbox.model.address import Address
from pillarbox.model.envelope import Recipient
from pillarbox.model.errors import Refused

from .world import World, envelope, send, session

HEADERS = st.lists(
    st.sampled_from(
        [
            b"From: a@b.example",
            b"From: ada@us.example",
            b"From :x",
            b"from: ",
            b" folded",
            b"\tx",
            b"Received: x",
            b":",
            b"\r",
        ]
        + [
            b"Delivered-To: ada@us.example",
            b"Delivered-To: \xff",
            b"Date: x",
            b"Message-ID: <x",
            b"From: <>,,(",
            b"\xff\xfe",
        ]
        + [b"Content-Type: multipart/mixed; boundary=x", b"--x", b"--x--", b"", b"Content-Type: message/rfc822"]
    ),
    max_size=12,
).map(b"\r\n".join)


@settings(max_examples=60, deadline=None)
@given(message=HEADERS | st.binary(max_size=300), submitted=st.booleans())
def test_any_message_is_taken_or_refused(message, submitted):
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        at = session("submission", account=await world.account("ada")) if submitted else session()
        taken = True
        try:
            await send(desk, at, "ada@us.example", ["ada@us.example"], message)
        except Refused:
            taken = False
        await desk.close()
        assert len(world.inbox("ada")) == taken
        assert not taken or world.inbox("ada")[0].endswith(message)
        assert world.log.events("error") == []

    asyncio.run(scenario())


LOCALS = st.text(max_size=70) | st.sampled_from(
    ["ada", "a%b", "+", "++", "ada+", "postmaster+", "@", "!", "a!b", "a@b", '"']
)
DOMAINS = st.sampled_from(
    ["us.example", "away.example", "", "[127.0.0.1]", "[", "[IPv6:::1]", "xn--", "us.example.us.example"]
)


@settings(max_examples=150, deadline=None)
@given(local=LOCALS, domain=DOMAINS)
def test_no_recipient_relays_or_breaks_anything(local, domain):
    async def scenario():
        world = await World().furnish()
        await world.alias("@us.example", "bob@us.example") if local.startswith("a") else None
        desk, at = world.desk(), session()
        transaction = await desk.mail(at, envelope("carl@elsewhere.example"), 0)
        with contextlib.suppress(Refused):
            await desk.rcpt(at, transaction, Recipient(Address(local, domain)))
            assert domain in ("us.example", "")

    asyncio.run(scenario())


@settings(max_examples=40, deadline=None)
@given(name=st.text(max_size=40), password=st.text(max_size=40) | st.just("\ud800"))
def test_any_name_and_password_end_in_a_refusal(name: str, password: str) -> None:
    async def no_wait(seconds: float) -> None:
        pass

    async def scenario() -> None:
        world = await World().furnish()
        store: Any = world.store
        desk = LoginDesk(store, world.settings, world.clock, world.random, world.log, sleep=no_wait)
        for work in (desk.password(session("imap"), name, password), desk.verifier(session("imap"), name)):
            with contextlib.suppress(Refused):
                result = await work
                assert isinstance(result, tuple) and result[1] is None
        desk.close()

    asyncio.run(scenario())
