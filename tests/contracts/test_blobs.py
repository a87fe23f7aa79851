"""Contents: small ones in rows, large ones in the pool; what is damaged is never served (cases 9, 27)."""

from __future__ import annotations

import hashlib
import os
import random

import pytest

from pillarbox.model.errors import DamagedMessage
from pillarbox.model.ids import EmailId
from pillarbox.model.mailbox import Content
from pillarbox.model.outcome import Delivered
from pillarbox.model.uids import ALL
from pillarbox.store.api import NewEmail, Settlement, Store, Target

from .engines import Engine

HEADER = b"Subject: large\r\n\r\n"


def large_octets(size: int = 3 * (1 << 20) + 12345) -> bytes:
    """Half of it does not compress."""
    line = random.Random(7).randbytes(700).hex().encode() + b"\r\n"
    return HEADER + (line * (size // len(line) + 1))[: size - len(HEADER)]


async def written(store: Store, octets: bytes, piece: int = 50_000) -> Content:
    writer = store.blobs.writer()
    for at in range(0, len(octets), piece):
        writer.write(octets[at : at + piece])
        await writer.drain()
    assert writer.size == len(octets)
    return await writer.finish()


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 12345])
def test_what_was_written_is_read(engine: Engine, size: int) -> None:
    octets = large_octets(size) if size > 100 else b"x" * size

    async def story(store: Store) -> None:
        content = await written(store, octets)
        assert (content.size, content.sha256) == (size, hashlib.sha256(octets).digest())
        assert (content.data is None) == (size > 128 * 1024)
        assert await store.blobs.read(content) == octets
        for offset, length in ((0, 10), (size // 2, 1 << 19), (max(0, size - 5), 99), (size + 9, 1)):
            assert await store.blobs.read(content, offset, length) == octets[offset : offset + length]
        assert b"".join([piece async for piece in store.blobs.chunks(content)]) == octets

    engine.run(story)


def test_a_large_message_on_its_way(engine: Engine) -> None:
    octets = large_octets()

    async def story(store: Store) -> None:
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        content = await written(store, octets)
        message = engine.message()
        message = type(message)(message.id, message.envelope, content, message_id="x")
        [claim] = await store.spool.accept(message, [engine.job(message, Target("local", account))], claim=1)
        assert claim.message.content == content
        [filed] = await store.mailboxes.deliver(account, [engine.delivery(claim.job, message)])
        assert filed is not None
        await store.spool.settle([Settlement(claim.job.id, claim.token, Delivered())])
        email = await store.mailboxes.open(account, filed.email)
        prefix = b"Delivered-To: ada@pillarbox.test\r\n"
        assert email.size == len(prefix) + len(octets)
        assert await email.read() == prefix + octets
        assert await email.read(10, 2_000_000) == (prefix + octets)[10:2_000_010]
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        [piece] = [s async for s in store.mailboxes.fetch(account, inbox, ALL, ("data", "subject"))]
        assert piece.forms == [(None, "large")]
        assert await store.verify() == []
        await store.mailboxes.expunge(account, inbox, ALL, only_deleted=False)
        assert await store.verify(account) == []

    engine.run(story)


def test_a_content_that_is_not_on_disk_is_not_accepted(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account = engine.account_id()
        await store.mailboxes.create_account(account)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        missing = Content(b"\1" * 32, 1 << 20)
        with pytest.raises(Exception, match="not in the pool"):
            await store.mailboxes.append(account, inbox, [NewEmail(EmailId(engine.id()), missing)])
        assert (await store.mailboxes.status(account, "INBOX")).messages == 0
        with pytest.raises(DamagedMessage):
            await store.blobs.read(missing)

    engine.run(story)


def test_aborted_writing_leaves_nothing(engine: Engine) -> None:
    async def story(store: Store) -> None:
        writer = store.blobs.writer()
        writer.write(os.urandom(3 << 20))
        writer.abort()
        writer = store.blobs.writer()
        writer.write(b"small")
        writer.abort()

    engine.run(story)
    assert not [path for path in (engine.home / "tmp").rglob("*") if path.is_file()]
