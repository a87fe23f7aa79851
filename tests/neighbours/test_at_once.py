"""SMTP delivery, POP3 download, and IMAP sessions with flags and expunge, all at once on one account.

PILLARBOX_AT_ONCE_S sets how long (60 s). Every message is numbered: POP3 clients delete the even ones, each IMAP client
expunges its share of the odd ones. At the end each message that was acknowledged to its sender was deleted once or is
there once, and none ever had two UIDs. No session may err, save for what the standards allow: a POP3 session that finds
the mailbox locked, or a message that another session expunged.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from .mailhost import MailHost, User
from .messages import simple
from .wire import ImapWire, PopWire, SmtpWire, WireError

SMTP_CLIENTS, POP3_CLIENTS, IMAP_CLIENTS, WATCHERS = 3, 3, 3, 2
NUMBER = re.compile(rb"^Subject: at once (\d+)\r\n", re.M)

# A client's work: mail host, user, ledger, when to end (monotonic), and which of its kind it is.
Work: TypeAlias = Callable[[MailHost, User, "Ledger", float, int], None]


@dataclass
class Ledger:
    """What each client saw, and what went wrong."""

    acknowledged: set[int] = field(default_factory=set)
    deleted: Counter[int] = field(default_factory=Counter)
    uids: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    downloads: int = 0
    expunges: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 0

    def new_number(self) -> int:
        """A number for the next message."""
        with self.lock:
            self._next += 1
            return self._next

    def saw(self, uid: int, number: int, who: str) -> None:
        """A client saw message `number` at `uid`: no other may be there, nor it elsewhere."""
        with self.lock:
            known = self.uids.setdefault(number, uid)
            if known != uid:
                self.errors.append(f"{who}: message {number} at UID {uid}, before at {known}")


def test_everything_at_once(server: MailHost, user: User) -> None:
    seconds = float(os.environ.get("PILLARBOX_AT_ONCE_S", "60"))
    ledger = Ledger()
    end = time.monotonic() + seconds
    kinds: list[tuple[Work, int]] = [
        (_deliver_until, SMTP_CLIENTS),
        (_download_until, POP3_CLIENTS),
        (_flag_and_expunge_until, IMAP_CLIENTS),
        (_watch_until, WATCHERS),
    ]
    threads = [
        threading.Thread(target=_guard, args=(what, server, user, ledger, end, client))
        for what, count in kinds
        for client in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 120)
        assert not thread.is_alive(), "a client hangs"
    assert ledger.errors == []
    left = _settled(server, user, ledger)
    for number in ledger.acknowledged:
        seen = ledger.deleted[number] + left[number]
        assert seen == 1, f"message {number} was counted {seen} times"
    assert set(left) | set(ledger.deleted) == ledger.acknowledged
    print(
        f"{len(ledger.acknowledged)} messages, {ledger.downloads} downloads, {ledger.expunges} expunges, "
        f"{sum(left.values())} left"
    )
    assert ledger.downloads
    assert ledger.expunges


def _guard(what: Work, server: MailHost, user: User, ledger: Ledger, end: float, client: int) -> None:
    try:
        what(server, user, ledger, end, client)
    except Exception as error:
        ledger.errors.append(f"{what.__name__} {client}: {error!r}")


def _settled(server: MailHost, user: User, ledger: Ledger) -> Counter[int]:
    """Wait until nothing more arrives; return how often each number is there, and check that UIDs ascend."""
    end = time.monotonic() + 30
    while True:
        with ImapWire(server.imap, user) as imap:
            messages = imap.messages()
        left = Counter(_number(octets) for octets in messages.values())
        if len(left) + len(ledger.deleted) >= len(ledger.acknowledged) or time.monotonic() > end:
            break
        time.sleep(0.5)
    assert list(messages) == sorted(messages)
    for uid, octets in messages.items():
        ledger.saw(uid, _number(octets), "end")
    assert ledger.errors == []
    return left


def _number(octets: bytes) -> int:
    found = NUMBER.search(octets)
    assert found, octets[:300]
    return int(found[1])


def _deliver_until(server: MailHost, user: User, ledger: Ledger, end: float, client: int) -> None:
    while time.monotonic() < end:
        with SmtpWire(server.smtp) as smtp:
            for _ in range(random.randrange(1, 6)):
                number = ledger.new_number()
                smtp.deliver("outside@sender.test", [user.address], simple(f"at once {number}", b"words\r\n" * 100))
                with ledger.lock:
                    ledger.acknowledged.add(number)
            smtp.send(b"QUIT\r\n")
        time.sleep(0.05)


def _download_until(server: MailHost, user: User, ledger: Ledger, end: float, client: int) -> None:
    """Download everything, and delete what has an even number."""
    while time.monotonic() < end:
        time.sleep(random.uniform(0.1, 0.5))
        try:
            pop = PopWire(server.pop3, user)
        except WireError as error:
            if "IN-USE" in str(error) or "lock" in str(error).lower():  # RFC 1939 §4: one session at a time
                continue
            raise
        with pop:
            taken = []
            for number in list(pop.listing())[:20]:
                try:
                    taken.append((number, _number(pop.retrieve(number))))
                except WireError:
                    continue  # expunged elsewhere meanwhile
            marked = [message for number, message in taken if message % 2 == 0 and _marked(pop, number)]
            pop.quit()
            with ledger.lock:
                ledger.downloads += len(taken)
                ledger.deleted.update(marked)


def _marked(pop: PopWire, number: int) -> bool:
    try:
        pop.say(f"DELE {number}")
    except WireError:
        return False
    return True


def _flag_and_expunge_until(server: MailHost, user: User, ledger: Ledger, end: float, client: int) -> None:
    """Read, flag and expunge; of the odd numbers those that are this client's."""
    while time.monotonic() < end:
        with ImapWire(server.imap, user) as imap:
            imap.select()
            for _ in range(random.randrange(1, 8)):
                found = imap.fetch(b"BODY.PEEK[HEADER.FIELDS (SUBJECT)]")
                uids = sorted(found)
                assert uids == list(found), "UIDs do not ascend"
                numbers = {
                    uid: _number(octets.partition(b"}\r\n")[2]) for uid, octets in found.items() if b"}" in octets
                }
                for uid, number in numbers.items():
                    ledger.saw(uid, number, "imap")
                if uids:
                    imap.command(b"UID STORE %s +FLAGS (Mine%d \\Seen)" % (_some_of(uids, 3), client))
                own = [uid for uid, number in numbers.items() if number % 2 and number // 2 % IMAP_CLIENTS == client]
                if own:
                    _expunge(imap, own[:3], ledger, [numbers[uid] for uid in own[:3]])
                imap.command(b"NOOP")
                time.sleep(random.uniform(0.02, 0.2))
            imap.logout()


def _some_of(uids: list[int], count: int) -> bytes:
    return b",".join(b"%d" % uid for uid in random.sample(uids, min(count, len(uids))))


def _expunge(imap: ImapWire, uids: list[int], ledger: Ledger, numbers: list[int]) -> None:
    which = b",".join(b"%d" % uid for uid in uids)
    imap.command(b"UID STORE %s +FLAGS.SILENT (\\Deleted)" % which)
    imap.command(b"UID EXPUNGE %s" % which)
    assert not set(uids) & set(imap.flags()), "an expunged message is still there"
    with ledger.lock:
        ledger.expunges += len(numbers)
        ledger.deleted.update(numbers)


def _watch_until(server: MailHost, user: User, ledger: Ledger, end: float, client: int) -> None:
    """Keep one session open all the time, and keep the view that a client keeps (RFC 3501 §7.4.1, §5.2)."""
    with ImapWire(server.imap, user) as imap:
        view = View()
        view.hear(imap.select())
        while time.monotonic() < end:
            view.hear(imap.command(b"NOOP"))
            if view.uids:
                view.hear(imap.command(b"FETCH 1:* (UID FLAGS)"))
            time.sleep(0.1)
        imap.logout()


class View:
    """The UIDs of a selected mailbox by sequence number, as far as the server told them."""

    EXISTS = re.compile(rb"\* (\d+) EXISTS")
    EXPUNGE = re.compile(rb"\* (\d+) EXPUNGE")
    FETCH = re.compile(rb"\* (\d+) FETCH .*?\bUID (\d+)\b")

    def __init__(self) -> None:
        self.uids: list[int | None] = []

    def hear(self, responses: list[bytes]) -> None:
        """Take in untagged responses, in order."""
        for said in responses:
            if found := self.EXISTS.match(said):
                count = int(found[1])
                assert count >= len(self.uids), f"EXISTS fell from {len(self.uids)} to {count} without EXPUNGE"
                self.uids += [None] * (count - len(self.uids))
            elif found := self.EXPUNGE.match(said):
                number = int(found[1])
                assert 1 <= number <= len(self.uids), f"{said!r} of {len(self.uids)}"
                del self.uids[number - 1]
            elif found := self.FETCH.match(said):
                number, uid = int(found[1]), int(found[2])
                assert 1 <= number <= len(self.uids), f"{said!r} of {len(self.uids)}"
                known = self.uids[number - 1]
                assert known in (None, uid), f"message {number} had UID {known}, now {uid}"
                self.uids[number - 1] = uid
        told = [uid for uid in self.uids if uid is not None]
        assert told == sorted(set(told)), "UIDs do not ascend"
