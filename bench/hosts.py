"""The two systems under measurement: a pillarbox, and Debian's Postfix + Dovecot, each set up for the same users.

Both are durable: pillarbox has no other mode; Postfix syncs its queue files, Dovecot its mail files (mail_fsync at its
default "optimized"). Both run with the defaults an administrator gets, but for places, ports, user databases, and the
limits on clients from one address, which are lifted for loopback on both sides.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.neighbours.mailhost import User
from tests.neighbours.peers import PeerHost
from tests.neighbours.pillarbox_server import Pillarbox
from tests.neighbours.processes import open_folder
from tests.neighbours.programs import find_missing

DOMAIN = "pillarbox.test"
PROGRAMS = ("postfix", "dovecot", "smtp-source")

# Loopback clients are many and quick here; the same for both sides.
LIMITS = """\
mailbox_messages_per_minute = 100000000
messages_per_ip_minute = 100000000
sessions_per_account = 100000
sessions_per_account_and_ip = 100000
sessions_imap = 100000
"""
POSTFIX = {
    "smtpd_client_connection_count_limit": "0",
    "smtpd_recipient_limit": "2000",
    "in_flow_delay": "0",
}


@dataclass(frozen=True, slots=True)
class Hosts:
    """Both systems, running."""

    ours: Pillarbox
    theirs: PeerHost


@contextmanager
def both(users: tuple[User, ...], *, mail_format: str = "maildir", idle_sessions: int = 1000) -> Iterator[Hosts]:
    """Start both systems with `users`, and end them."""
    if missing := find_missing(*PROGRAMS):
        raise SystemExit(f"bench: not installed: {', '.join(missing)} (tests/neighbours/install.sh installs them)")
    end_in_order()
    with open_folder("/tmp/pillarbox-bench") as folder:
        ours = make_pillarbox(folder / "pillarbox", users)
        theirs = PeerHost(
            folder / "peers",
            users,
            mail_format=mail_format,
            idle_sessions=idle_sessions,
            postfix_settings=POSTFIX,
        )
        ours.start()
        try:
            theirs.start()
            try:
                yield Hosts(ours, theirs)
            finally:
                theirs.stop()
        finally:
            ours.stop()


@contextmanager
def pillarbox_alone(users: tuple[User, ...]) -> Iterator[Pillarbox]:
    """Start a pillarbox with `users`, and end it."""
    end_in_order()
    with open_folder("/tmp/pillarbox-bench") as folder:
        ours = make_pillarbox(folder / "pillarbox", users)
        ours.start()
        try:
            yield ours
        finally:
            ours.stop()


def make_pillarbox(folder: Path, users: tuple[User, ...]) -> Pillarbox:
    """Set up a pillarbox with `users`."""
    ours = Pillarbox(folder, users, domain=DOMAIN, limits=LIMITS)
    ours.set_up()
    return ours


def make_users(names: list[str]) -> tuple[User, ...]:
    """Users of the bench's domain, all with one password."""
    return tuple(User(f"{name}@{DOMAIN}", "secret") for name in names)


def end_in_order() -> None:
    """Let SIGTERM end the bench like Ctrl-C, so that the servers it started end too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
