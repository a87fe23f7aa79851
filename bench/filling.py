"""Put many messages into one mailbox of both systems before a bench, by pipelined APPEND (RFC 3501, LITERAL+)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tests.neighbours.mailhost import MailHost, User
from tests.neighbours.wire import ImapWire, WireError

from bench.corpus import corpus

AT_ONCE = 200


def fill(mailhost: MailHost, user: User, messages: int) -> None:
    """Append the corpus to INBOX."""
    with ImapWire(mailhost.imap, user, timeout_s=300) as imap:
        waiting: Iterator[bytes] = corpus(messages)
        while some := list(islice(waiting, AT_ONCE)):
            flags = (b"", b"\\Seen", b"\\Seen \\Answered", b"\\Flagged")
            imap.send(
                b"".join(
                    b"a%d APPEND INBOX (%s) {%d+}\r\n%s\r\n" % (number, flags[number % 4], len(octets), octets)
                    for number, octets in enumerate(some)
                )
            )
            done = 0
            while done < len(some):
                said = imap.response()
                if said.startswith(b"a"):
                    if b" OK" not in said[:12]:
                        raise WireError(f"{mailhost.name}: {said!r}")
                    done += 1
