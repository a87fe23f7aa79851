"""The desk: who may send what to whom, and what becomes of it. Cases 63 to 78, 93, 94, 96, 100, 101, 103, 123, 124."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from pillarbox.mail.desk import MxHost
from pillarbox.mail.intake import MailDesk
from pillarbox.model.address import Address
from pillarbox.model.envelope import Recipient
from pillarbox.model.errors import Refused, StoreFull, Trouble
from pillarbox.model.outcome import Delivered, Failed
from pillarbox.model.settings import Limits

from .world import MESSAGE, SETTINGS, World, address, envelope, send, session


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def refusal(work: Awaitable[object]) -> str:
    """ "status rule" of the refusal that the work ends with; "" if there is none."""
    try:
        await work
    except Refused as refused:
        return f"{refused.status} {refused.rule}"
    return ""


async def ask(desk: MailDesk, at: Any, recipient: Address, sender: str = "carl@elsewhere.example") -> str:
    """What RCPT says."""
    transaction = await desk.mail(at, envelope(sender), 0)
    return await refusal(desk.rcpt(at, transaction, Recipient(recipient)))


def test_a_message_reaches_the_mailbox_with_its_prefix():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        spool_id, outcomes = await send(desk, session(tls="TLSv1.3 X"), "carl@elsewhere.example", ["ada+x@us.example"])
        await desk.close()
        assert outcomes == [Delivered((2, 0, 0))]
        [email] = world.inbox("ada")
        head, _, rest = email.partition(b"From: Carl")
        assert head.startswith(
            b"Return-Path: <carl@elsewhere.example>\r\nDelivered-To: ada+x@us.example\r\nReceived: from "
        )
        assert b"by mx.us.example with ESMTPS id " + spool_id.encode() in head
        assert b"for <ada+x@us.example>" in head
        assert b"From: Carl" + rest == MESSAGE
        assert world.store.spool.rows == {}
        assert world.log.events("info") == ["accepted"]
        assert [event.event for event in world.store.spool.events] == ["received", "delivered"]

    run(scenario())


def test_forms_are_computed_once_and_handed_over():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        await send(desk, session(), "carl@elsewhere.example", ["ada@us.example", "bob@us.example"])
        await desk.close()
        ada, bob = (world.store.mailboxes.filed[name][0].forms for name in ("ada", "bob"))
        assert ada is bob and ada.subject == "Hello" and ada.message_id == "1@elsewhere.example"

    run(scenario())


def test_several_recipients_are_not_named_to_one_another():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        await send(desk, session(), "carl@elsewhere.example", ["ada@us.example", "bob@us.example"])
        await desk.close()
        assert b"bob@" not in world.inbox("ada")[0]

    run(scenario())


def test_case_063_a_declared_size_over_the_limit():
    async def scenario():
        desk = (await World().furnish()).desk()
        said = await refusal(desk.mail(session(), envelope("carl@elsewhere.example"), 99_999_999_999))
        assert said == "5.3.4 message-size"

    run(scenario())


def test_case_064_a_lie_about_the_size():
    async def scenario():
        world = World(replace(SETTINGS, limits=Limits(message_octets=1000)))
        desk = (await world.furnish()).desk()
        big = MESSAGE + b"x\r\n" * 400
        assert await refusal(send(desk, session(), "", ["ada@us.example"], big)) == "5.3.4 message-size"
        assert world.store.spool.accepted == []

    run(scenario())


def test_case_068_too_many_recipients_earlier_ones_stand():
    async def scenario():
        world = World(replace(SETTINGS, limits=Limits(recipients=2)))
        desk = (await world.furnish()).desk()
        at = session()
        transaction = await desk.mail(at, envelope("carl@elsewhere.example"), 0)
        await desk.rcpt(at, transaction, Recipient(address("ada@us.example")))
        await desk.rcpt(at, transaction, Recipient(address("bob@us.example")))
        third = Recipient(address("postmaster@us.example"))
        assert await refusal(desk.rcpt(at, transaction, third)) == "4.5.3 recipients"
        assert len(transaction.recipients) == 2

    run(scenario())


RELAY_FORMS = [
    Address("user", "victim.example"),
    Address("USER", "victim.example"),
    Address("user", "us.example.victim.example"),
    Address("user", "notus.example"),
    Address("user", "sub.us.example"),
    Address("user%victim.example", "us.example"),
    Address("user%victim.example%x.example", "us.example"),
    Address("user%victim", "us.example"),
    Address("user@victim.example", "us.example"),
    Address("a@b@victim.example", "us.example"),
    Address("user%victim.example", "victim.example"),
    Address("victim.example!user", "us.example"),
    Address("a!b!user", "us.example"),
    Address("user", "[198.51.100.7]"),
    Address("user", "[127.0.0.1]"),
    Address("user", "[192.0.2.25]"),
    Address("user", "[IPv6:2001:db8::1]"),
    Address("user%[198.51.100.7]", "us.example"),
    Address("user@[198.51.100.7]", "us.example"),
    Address("ada", "us.example.example"),
    Address("postmaster", "victim.example"),
    Address("ada%us.example", "victim.example"),
    Address("ada@us.example", "victim.example"),
    Address("us.example!ada", "victim.example"),
    Address("user", "xn--bcher-kva.example"),
]


@pytest.mark.parametrize("recipient", RELAY_FORMS, ids=str)
def test_case_071_no_open_relay(recipient):
    async def scenario():
        world = await World().furnish()
        for at in (session(), session("lmtp"), session(peer="127.0.0.1"), session(trusted=True)):
            assert (await ask(world.desk(), at, recipient)).startswith("5.7.1 relay-denied")

    run(scenario())


def test_case_072_relay_networks_and_logins_may_relay():
    async def scenario():
        world = await World().furnish()
        desk, ada = world.desk(), await world.account("ada")
        away = address("user@victim.example")
        assert await ask(desk, session(may_relay=True), away) == ""
        assert await ask(desk, session("submission", account=ada), away, "ada@us.example") == ""
        assert await ask(desk, session("smtp", account=ada), away, "ada@us.example") == ""
        assert await ask(desk, session("lmtp", may_relay=True), away) == "5.7.1 relay-denied"

    run(scenario())


def test_submission_needs_a_login():
    async def scenario():
        desk = (await World().furnish()).desk()
        said = await refusal(desk.mail(session("submission"), envelope("ada@us.example"), 0))
        assert said == "5.7.0 authentication-required"

    run(scenario())


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        ("ada@us.example", True),
        ("ADA@us.example", True),
        ("ada+lists@us.example", True),
        ("sales@us.example", True),
        ("", True),
        ("bob@us.example", False),
        ("bobs@us.example", False),
        ("nobody@us.example", False),
        ("ada@elsewhere.example", False),
        ("outside@us.example", False),
    ],
)
def test_case_073_an_account_sends_only_as_itself(sender, allowed):
    async def scenario():
        world = await World().furnish()
        await world.alias("sales@us.example", "ada@us.example", "bob@us.example")
        await world.alias("bobs@us.example", "bob@us.example")
        await world.alias("outside@us.example", "ada@elsewhere.example")
        at = session("submission", account=await world.account("ada"))
        said = await refusal(world.desk().mail(at, envelope(sender), 0))
        assert said == ("" if allowed else "5.7.1 sender")

    run(scenario())


def test_a_session_that_is_open_does_not_outlive_its_account():
    async def scenario():
        world = await World().furnish()
        account = await world.account("ada")
        at = session("submission", account=account)
        assert await refusal(world.desk().mail(at, envelope("ada@us.example"), 0)) == ""
        await world.store.directory.set_state(account.id, "disabled", 0)
        assert await refusal(world.desk().mail(at, envelope("ada@us.example"), 0)) == "5.7.1 account-state"

    run(scenario())


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (b"From: Ada <ada@us.example>\r\n", True),
        (b"From: ada+work@us.example\r\n", True),
        (b"From: Bob <bob@us.example>\r\n", False),
        (b"From: ada@us.example, bob@us.example\r\n", False),
        (b"From: ada@us.example, ada+x@us.example\r\n", True),
        (b"From: ada@us.example\r\nFrom: bob@us.example\r\n", False),
        (b"From: ada@us.example\r\nFrom: ada@us.example\r\n", False),
        (b"From: bob@us.example (ada@us.example)\r\n", False),
        (b'From: "ada@us.example" <bob@us.example>\r\n', False),
        (b"From: undisclosed:;\r\n", False),
        (b"From:\r\n", False),
        (b"From : bob@us.example\r\n", False),
        (b"Subject: no author\r\n", True),
    ],
)
def test_case_074_the_author_is_the_account(header, allowed):
    async def scenario():
        world = await World().furnish()
        at = session("submission", account=await world.account("ada"))
        said = await refusal(send(world.desk(), at, "ada@us.example", ["bob@us.example"], header + b"\r\nHi.\r\n"))
        assert said.split(" ")[0] in (("",) if allowed else ("5.7.1", "5.6.0"))

    run(scenario())


def test_case_075_the_null_sender_may_have_two_recipients():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        await send(desk, session(), "", ["ada@us.example", "bob@us.example"])
        await desk.close()
        assert world.inbox("bob")[0].startswith(b"Return-Path: <>\r\n")

    run(scenario())


@pytest.mark.parametrize("local", ["", "x" * 65])
def test_case_076_impossible_recipients(local):
    async def scenario():
        desk = (await World().furnish()).desk()
        assert await ask(desk, session(), Address(local, "us.example")) == "5.1.3 recipient-syntax"

    run(scenario())


@pytest.mark.parametrize("local", ["|cmd", "/etc/x", ":include:", "${run}", "%00", "../ada", "*", "ada?", "a" * 64])
def test_case_078_and_093_addresses_name_no_files_or_programs(local):
    async def scenario():
        desk = (await World().furnish()).desk()
        assert await ask(desk, session(), Address(local, "us.example")) == "5.1.1 unknown-user"

    run(scenario())


def test_postmaster_and_abuse_reach_someone():
    async def scenario():
        world = await World().furnish()
        await world.alias("@us.example", "bob@us.example")
        desk = world.desk()
        everyone = ["postmaster", "Postmaster@us.example", "abuse@us.example", "postmaster+x@us.example"]
        await send(desk, session(), "", everyone)
        await desk.close()
        assert len(world.inbox("ada")) == 1 and world.inbox("bob") == []
        orphaned = await World(replace(SETTINGS, postmaster="gone@us.example")).furnish(["bob@us.example"])
        assert await ask(orphaned.desk(), session(), address("abuse@us.example")) == ""

    run(scenario())


def test_case_094_a_full_mailbox_refuses_for_now():
    async def scenario():
        world = await World().furnish()
        await world.add_user("cy@us.example", quota_octets=1000)
        desk = world.desk()
        world.store.mailboxes.sizes["cy"] = 999
        assert await ask(desk, session(), address("cy@us.example")) == ""
        declared = [await desk.mail(session(), envelope(""), size) for size in (1, 2)]
        cy = Recipient(address("cy@us.example"))
        assert [await refusal(desk.rcpt(session(), t, cy)) for t in declared] == ["", "4.2.2 quota"]
        world.store.mailboxes.sizes["cy"] = 1000
        assert await ask(desk, session(), address("cy@us.example")) == "4.2.2 quota"
        await world.alias("both@us.example", "cy@us.example", "ada@us.example")
        assert await ask(desk, session(), address("both@us.example")) == ""

    run(scenario())


def test_what_was_accepted_is_delivered_past_the_quota():
    async def scenario():
        world = await World().furnish()
        await world.add_user("cy@us.example", quota_octets=10)
        desk = world.desk()
        transaction = await desk.mail(session(), envelope(""), 0)
        await desk.rcpt(session(), transaction, Recipient(address("cy@us.example")))
        content = desk.content(session(), transaction)
        content.write(MESSAGE)
        await desk.accept(session(), transaction, content)
        await desk.close()
        assert len(world.inbox("cy")) == 1

    run(scenario())


def test_case_096_delivered_to_of_the_same_recipient_is_a_loop():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        looped = b"Delivered-To: Ada@us.example\r\n" + MESSAGE
        assert await refusal(send(desk, session(), "", ["ada@us.example"], looped)) == "5.4.6 delivered-before"
        assert await refusal(send(desk, session(), "", ["bob@us.example"], looped)) == ""
        _, outcomes = await send(desk, session("lmtp"), "", ["ada@us.example", "bob@us.example"], looped)
        assert [type(outcome) for outcome in outcomes] == [Failed, Delivered]
        await desk.close()
        assert len(world.inbox("bob")) == 2 and world.inbox("ada") == []

    run(scenario())


def test_a_hundred_hops_are_too_many():
    async def scenario():
        desk = (await World().furnish()).desk()
        hop = b"Received: from a by b; Fri, 15 Jan 2027 08:00:00 +0000\r\n"
        assert await refusal(send(desk, session(), "", ["ada@us.example"], hop * 99 + MESSAGE)) == ""
        said = await refusal(send(desk, session(), "", ["ada@us.example"], hop * 100 + MESSAGE))
        assert said == "5.4.6 too-many-hops"

    run(scenario())


def test_case_100_aliases_in_a_circle_give_one_copy_each():
    async def scenario():
        world = await World().furnish()
        await world.alias("one@us.example", "two@us.example", "ada@us.example")
        await world.alias("two@us.example", "one@us.example", "bob@us.example", "ada@us.example")
        await world.alias("self@us.example", "self@us.example")
        desk = world.desk()
        everyone = ["one@us.example", "two@us.example", "ada@us.example"]
        await send(desk, session(), "", everyone)
        await desk.close()
        assert (len(world.inbox("ada")), len(world.inbox("bob"))) == (1, 1)
        assert await ask(desk, session(), address("self@us.example")) == "5.4.6 alias-loop"

    run(scenario())


def test_case_103_a_sender_whose_domain_takes_no_mail():
    async def scenario():
        world = await World().furnish()
        world.resolver.mxs["nomail.example"] = [MxHost(0, "")]
        world.resolver.broken.add("dark.example")
        desk = world.desk(resolver=world.resolver)
        mail = envelope("x@nomail.example")
        assert await refusal(desk.mail(session(), mail, 0)) == "5.7.27 sender-null-mx"
        assert await refusal(desk.mail(session(), envelope("x@dark.example"), 0)) == ""
        assert await refusal(desk.mail(session(), envelope("ada@us.example"), 0)) == ""

    run(scenario())


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"From: a@b.example\r\nFrom: c@d.example\r\n", "5.6.0 two-authors"),
        (b" From: a@b.example\r\nSubject: x\r\n", "5.6.0 malformed-header"),
        (b"From : a@b.example\r\n", "5.6.0 malformed-header"),
        (b"Subject: x\r\nFrom\r\n : a@b.example\r\n", "5.6.0 malformed-header"),
        (b"From: a@b.example\r\nX-Big: " + b"x" * 110_000 + b"\r\n", ""),
        (b"From: a@b.example\r\n" + b"X: y\r\n" * 2001, "5.6.0 too-many-fields"),
        (b"Subject: no author at all\r\n", ""),
    ],
)
def test_cases_123_to_125_headers_that_readers_disagree_on(header, said):
    async def scenario():
        world = World(replace(SETTINGS, limits=Limits(content_line_octets=60_000)))
        desk = (await world.furnish()).desk()
        if b"X-Big" in header:
            folded = header.replace(b"x" * 50_000, b"x" * 50_000 + b"\r\n ")
            got = await refusal(send(desk, session(), "", ["ada@us.example"], folded + b"\r\nHi.\r\n"))
            assert got == "5.6.0 field-too-large"
            return
        assert await refusal(send(desk, session(), "", ["ada@us.example"], header + b"\r\nHi.\r\n")) == said

    run(scenario())


def test_submission_adds_what_is_missing_and_the_forms_show_it():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        at = session("submission", account=await world.account("ada"))
        bare = b"From: ada@us.example\r\nSubject: Hi\r\n\r\nHi.\r\n"
        spool_id, _ = await send(desk, at, "ada@us.example", ["bob@us.example"], bare)
        await desk.close()
        [filed] = world.store.mailboxes.filed["bob"]
        assert b"\r\nDate: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <" in filed.prefix
        assert filed.content.data == bare
        assert filed.forms.message_id == f"{spool_id}@mx.us.example"
        assert filed.forms.sent_at == 1_800_000_000
        assert world.store.spool.accepted[0].account == "ada"

    run(scenario())


def test_mail_for_elsewhere_waits_in_the_spool_and_wakes_the_mover():
    async def scenario():
        world = await World().furnish()
        await world.alias("team@us.example", "ada@us.example", "far@elsewhere.example")
        desk = world.desk()
        await send(desk, session(), "carl@third.example", ["team@us.example"])
        await desk.close()
        [row] = world.store.spool.rows.values()
        assert (row.job.target.name, str(row.job.recipient.address)) == ("elsewhere.example", "far@elsewhere.example")
        assert row.job.original == address("team@us.example")
        assert "spool" in world.signals.topics
        assert len(world.inbox("ada")) == 1

    run(scenario())


def test_volume_of_a_host_and_bursts_of_an_account():
    async def scenario():
        limits = Limits(octets_per_ip_minute=2 * len(MESSAGE), submission_burst=2)
        world = await World(replace(SETTINGS, limits=limits)).furnish()
        desk = world.desk()
        said = [await refusal(send(desk, session(), "", ["ada@us.example"])) for _ in range(3)]
        assert said == ["", "", "4.7.1 octets-per-ip"]
        assert await refusal(send(desk, session(peer="198.51.100.9"), "", ["ada@us.example"])) == ""
        at = session("submission", account=await world.account("ada"))
        mine = MESSAGE.replace(b"carl@elsewhere", b"ada@us", 1)
        said = [await refusal(send(desk, at, "ada@us.example", ["bob@us.example"], mine)) for _ in range(3)]
        assert said == ["", "", "4.7.1 submission-burst"]
        world.clock.advance(120)
        assert await refusal(send(desk, at, "ada@us.example", ["bob@us.example"], mine)) == ""
        assert await refusal(send(desk, session(), "", ["ada@us.example"])) == ""
        await desk.close()

    run(scenario())


def test_rates_of_hosts_mailboxes_and_accounts():
    async def scenario():
        limits = Limits(messages_per_ip_minute=6, mailbox_messages_per_minute=2, submission_messages_per_hour=2)
        world = await World(replace(SETTINGS, limits=limits)).furnish()
        desk = world.desk()
        hello = address("ada@us.example")
        said = [await refusal(ask_raising(desk, session(), hello)) for _ in range(3)]
        assert said == ["", "", ""]  # asking is free: a stranger who only asks closes no mailbox
        said = [await refusal(send(desk, session(), "x@elsewhere.example", ["ada@us.example"])) for _ in range(4)]
        assert said == ["", "", "4.2.1 mailbox-rate", "4.7.1 messages-per-ip"]
        assert [await ask(desk, session(peer="198.51.100.9", trusted=True), hello) for _ in range(9)] == [""] * 9
        at = session("submission", account=await world.account("ada"))
        mine = MESSAGE.replace(b"carl@elsewhere", b"ada@us", 1)
        said = [await refusal(send(desk, at, "ada@us.example", ["bob@us.example"], mine)) for _ in range(3)]
        assert said == ["", "", "4.7.1 submission-rate"]
        world.clock.advance(2 * 3600)
        assert await refusal(send(desk, at, "ada@us.example", ["bob@us.example"], mine)) == ""
        await desk.close()

    async def ask_raising(desk, at, recipient):
        transaction = await desk.mail(at, envelope("carl@elsewhere.example"), 0)
        await desk.rcpt(at, transaction, Recipient(recipient))

    run(scenario())


def test_case_012_a_disk_that_is_nearly_full_takes_only_our_users_mail():
    async def scenario():
        world = await World().furnish()
        world.store.room = False
        desk = world.desk()
        with pytest.raises(StoreFull):
            await desk.mail(session(), envelope("carl@elsewhere.example"), 0)
        await desk.mail(session("submission", account=await world.account("ada")), envelope("ada@us.example"), 0)
        world.store.room = True
        world.clock.advance(1)
        await desk.mail(session(), envelope("carl@elsewhere.example"), 0)

    run(scenario())


def test_when_the_spool_fails_nothing_is_accepted():
    async def scenario():
        world = await World().furnish()

        async def broken(*args, **kwargs):
            raise Trouble("disk")

        world.store.spool.accept = broken
        desk = world.desk()
        with pytest.raises(Trouble):
            await send(desk, session(), "", ["ada@us.example"])
        await desk.close()
        assert world.inbox("ada") == []

    run(scenario())


def test_a_large_message_is_parsed_in_a_thread_and_arrives_whole():
    async def scenario():
        world = await World().furnish()
        desk = world.desk()
        large = MESSAGE + b"0123456789\r\n" * 50_000
        await send(desk, session(), "", ["ada@us.example"], large)
        await desk.close()
        assert world.inbox("ada")[0].endswith(large)

    run(scenario())
