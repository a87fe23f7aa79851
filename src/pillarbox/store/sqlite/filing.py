"""Putting emails into mailboxes and taking them out: append, deliver, copy, move, expunge. In the caller's transaction.

An email has rows in `email`, `head` and `content` (with its octets, up to 128 KiB); its placements are in chunks. Rows
of an email whose last placement went are removed later (`bury`), in small steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from pillarbox.message.wire import VERSION, WireForms, wire_forms
from pillarbox.model.errors import NoSuchMailbox, OverQuota
from pillarbox.model.flags import DELETED, SEEN, flag_names
from pillarbox.model.mailbox import EmailHeadline, Placements
from pillarbox.model.uids import UidSet
from pillarbox.store.api import Delivery, Moved, NewEmail
from pillarbox.store.blobs.frames import link_into, read_whole
from pillarbox.store.blobs.pool import sync_directory
from pillarbox.store.sqlite import bulk, mailboxes, placements
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.mailboxes import Box, Meta

EMAIL_FORMS: Final = ("version", "bodystructure", "parts")
HEAD_FORMS: Final = (
    "envelope", "headers", "field_codes", "subject", "base_subject", "sent_s", "message_id", "refs",
)  # fmt: skip
CONTENT_FORMS: Final = ("body", "preview")
"""What the parser makes of a message, as the first columns of `email`, `head` and `content` after the id."""
Filing = tuple[Box, NewEmail]


class Files:
    """Where an account's large contents are, and where they come from."""

    __slots__ = ("blobs", "current", "kept", "pool")

    def __init__(self, folder: Path, pool: Path) -> None:
        self.blobs = folder / "blobs"
        self.pool = pool
        self.kept: Kept | None = None
        self.current: set[tuple[int, int]] = set()
        """Runs of emails (first, last) whose forms were seen to be of this parser: ids are not used again, and forms
        only become newer."""


class Kept:
    """What a transaction that only delivered left on its connection: the next one need not read it again, if nothing
    has changed since. `version` is the connection's data version before that commit, which adds one to it."""

    __slots__ = ("boxes", "db", "meta", "tails", "version")

    def __init__(self, db: Db, version: int) -> None:
        self.db = db
        self.version = version
        self.meta = Meta(db)
        self.boxes: dict[str, Box] = {}
        self.tails: dict[int, placements.Tail] = {}

    def holds(self, db: Db, version: int) -> bool:
        """Is it still what the file says?"""
        return self.db is db and self.version + 1 == version


def email_forms(forms: WireForms) -> tuple[Any, ...]:
    """Values for EMAIL_FORMS."""
    return VERSION, forms.bodystructure, forms.parts


def head_forms(forms: WireForms) -> tuple[Any, ...]:
    """Values for HEAD_FORMS."""
    return (
        forms.envelope, forms.headers, forms.field_codes, forms.subject, forms.base_subject, forms.sent_at,
        forms.message_id, " ".join(forms.references),
    )  # fmt: skip


def content_forms(forms: WireForms) -> tuple[Any, ...]:
    """Values for CONTENT_FORMS."""
    return forms.body, forms.preview


def append(
    db: Db, files: Files, mailbox: int, emails: Sequence[NewEmail], quota_octets: int, now_s: int
) -> list[EmailHeadline]:
    """APPEND of one or several (RFC 3502)."""
    meta, box = Meta(db), mailboxes.by_id(db, mailbox)
    _check_selectable(box)
    if quota_octets:
        more = sum(len(email.prefix) + email.content.size for email in emails)
        check_quota(db, quota_octets, more)
    filed = _file(db, files, meta, [(box, email) for email in emails], now_s)
    meta.save()
    return filed


def check_quota(db: Db, quota_octets: int, more: int) -> None:
    """Raises OverQuota if the account would hold more than it may."""
    octets, _ = mailboxes.totals(db)
    if octets + more > quota_octets:
        raise OverQuota(f"{octets} + {more} octets of {quota_octets}")


