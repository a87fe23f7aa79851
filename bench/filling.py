"""Put many messages into one mailbox of each system before a bench, without its protocols: they would take long.

pillarbox gets them through its own store, a hundred to a commit; Dovecot as files of a Maildir, with the sizes in their
names, as it writes them itself. The messages and their flags are the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from itertools import islice

from tests.neighbours.dovecot import Dovecot
from tests.neighbours.mailhost import User
from tests.neighbours.pillarbox_server import Pillarbox

from bench.corpus import corpus
from pillarbox.message.wire import wire_forms
from pillarbox.model.address import Address
from pillarbox.model.ids import EmailId, make_id
from pillarbox.model.mailbox import Content
from pillarbox.model.settings import Settings
from pillarbox.net.clock import SystemClock
from pillarbox.store.api import NewEmail
from pillarbox.store.sqlite.engine import open_store

FLAGS = ((), ("\\Seen",), ("\\Seen", "\\Answered"), ("\\Flagged",))
LETTERS = ("", "S", "RS", "F")
BEGINNING_S = 1_700_000_000


def fill_pillarbox(server: Pillarbox, user: User, messages: int) -> None:
    """File the corpus in INBOX by the store's own verbs; the server may run meanwhile."""
    asyncio.run(_fill(server, user, messages))


async def _fill(server: Pillarbox, user: User, messages: int) -> None:
    store = await open_store(server.home, signals=None, settings=Settings(), clock=SystemClock(), role="bench")
    try:
        account = await store.directory.account(Address(user.name, server.mailhost.domain))
        assert account is not None
        inbox = await store.mailboxes.status(account.id, "INBOX")
        for emails in _hundreds(_emails(messages)):
            await store.mailboxes.append(account.id, inbox.id, emails)
        await store.checkpoint()
    finally:
        await store.close()


def _hundreds(emails: Iterator[NewEmail]) -> Iterator[list[NewEmail]]:
    while some := list(islice(emails, 100)):
        yield some


def _emails(messages: int) -> Iterator[NewEmail]:
    for number, octets in enumerate(corpus(messages)):
        yield NewEmail(
            EmailId(make_id(time.time(), os.urandom)),
            Content(hashlib.sha256(octets).digest(), len(octets), octets),
            received_s=BEGINNING_S + number,
            flags=frozenset(FLAGS[number % 4]),
            forms=wire_forms(octets),
        )


def fill_dovecot(server: Dovecot, user: User, messages: int) -> None:
    """Write the corpus as files of the user's Maildir."""
    maildir = server.mail_folder(user) / "Maildir"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True, exist_ok=True)
    for number, octets in enumerate(corpus(messages)):
        stored = octets.replace(b"\r\n", b"\n")
        seconds = BEGINNING_S + number
        name = f"{seconds}.M{number}P1.bench,S={len(stored)},W={len(octets)}:2,{LETTERS[number % 4]}"
        path = maildir / "cur" / name
        path.write_bytes(stored)
        os.utime(path, (seconds, seconds))
    server.give_to_mail(server.mail_folder(user))
