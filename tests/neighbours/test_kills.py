"""SIGKILL of any process of the server, at random moments, under load: what was acknowledged is there exactly once.

The program keeps its own list of what was acknowledged: each message has a number in its Subject, goes to one to four
local users, and counts from the `250` (or from the tagged OK of an APPEND) on. At the end every acknowledged message is
in each recipient's mailbox once; one that was sent but never acknowledged is there once or not at all.

Also runs alone: `python -m tests.neighbours.test_kills --kills 500 --seconds 400 --seed 7`. As a test it takes its
figures from PILLARBOX_KILLS (110), PILLARBOX_KILLS_S (85) and PILLARBOX_KILLS_SEED (the time).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from .conftest import AGAINST_PEERS
from .mailhost import MailHost, User
from .messages import simple
from .pillarbox_server import Pillarbox
from .processes import alive, open_folder, until
from .wire import ImapWire, SmtpWire, WireError

SENDERS, APPENDERS, RECIPIENTS = 8, 2, 6
BY_HAND = 0.1  # about this part of all kills hits the supervisor
NUMBER = re.compile(rb"^Subject: kill (\d+)\r\n", re.M)
DOMAIN = "pillarbox.test"


class Victim(Protocol):
    """A mail server that can be killed."""

    mailhost: MailHost

    def family(self) -> list[int]:
        """Its processes, first the one that must be started again by hand."""

    def start(self) -> None:
        """Start it, and wait until it serves."""

    def settled(self) -> bool:
        """Say whether nothing waits in its queue."""


class PillarboxVictim(Pillarbox):
    """A pillarbox to be killed."""

    def settled(self) -> bool:
        """Say whether nothing waits in the queue; True also settles nothing while the command itself fails."""
        try:
            listed = json.loads(self.command("queue", "list", "--json") or "[]")
        except AssertionError:
            return False
        return not (listed.get("jobs", listed) if isinstance(listed, dict) else listed)


@dataclass
class Ledger:
    """Whom each message was sent to, and which were acknowledged."""

    sent: dict[int, tuple[str, ...]] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self, recipients: tuple[str, ...]) -> int:
        """A number for a message to `recipients`."""
        with self.lock:
            number = len(self.sent) + 1
            self.sent[number] = recipients
            return number


@dataclass
class Outcome:
    """What a run showed; `ours` tells kills by role."""

    kills: int
    supervisor_kills: int
    seconds: float
    sent: int
    acknowledged: int
    lost: list[str]
    doubled: list[str]
    strange: list[str]

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.supervisor_kills} of the supervisor) in {self.seconds:.0f} s; "
            f"{self.sent} messages sent, {self.acknowledged} acknowledged; "
            f"lost {len(self.lost)}, doubled {len(self.doubled)}"
        )


@pytest.mark.skipif(AGAINST_PEERS, reason="the peers make no such promise")
def test_what_was_acknowledged_survives_every_kill(folder: Path) -> None:
    seed = int(os.environ.get("PILLARBOX_KILLS_SEED", str(time.time_ns() % 1_000_000)))
    victim = make_victim(folder / "kills")
    try:
        outcome = torment(
            victim,
            kills=int(os.environ.get("PILLARBOX_KILLS", "110")),
            seconds=float(os.environ.get("PILLARBOX_KILLS_S", "85")),
            seed=seed,
        )
    finally:
        victim.stop()
    print(outcome)
    assert outcome.lost == [], f"seed {seed}"
    assert outcome.doubled == [], f"seed {seed}"
    assert outcome.strange == [], f"seed {seed}"
    assert outcome.kills >= 100
    assert outcome.seconds <= 90


def make_victim(folder: Path) -> PillarboxVictim:
    """Set up and start a pillarbox in `folder`."""
    users = tuple(User(f"kill{number}@{DOMAIN}", f"secret-{number}") for number in range(RECIPIENTS))
    victim = PillarboxVictim(
        folder,
        users,
        domain=DOMAIN,
        workers=2,
        limits="mailbox_messages_per_minute = 1000000\n",
        queue="first_retry_s = 1.0\nmax_retry_s = 3.0\n",
    )
    victim.set_up()
    victim.start()
    return victim


def torment(victim: Victim, *, kills: int, seconds: float, seed: int) -> Outcome:
    """Kill processes of `victim` under load, let it settle, and count."""
    chance = random.Random(seed)
    ledger = Ledger()
    ending = threading.Event()
    clients = [
        *(threading.Thread(target=_send_until, args=(victim, ledger, ending, seed + n)) for n in range(SENDERS)),
        *(threading.Thread(target=_append_until, args=(victim, ledger, ending, n)) for n in range(APPENDERS)),
    ]
    for client in clients:
        client.start()
    begun = time.monotonic()
    done = supervisor_kills = 0
    restart_s = 1.5
    try:
        while done < kills and time.monotonic() - begun < seconds:
            # what restarts by hand will cost is kept back, so that the kills fit into the time
            left = seconds - (time.monotonic() - begun) - restart_s * BY_HAND * (kills - done)
            time.sleep(chance.uniform(0, 1.8) * max(left, 0.0) / (kills - done + 1))
            family = victim.family()
            chosen = _choose(family, chance)
            for pid in chosen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    done += 1
            if family[0] in chosen:
                supervisor_kills += 1
                fell = time.monotonic()
                until("all processes to end with their supervisor", lambda f=family: not any(map(alive, f)), 15)
                victim.start()
                restart_s = 0.7 * restart_s + 0.3 * (time.monotonic() - fell)
        took = time.monotonic() - begun
    finally:
        ending.set()
        for client in clients:
            client.join()
    lost, doubled = _count(victim, ledger)
    return Outcome(
        done, supervisor_kills, took, len(ledger.sent), len(ledger.acknowledged), lost, doubled, ledger.strange
    )


def _choose(family: list[int], chance: random.Random) -> list[int]:
    """Mostly one process below the supervisor; at times the supervisor, two at once, or all at once."""
    supervisor, *others = family
    dice = chance.random()
    if not others or dice < 0.07:
        return [supervisor]
    if dice < 0.11:
        return family
    return chance.sample(others, min(2 if dice < 0.2 else 1, len(others)))


def _send_until(victim: Victim, ledger: Ledger, ending: threading.Event, seed: int) -> None:
    """Send message after message; any broken connection just ends this try."""
    chance = random.Random(seed)
    addresses = [user.address for user in victim.mailhost.users]
    while not ending.is_set():
        try:
            with SmtpWire(victim.mailhost.smtp, timeout_s=20) as smtp:
                for _ in range(chance.randrange(1, 20)):
                    recipients = tuple(chance.sample(addresses, chance.choice((1, 1, 2, 4))))
                    number = ledger.new(recipients)
                    size = chance.choice((1, 20, 400, 4000))  # up to 200 KB: beyond what is kept in the row
                    smtp.deliver(
                        "outside@sender.test", recipients, simple(f"kill {number}", b"%048d\r\n" % number * size)
                    )
                    ledger.acknowledged.add(number)
                    if ending.is_set():
                        break
        except WireError as error:
            if b"421" not in str(error).encode() and b"451" not in str(error).encode():
                ledger.strange.append(f"SMTP: {error}")
        except OSError:
            pass
        ending.wait(0.02)


def _append_until(victim: Victim, ledger: Ledger, ending: threading.Event, client: int) -> None:
    """Append message after message by IMAP."""
    user = victim.mailhost.users[client]
    while not ending.is_set():
        try:
            with ImapWire(victim.mailhost.imap, user, timeout_s=20) as imap:
                while not ending.is_set():
                    number = ledger.new((user.address,))
                    imap.append("INBOX", simple(f"kill {number}", b"%048d\r\n" % number * 50))
                    ledger.acknowledged.add(number)
                    ending.wait(0.02)
        except WireError as error:
            ledger.strange.append(f"IMAP: {error}") if "BYE" not in str(error) and "UNAVAILABLE" not in str(
                error
            ) else None
        except OSError:
            pass
        ending.wait(0.1)


def _count(victim: Victim, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Wait for the queue to settle; return what is lost and what is doubled, in words."""
    until("an empty queue", victim.settled, 90, 0.5)
    lost, doubled = [], []
    for user in victim.mailhost.users:
        there: Counter[int] = Counter()
        with ImapWire(victim.mailhost.imap, user) as imap:
            imap.select()
            uids = list(imap.flags())
            if uids != sorted(set(uids)):
                doubled.append(f"{user.address}: UIDs {uids}")
            there = _numbers(imap, uids)
        for number, recipients in ledger.sent.items():
            count = there[number]
            if user.address not in recipients:
                if count:
                    doubled.append(f"message {number} for {recipients} is also with {user.address}")
            elif count > 1:
                doubled.append(f"message {number} is {count} times with {user.address}")
            elif not count and number in ledger.acknowledged:
                lost.append(f"message {number} for {user.address}")
    return lost, doubled