def deliver(
    db: Db, files: Files, deliveries: Sequence[Delivery], now_s: int, alone: bool = False
) -> list[EmailHeadline | None]:
    """File each delivery whose job is not in `delivered`, and write it there. `alone`: nothing else is done in this
    transaction; only then what was kept is believed, and something is kept: the data version tells of other
    transactions, but not of what this one did before or does afterwards."""
    kept, files.kept = files.kept, None
    version = db.data_version()
    if kept is None or not alone or not kept.holds(db, version):
        kept = Kept(db, version)
    filings: list[Filing] = []
    where: list[int] = []
    fresh = _remember(db, deliveries)
    for i, delivery in enumerate(deliveries):
        if fresh[i]:
            filings.append((_target(db, delivery.mailbox, kept.boxes), delivery.email))
            where.append(i)
    answer: list[EmailHeadline | None] = [None] * len(deliveries)
    if filings:
        kept.meta.begin()
        for i, headline in zip(where, _file(db, files, kept.meta, filings, now_s, kept.tails), strict=True):
            answer[i] = headline
        kept.meta.save()
    if alone:
        kept.version = version
        files.kept = kept
    return answer


def _remember(db: Db, deliveries: Sequence[Delivery]) -> list[bool]:
    """Write the jobs into `delivered`; which of them were not there yet."""
    fresh = []
    for delivery in deliveries:
        db.execute("INSERT OR IGNORE INTO delivered VALUES(?)", (delivery.job,))
        fresh.append(db.changes() == 1)
    return fresh


def _target(db: Db, name: str, boxes: dict[str, Box]) -> Box:
    """The mailbox of this name, else INBOX; one Box for one mailbox, however it is spelt."""
    known = boxes.get(name)
    if known is not None:
        return known
    box = mailboxes.find(db, name)
    if box is None or box.special_use == mailboxes.NOSELECT:
        box = mailboxes.by_name(db, "INBOX")
    box = boxes[name] = next((known for known in boxes.values() if known.id == box.id), box)
    return box


def _check_selectable(box: Box) -> None:
    if box.special_use == mailboxes.NOSELECT:
        raise NoSuchMailbox(f"{box.name} is only a name")


def _file(
    db: Db,
    files: Files,
    meta: Meta,
    filings: Sequence[Filing],
    now_s: int,
    tails: dict[int, placements.Tail] | None = None,
) -> list[EmailHeadline]:
    """Write new emails and their placements. Changes `meta` (the caller saves it) and the boxes (saved here); `tails`
    are the last chunks of mailboxes as far as they are known, and are kept up."""
    bits = [box.bits(email.flags) for box, email in filings]  # before anything is written: it may refuse
    modseq = meta.change()
    email_rows, head_rows, content_rows = [], [], []
    filed: list[EmailHeadline] = []
    added: dict[int, tuple[Box, Placements]] = {}
    for (box, email), flags in zip(filings, bits, strict=True):
        number, content = meta.next_email, email.content
        meta.next_email += 1
        forms = email.forms
        in_row = content.data is not None
        if not in_row:
            link_into(files.blobs, files.pool, content.sha256)
        if forms is None:
            octets = content.data
            forms = wire_forms(octets if octets is not None else read_whole(files.blobs, content), email.prefix)
        size = len(email.prefix) + content.size
        columns = (email.prefix, email.id, size, content.sha256, 0 if in_row else 1)
        email_rows.append((number, *email_forms(forms), *columns))
        head_rows.append((number, *head_forms(forms)))
        content_rows.append((number, *content_forms(forms), content.data))
        if box.id not in added:
            added[box.id] = (box, Placements())
        _place(added[box.id][1], box, number, flags, modseq, email.received_s or now_s, size, now_s)
        filed.append(EmailHeadline(box.uidnext - 1, number, email.id))
    bulk.insert(db, "INSERT INTO email", email_rows)
    bulk.insert(db, "INSERT INTO head", head_rows)
    bulk.insert(db, "INSERT INTO content", content_rows)
    if any(email.content.data is None for _, email in filings):
        sync_directory(files.blobs)
    for box, columns_new in added.values():
        tail = placements.append(db, box.id, columns_new, tails.get(box.id) if tails is not None else None)
        if tails is not None:
            tails[box.id] = tail
        box.modseq = modseq
        box.save(db)
    return filed


