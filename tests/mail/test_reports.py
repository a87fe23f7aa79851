"""Who is told what: NOTIFY, null senders, strangers, aliases. Cases 24, 25, 122."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pillarbox.message.scan import scan
from pillarbox.model.envelope import Recipient
from pillarbox.model.errors import Trouble
from pillarbox.model.outcome import Deferred, Failed
from pillarbox.model.status import Status

from .test_queue import away_world, pass_time, post, turn
from .world import address, send, session

UNKNOWN = Failed(Status(5, 1, 1), "no such user", "mx.away.example")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def notify(*words: str) -> Recipient:
    return Recipient(address("x@away.example"), notify=frozenset(words))


@pytest.mark.parametrize(
    ("sender", "recipient", "reported"),
    [
        ("ada@us.example", notify(), True),
        ("ada@us.example", notify("FAILURE"), True),
        ("ada@us.example", notify("FAILURE", "DELAY"), True),
        ("ada@us.example", notify("NEVER"), False),
        ("ada@us.example", notify("SUCCESS"), False),
        ("ada+lists@us.example", notify(), True),
        ("", notify(), False),
        ("nobody@us.example", notify(), False),
    ],
)
def test_failures_are_told_to_those_who_want_to_know(sender, recipient, reported):
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: UNKNOWN
        mover = world.mover()
        await post(world, sender, recipient)
        await turn(world, mover)
        await turn(world, mover)
        assert len(world.inbox("ada")) == reported
        assert world.store.spool.rows == {}

    run(scenario())


def test_the_report_is_a_whole_message_from_nobody():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: Failed(
            Status(5, 1, 1), "no \x1b[31m<b>user</b>\r\nX: y", "mx.away.example"
        )
        mover = world.mover()
        await post(world, "ada@us.example", "x@away.example", "y@away.example", envid="QQ314159")
        await turn(world, mover)
        [(report, jobs)] = world.store.spool.reports
        assert report.envelope.reverse_path is None and len(jobs) == 1
        await turn(world, mover)
        [email] = world.inbox("ada")
        assert email.startswith(b"Return-Path: <>\r\nDelivered-To: ada@us.example\r\n")
        message = scan(email)
        kinds = [part.content_type.value for part in message.parts]
        assert kinds == [b"multipart/report", b"text/plain", b"message/delivery-status", b"text/rfc822-headers"]
        assert email.count(b"Final-Recipient:") == 2 and b"Original-Envelope-Id: QQ314159" in email
        assert b"\x1b" not in email and b"\r\nX: y" not in email
        assert b"Subject: Hello" in email and b"Hello Ada." not in email

    run(scenario())


def test_ret_full_returns_the_message():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: UNKNOWN
        mover = world.mover()
        await post(world, "ada@us.example", "x@away.example", ret="FULL")
        await turn(world, mover)
        await turn(world, mover)
        assert b"Hello Ada." in world.inbox("ada")[0]

    run(scenario())


def test_case_025_a_report_that_cannot_be_delivered_ends():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: UNKNOWN
        mover = world.mover()
        await post(world, "carl@other.example", "x@away.example")
        for _ in range(4):
            await turn(world, mover)
        assert [sent.recipients for sent in world.wire.sent] == [["x@away.example"], ["carl@other.example"]]
        assert world.store.spool.rows == {} and len(world.store.spool.reports) == 1
        assert world.metrics.counts["double_bounces"] == 1
        assert "undeliverable report dropped" in world.log.events("warning")

    run(scenario())


def test_strangers_are_told_of_failures_but_not_of_delays():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: Deferred(Status(4, 7, 1), "later")
        mover = world.mover()
        await post(world, "carl@other.example", "x@away.example")
        await pass_time(world, mover, 86400)
        assert world.store.spool.reports == []

    run(scenario())


def test_mail_for_an_account_that_was_removed_is_returned():
    async def scenario():
        world = await away_world()
        mover = world.mover()
        await post(world, "ada@us.example", "bob@us.example")
        await world.store.mailboxes.trash_account((await world.account("bob")).id)
        await turn(world, mover)
        await turn(world, mover)
        assert b"Status: 5.1.1" in world.inbox("ada")[0]

    run(scenario())


def test_a_report_that_cannot_be_made_now_is_made_later():
    async def scenario():
        world = await away_world()
        world.wire.answer = lambda hop, rcpt: UNKNOWN
        mover = world.mover()
        [job] = await post(world, "ada@us.example", "x@away.example")
        blobs = world.store.blobs
        world.store.blobs = Broken()
        await turn(world, mover)
        row = world.store.spool.rows[job]
        assert (world.store.spool.reports, row.leased, row.job.attempts) == ([], False, 1)
        world.store.blobs = blobs
        await pass_time(world, mover, 600)
        assert len(world.store.spool.reports) == 1 and world.store.spool.ended[job] == UNKNOWN

    run(scenario())


class Broken:
    """Contents that cannot be written, nor read."""

    def __getattr__(self, name: str) -> Any:
        raise Trouble("disk")


def test_a_report_names_the_address_that_was_written_to():
    async def scenario():
        world = await away_world()
        await world.alias("team@us.example", "far@away.example")
        world.wire.answer = lambda hop, rcpt: UNKNOWN
        desk, mover = world.desk(), world.mover()
        await send(desk, session(), "ada@us.example", ["team@us.example"])
        await desk.close()
        await turn(world, mover)
        await turn(world, mover)
        [report] = world.inbox("ada")
        assert b"Original-Recipient: rfc822; team@us.example" in report
        assert b"Final-Recipient: rfc822; far@away.example" in report

    run(scenario())
