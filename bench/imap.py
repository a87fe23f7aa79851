"""IMAP FETCH over a large mailbox, beside Dovecot with the same messages.

Both mailboxes hold the same messages (`filling.py`). Each command runs twice in a session and the second counts
(warm: Dovecot's cache file is filled, as it is after a client's first look); sessions are interleaved in pairs (A B A
B), medians. The reader is a raw socket that only looks for the last line.

    python -m bench.imap [--messages 100000] [--pairs 5]
"""

from __future__ import annotations

from tests.neighbours.mailhost import MailHost, User
from tests.neighbours.wire import ImapWire

from bench.drain import timed_until
from bench.figures import Row, arguments, finish, in_pairs
from bench.filling import fill_dovecot, fill_pillarbox
from bench.hosts import both, make_users

HEADERS = b"BODY.PEEK[HEADER.FIELDS (From To Cc Subject Date Message-ID References Content-Type)]"
COMMANDS: tuple[tuple[str, bytes, float], ...] = (
    ("FETCH FLAGS", b"FLAGS", 1),
    ("FETCH ENVELOPE", b"ENVELOPE", 3),
    ("FETCH BODYSTRUCTURE", b"BODYSTRUCTURE", 1),
    ("FETCH header list", HEADERS, 1),
)
SHORT_MS = 50  # where the peer needs less, 0.8 of it is enough


def rows(messages: int, pairs: int) -> list[Row]:
    """Fill both mailboxes and measure every command."""
    [user] = make_users(["reader"])
    found = []
    with both((user,)) as hosts:
        ours, theirs = hosts.ours.mailhost, hosts.theirs.mailhost
        fill_pillarbox(hosts.ours, user, messages)
        fill_dovecot(hosts.theirs.dovecot, user, messages)
        for name, what, asked in COMMANDS:
            milliseconds = in_pairs(
                pairs,
                lambda what=what: warm_ms(ours, user, what, messages),
                lambda what=what: warm_ms(theirs, user, what, messages),
            )
            least = 0.8 if asked == 1 and milliseconds[1] < SHORT_MS else asked
            found.append(Row(f"{name} of {messages:,}", "ms", *milliseconds, f"≥ {least:g}", more_is_better=False))
    return found


def warm_ms(mailhost: MailHost, user: User, what: bytes, messages: int) -> float:
    """Return the milliseconds of the second of two equal FETCHes of all messages in one session."""
    with ImapWire(mailhost.imap, user, timeout_s=300) as imap:
        selected = imap.select()
        assert b"* %d EXISTS" % messages in selected, selected
        timed_until(imap.sock, b"f1 FETCH 1:* (%s)\r\n" % what, b"f1 OK")
        seconds, octets = timed_until(imap.sock, b"f2 FETCH 1:* (%s)\r\n" % what, b"f2 OK")
        assert octets > messages * 20, f"{mailhost.name} sent only {octets} octets"
    return seconds * 1000


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, messages=100_000, pairs=5)
    finish(rows(options.messages, options.pairs), as_json=options.json)


if __name__ == "__main__":
    main()