def _place(
    into: Placements, box: Box, email: int, flags: int, modseq: int, received_s: int, size: int, saved_s: int
) -> None:
    """One placement at the next UID of a box, counted there."""
    into.uids.append(box.uidnext)
    into.emails.append(email)
    into.flags.append(flags)
    into.modseqs.append(modseq)
    into.sizes.append(size)
    into.received_s.append(received_s)
    into.saved_s.append(saved_s)
    box.uidnext += 1
    box.messages += 1
    box.size += size
    box.unseen += not flags & SEEN
    box.deleted += bool(flags & DELETED)


def copy(db: Db, mailbox: int, uids: UidSet, target: str, move: bool, quota_octets: int, now_s: int) -> Moved:
    """COPY or MOVE within the account."""
    source, into = mailboxes.by_id(db, mailbox), mailboxes.by_name(db, target)
    _check_selectable(into)
    if into.id == source.id:
        into = source
    moved = Placements()
    for chunk, where in placements.chunks(db, mailbox, uids):
        for start, end in where:
            placements.extend(moved, chunk.columns, start, end)
    if not len(moved):
        return Moved(into.uidvalidity, (), ())
    if quota_octets and not move:
        check_quota(db, quota_octets, sum(moved.sizes))
    meta = Meta(db)
    modseq = meta.change()
    new = Placements()
    translate = _translation(source, into, moved.flags)
    for i, email in enumerate(moved.emails):
        flags = translate[moved.flags[i]]
        _place(new, into, email, flags, modseq, moved.received_s[i], moved.sizes[i], now_s)
    placements.append(db, into.id, new)
    if not move:
        _share(db, moved.emails)
    into.modseq = modseq
    if move:
        _cut(db, source, UidSet.of(moved.uids), modseq)
    if into is not source:
        into.save(db)
    source.save(db)
    meta.save()
    return Moved(into.uidvalidity, tuple(moved.uids), tuple(new.uids))


def _translation(source: Box, into: Box, flags: Iterable[int]) -> dict[int, int]:
    """Flag bits of one mailbox → of another, whose list of keywords may differ. Raises LimitReached."""
    return {value: into.bits(flag_names(value, source.keywords)) for value in set(flags)}


def _share(db: Db, emails: Iterable[int]) -> None:
    """One more placement for each."""
    db.executemany(
        "INSERT INTO shared VALUES(?, 1) ON CONFLICT(email) DO UPDATE SET extra=extra+1", [(e,) for e in emails]
    )


def move_all(db: Db, mailbox: int, target: Box, now_s: int) -> None:
    """What renaming INBOX does with its messages."""
    copy(db, mailbox, UidSet(((1, 0xFFFFFFFF),)), target.name, True, 0, now_s)


def expunge(db: Db, mailbox: int, uids: UidSet, only_deleted: bool) -> UidSet:
    """EXPUNGE, UID EXPUNGE, CLOSE, or POP3's QUIT."""
    box = mailboxes.by_id(db, mailbox)
    if only_deleted and not box.deleted:
        return UidSet()
    doomed: list[int] = []
    for chunk, where in placements.chunks(db, mailbox, uids):
        columns = chunk.columns
        for start, end in where:
            if only_deleted:
                doomed += [columns.uids[i] for i in range(start, end) if columns.flags[i] & DELETED]
            else:
                doomed += columns.uids[start:end]
    if not doomed:
        return UidSet()
    gone = UidSet.of(doomed)
    meta = Meta(db)
    _release(db, _cut(db, box, gone, meta.change()))
    box.save(db)
    meta.save()
    return gone


