"""The desk: who may send what to whom, and what becomes of it. Cases 63 to 78, 93, 94, 96, 100, 101, 103, 123, 124."""

from __future__ import annotations

import asyncio

from pillarbox.model.errors import Refused
from pillarbox.model.outcome import Delivered

from .world import MESSAGE, World, send, session

RELAY = "5.7.1 relay-denied"


def run(scenario):
    return asyncio.run(scenario)


async def refusal(work) -> str:
    """ "status rule" of the refusal that the work ends with; "" if it does not."""
    try:
        await work
    except Refused as refused:
        return f"{refused.status} {refused.rule}"
    return ""


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
        assert "account:ada" in world.signals.topics
        assert world.log.events("info") == ["accepted"]
        assert [event.event for event in world.store.spool.events] == ["received", "delivered"]

    run(scenario())
