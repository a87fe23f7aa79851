"""Many emails in one read, as clients that download a mailbox ask for them."""

from __future__ import annotations

from pillarbox.model.ids import EmailId
from pillarbox.store.api import Bundle, NewEmail, Store

from .engines import Engine
from .test_mailboxes import with_account

HEADER = b"Subject: %d\r\nX-Zero: \0\r\n\xff\r\n\r\n"
CONTENTS = [
    HEADER % 1 + b"body\r\n",
    HEADER % 2 + b".dot\r\n\0\0\r\n",
    b"\r\nno header\r\n",
    b"Subject: no body",
    b"",
    b"Subject: LF\n\nbody\r\n\r\n.\n",
    b"X: " + b"x" * 70_000 + b"\r\n\r\nbehind much header\r\n",
]
PREFIX = b"Delivered-To: ada\r\n"


def pieces(found: Bundle) -> list[bytes | None]:
    """Each email by itself."""
    cut: list[bytes | None] = []
    at = 0
    for size in found.sizes:
        cut.append(found.octets[at : at + size] if size >= 0 else None)
        at += max(0, size)
    assert at == len(found.octets)
    return cut


def test_emails_are_joined_in_the_order_asked_for(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        large = b"Subject: large\r\n\r\n" + b"x" * 200_000
        emails = [engine.email(octets=octets, prefix=PREFIX) for octets in CONTENTS]
        filed = await store.mailboxes.append(account, inbox, emails)
        numbers = [headline.email for headline in filed]
        order = [numbers[3], numbers[0], 9999, *numbers[1:3], *numbers[4:]]
        found = await store.mailboxes.bundle(account, order)
        wanted = [CONTENTS[3], CONTENTS[0], None, *CONTENTS[1:3], *CONTENTS[4:]]
        assert pieces(found) == [octets if octets is None else PREFIX + octets for octets in wanted]
        assert found.modseq == await store.mailboxes.modseq(account)
        assert found.dotted
        starts = found.body_starts
        assert starts[1] == len(PREFIX + HEADER % 1) and starts[4] == len(PREFIX) + 2
        assert (await store.mailboxes.bundle(account, numbers[:1])).dotted is False
        assert pieces(await store.mailboxes.bundle(account, ())) == []

        writer = store.blobs.writer()
        writer.write(large)
        await writer.drain()
        content = await writer.finish()
        [there] = await store.mailboxes.append(account, inbox, [NewEmail(EmailId(engine.id()), content)])
        assert pieces(await store.mailboxes.bundle(account, [there.email, numbers[0]])) == [None, PREFIX + CONTENTS[0]]

    engine.run(story)


def test_only_heads(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account, inbox = await with_account(engine, store)
        emails = [engine.email(octets=octets, prefix=PREFIX) for octets in CONTENTS]
        filed = await store.mailboxes.append(account, inbox, emails)
        found = await store.mailboxes.bundle(account, [headline.email for headline in filed], heads_only=True)
        heads = pieces(found)
        for octets, head, start in zip(CONTENTS, heads, found.body_starts, strict=True):
            assert head is not None, octets[:100]
            whole = PREFIX + octets
            assert whole.startswith(head)
            assert len(head) == start or (start > len(head) == len(PREFIX) + 16 * 1024)

    engine.run(story)