def empty(db: Db, box: Box) -> None:
    """Take all messages out of a mailbox that is being deleted."""
    emails = array("Q")
    low, high = placements.key_of(box.id), placements.key_of(box.id + 1)
    for (packed,) in db.execute("SELECT emails FROM chunk WHERE at>=? AND at<?", (low, high)):
        emails.frombytes(packed)
    db.execute("DELETE FROM chunk WHERE at>=? AND at<?", (low, high))
    _release(db, emails)


def _cut(db: Db, box: Box, uids: UidSet, modseq: int) -> array[int]:
    """Take placements out of a mailbox, remember their UIDs, and return their emails. The caller saves the box."""
    emails = array("Q")
    left: placements.Chunk | None = None
    for chunk, where in placements.chunks(db, box.id, uids):
        columns = chunk.columns
        for start, end in where:
            flags = columns.flags[start:end]
            emails += columns.emails[start:end]
            box.messages -= end - start
            box.unseen -= sum(1 for f in flags if not f & SEEN)
            box.deleted -= sum(1 for f in flags if f & DELETED)
            box.size -= sum(columns.sizes[start:end])
        left = placements.remove(db, chunk, where, left)
    rows = [(box.id, modseq, low, high) for low, high in uids.ranges]
    db.executemany("INSERT INTO expunged VALUES(?,?,?,?)", rows)
    box.modseq = modseq
    return emails


def _release(db: Db, emails: array[int]) -> None:
    """These placements went: emails that have no other are dead."""
    if not emails:
        return
    asked = apsw.carray(memoryview(emails).cast("B").cast("q"))
    query = "SELECT email, extra FROM shared WHERE email IN (SELECT value FROM carray(?))"
    extra: dict[int, int] = dict(db.execute(query, (asked,)).fetchall())
    before = dict(extra)
    dead = array("Q")
    for email in emails:
        left = extra.get(email, 0)
        if left:
            extra[email] = left - 1
        else:
            dead.append(email)
    changed = [(count, email) for email, count in extra.items() if count != before[email]]
    db.executemany("UPDATE shared SET extra=? WHERE email=?", changed)
    db.execute("DELETE FROM shared WHERE extra=0")
    if dead:
        db.execute("INSERT INTO dead(emails) VALUES(?)", (dead.tobytes(),))


BURY: Final = 500
"""Emails whose rows are removed in one transaction."""


def bury(db: Db) -> bool:
    """Remove the rows of some dead emails; True if there are more. Contents on disk go in `collect_blobs`."""
    rows = db.execute("SELECT n, emails FROM dead ORDER BY n LIMIT 1").fetchall()
    if not rows:
        return False
    number, packed = rows[0]
    emails = array("Q")
    emails.frombytes(packed)
    now, later = emails[:BURY], emails[BURY:]
    asked = "IN (SELECT value FROM carray(?))"
    bound = (apsw.carray(memoryview(now).cast("B").cast("q")),)
    hashes = {sha for (sha,) in db.execute(f"SELECT sha256 FROM email WHERE blob AND id {asked}", bound)}
    for table in ("content", "head", "email"):
        db.execute(f"DELETE FROM {table} WHERE id {asked}", bound)
    if later:
        db.execute("UPDATE dead SET emails=? WHERE n=?", (later.tobytes(), number))
    else:
        db.execute("DELETE FROM dead WHERE n=?", (number,))
    if hashes:
        db.executemany("INSERT OR IGNORE INTO unlinked VALUES(?)", [(sha,) for sha in hashes])
    return True


def collect_blobs(db: Db, files: Files) -> None:
    """Remove contents that no email needs, in a transaction after the one that removed the rows; twice does no harm."""
    hashes = [sha for (sha,) in db.execute("SELECT sha256 FROM unlinked LIMIT 1000")]
    for sha in hashes:
        if not db.execute("SELECT 1 FROM email WHERE sha256=? AND blob LIMIT 1", (sha,)).fetchall():
            (files.blobs / sha.hex()).unlink(missing_ok=True)
    db.executemany("DELETE FROM unlinked WHERE sha256=?", [(sha,) for sha in hashes])
