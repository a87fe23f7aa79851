"""Messages accepted durably and delivered into mailboxes, beside Postfix with Dovecot's LMTP.

Postfix's own smtp-source makes the load for both (20 sessions, 4,096 octets, a new connection for each message). The
clock runs from its start until an IMAP client sees the last message in the mailbox. Pairs are interleaved (A B A B);
medians. Three rows: one mailbox; spread over many accounts; one message to many recipients.

    python -m bench.accept [--messages 3000] [--accounts 2000] [--recipients 1000] [--pairs 5] [--only a,a2,a3]
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from functools import partial

from tests.neighbours.mailhost import MailHost, User
from tests.neighbours.processes import program
from tests.neighbours.wire import ImapWire, WireError

from bench.figures import Row, arguments, finish, in_pairs
from bench.hosts import DOMAIN, both, make_users

SESSIONS, OCTETS = 20, 4096
LAST = 10  # accounts looked at to end the clock; as many others are chosen at random


def rows(
    messages: int, accounts: int, recipients: int, pairs: int, only: str = "a,a2,a3", mail_format: str = "maildir"
) -> list[Row]:
    """Measure the chosen rows."""
    wanted = only.split(",")
    single = make_users([f"box{number}" for number in range(2 * pairs)])
    # smtp-source -N writes numbers before the name: 1many, 2many, …; -r does too: many, 2many, 3many, …
    many = make_users(["many"] + [f"{number}many" for number in range(1, max(accounts, recipients) + 1)])
    found = []
    with both(single + many, mail_format=mail_format) as hosts:
        ours, theirs = hosts.ours.mailhost, hosts.theirs.mailhost
        if "a" in wanted:
            boxes = iter(single)
            rates = in_pairs(
                pairs,
                lambda: one_mailbox(ours, next(boxes), messages),
                lambda: one_mailbox(theirs, next(boxes), messages),
            )
            found.append(Row("accept and deliver, one mailbox", "messages/s", *rates, "≥ 3"))
        tallies = (Tally(ours), Tally(theirs))
        if "a2" in wanted:
            rates = in_pairs(pairs, *(partial(spread, tally, many[1 : accounts + 1]) for tally in tallies))
            found.append(Row(f"the same over {accounts:,} accounts", "messages/s", *rates, "≥ 3"))
        if "a3" in wanted:
            rates = in_pairs(
                pairs, *(partial(one_to_many, tally, many[:1] + many[2 : recipients + 1]) for tally in tallies)
            )
            found.append(Row(f"one message to {recipients:,} recipients", "deliveries/s", *rates, ""))
            found.append(Row("  of these, as a bound", "deliveries/s", rates[0], None, "≥ 1000"))
        for tally in tallies:
            tally.check_all()
    return found


class Tally:
    """How many messages each user of a host should have by now."""

    def __init__(self, mailhost: MailHost) -> None:
        self.mailhost = mailhost
        self.expected: Counter[User] = Counter()

    def time(self, users: tuple[User, ...], *options: str) -> float:
        """Send one message to each of `users` by smtp-source with `options`; return the seconds until all have it.

        The clock stops when the users that smtp-source names last, and some chosen at random, have theirs.
        """
        begun = time.perf_counter()
        source(self.mailhost, *options)
        self.expected.update(users)
        for user in [*users[-LAST:], *random.sample(users, min(LAST, len(users)))]:
            with ImapWire(self.mailhost.imap, user) as imap:  # one session: logins would compete with what is measured
                while count(imap) < self.expected[user]:
                    time.sleep(0.01)
        return time.perf_counter() - begun

    def check_all(self) -> None:
        """Look at every mailbox: each has exactly what was sent."""
        for user, count_expected in self.expected.items():
            there = held(self.mailhost, user)
            assert there == count_expected, f"{self.mailhost.name}: {user.address} has {there}, not {count_expected}"


def one_mailbox(mailhost: MailHost, user: User, messages: int) -> float:
    """Return messages a second into one new mailbox."""
    with ImapWire(mailhost.imap, user) as imap:
        begun = time.perf_counter()
        source(mailhost, "-m", str(messages), "-t", user.address)
        while count(imap) < messages:
            time.sleep(0.02)
        took = time.perf_counter() - begun
        time.sleep(0.2)
        assert count(imap) == messages, f"{mailhost.name}: {count(imap)} of {messages} messages"
    return messages / took


def spread(tally: Tally, users: tuple[User, ...]) -> float:
    """Return messages a second, one to each of `users`."""
    return len(users) / tally.time(users, "-m", str(len(users)), "-N", "-t", f"many@{DOMAIN}")


def one_to_many(tally: Tally, users: tuple[User, ...]) -> float:
    """Return deliveries a second of one message to all of `users`."""
    return len(users) / tally.time(users, "-m", "1", "-r", str(len(users)), "-t", f"many@{DOMAIN}")


def held(mailhost: MailHost, user: User) -> int:
    """Return how many messages a user has."""
    with ImapWire(mailhost.imap, user) as imap:
        return count(imap)


def count(imap: ImapWire) -> int:
    """Return the number of messages in INBOX, as STATUS says it."""
    for said in imap.command(b"STATUS INBOX (MESSAGES)"):
        if said.startswith(b"* STATUS"):
            return int(said.rpartition(b"MESSAGES ")[2].rstrip(b")"))
    raise WireError("no STATUS")


def source(mailhost: MailHost, *options: str) -> None:
    """Run smtp-source to its end; raise CalledProcessError if a message was refused."""
    command = [program("smtp-source") or "smtp-source", "-s", str(SESSIONS), "-l", str(OCTETS), *options]
    command += ["-f", "outside@sender.test", "-M", "client.test", f"{mailhost.host}:{mailhost.smtp}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode or done.stderr:
        raise SystemExit(f"smtp-source to {mailhost.name}: {done.returncode} {done.stderr[-2000:]}")


def main() -> None:
    """Measure and print."""
    options = arguments(
        __doc__, messages=3000, accounts=2000, recipients=1000, pairs=5, only="a,a2,a3", mail_format="maildir"
    )
    found = rows(
        options.messages, options.accounts, options.recipients, options.pairs, options.only, options.mail_format
    )
    finish(found, as_json=options.json)


if __name__ == "__main__":
    main()