def _numbers(imap: ImapWire, uids: list[int]) -> Counter[int]:
    """Read every message whole, check that it is not torn, and count its number."""
    there: Counter[int] = Counter()
    for start in range(0, len(uids), 100):
        some = uids[start : start + 100]
        for uid, said in imap.fetch(b"BODY.PEEK[]", b"%d:%d" % (some[0], some[-1])).items():
            octets = said.partition(b"}\r\n")[2].removesuffix(b")")
            found = NUMBER.search(octets)
            assert found, f"UID {uid}: {octets[:300]!r}"
            lines = set(octets.partition(b"\r\n\r\n")[2].split(b"\r\n")) - {b""}
            assert lines == {b"%048d" % int(found[1])}, f"UID {uid} is torn: {sorted(lines)[:3]}"
            there[int(found[1])] += 1
    return there


def main() -> None:
    """Run once with given figures, or again and again with new seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--seconds", type=float, default=85)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    for run in range(options.runs):
        with open_folder("/tmp/pillarbox-kills") as folder:
            victim = make_victim(folder)
            try:
                outcome = torment(victim, kills=options.kills, seconds=options.seconds, seed=options.seed + run)
            finally:
                victim.stop()
        print(f"seed {options.seed + run}: {outcome}", flush=True)
        for line in [*outcome.lost[:20], *outcome.doubled[:20], *outcome.strange[:20]]:
            print("  ", line)
        if outcome.lost or outcome.doubled:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
