"""FETCH: placements of a mailbox and columns of their emails, slice after slice, on the account's reading lane.

Columns of octets are joined by SQLite. Each slice is of one moment; between slices nothing is locked or open.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import apsw

from pillarbox.message.section import CODES_END, HEADER_END
from pillarbox.message.wire import VERSION, WireForms, wire_forms
from pillarbox.model.errors import NoSuchMessage
from pillarbox.model.joined import Joined
from pillarbox.model.mailbox import Content, Placements
from pillarbox.model.uids import UidSet
from pillarbox.store.api import INLINE_OCTETS, Slice
from pillarbox.store.blobs.frames import read_whole
from pillarbox.store.sqlite import mailboxes, placements
from pillarbox.store.sqlite.files import Db, at_one_moment
from pillarbox.store.sqlite.filing import (
    CONTENT_FORMS,
    EMAIL_FORMS,
    HEAD_FORMS,
    Files,
    content_forms,
    email_forms,
    head_forms,
)
from pillarbox.store.sqlite.reading import selected

_PLACES: Final = {
    "bodystructure": "e.bodystructure", "parts": "e.parts", "prefix": "e.prefix", "email_id": "e.email_id",
    "envelope": "h.envelope", "headers": "h.headers", "field_codes": "h.field_codes", "subject": "h.subject",
    "base_subject": "h.base_subject", "sent_s": "h.sent_s", "message_id": "h.message_id", "references": "h.refs",
    "body": "c.body", "preview": "c.preview", "data": "c.data",
}  # fmt: skip
_TABLES: Final = {
    "e": "email e", "h": "head h", "c": "content c", "eh": "email e JOIN head h ON h.id=e.id",
    "ch": "head h JOIN content c ON c.id=h.id",
    "ce": "email e LEFT JOIN content c ON c.id=e.id",
    "ceh": "email e JOIN head h ON h.id=e.id LEFT JOIN content c ON c.id=e.id",
}  # fmt: skip
_DERIVED: Final = frozenset(_PLACES) - {"email_id", "prefix", "data"}
_IN_ONE: Final = frozenset(("envelope", "body", "bodystructure", "headers", "field_codes", "prefix"))
"""Columns of octets that can be read joined: NUL is rare in them."""
_SEPARATORS: Final = {"headers": HEADER_END, "field_codes": CODES_END}
"""Between joined columns, as their readers want it; else NUL."""
MANY_RUNS: Final = 4096
SLICE_OCTETS: Final = 256 * 1024
"""What a slice should have: messages are read by so many that they come to about this."""
MOST_OCTETS: Final = 2 * 1024 * 1024
"""More of one column is in no slice, but where a single message has more: headers may be long, and all of them."""
AHEAD: Final = 4
"""Chunks whose placements are read in one go."""
Stale = list[tuple[int, WireForms]]
Fetched = tuple[list[Slice], Stale]
"""Slices, and forms that were computed anew."""
T = TypeVar("T")


class Fetching:
    """One FETCH. Its steps run one after the other on a lane, `first` and then `further` until `done`."""

    __slots__ = ("_changed_since", "_columns", "_files", "_found", "_mailbox", "_most", "_start", "_wanted", "done")

    def __init__(self, files: Files, mailbox: int, wanted: UidSet, columns: Sequence[str], changed_since: int) -> None:
        self._files = files
        self._mailbox = mailbox
        self._wanted = wanted
        self._columns = columns
        self._changed_since = changed_since
        self._found: deque[Placements] = deque()
        """What comes next."""
        self._most = placements.FULL
        """Messages in a slice."""
        self._start: int | None = 0
        """The UID to look on from when that is used up; None: there is no more."""
        self.done = False

    def first(self, db: Db) -> Fetched:
        """The first slice; all of a small FETCH. Raises NoSuchMailbox."""
        mailboxes.by_id(db, self._mailbox)
        return self._look_and_fill(db)

    def further(self, db: Db) -> Fetched:
        """The next slice. The caller has no transaction open.

        It begins with the long work, for which SQLite gives up Python's lock, and looks for what comes next afterwards:
        so the loop sends one slice while this thread reads the next, if that was asked for in time.
        """
        if not self._found:
            at_one_moment(db, self._look)
        try:
            fetched = self._fill(db)
        except apsw.CorruptError:  # or mail went since its placements were read: at one moment we know
            self._start = self._found[0].uids[0]
            self._found.clear()
            fetched = at_one_moment(db, self._look_and_fill)
        if not self._found:
            at_one_moment(db, self._look)
        return fetched

    def _look_and_fill(self, db: Db) -> Fetched:
        self._look(db)
        return self._fill(db)

    def _look(self, db: Db) -> None:
        """Find the placements of some chunks."""
        while self._start is not None and not self._found:
            keys = placements.keys(db, self._mailbox, self._wanted, self._changed_since, self._start, AHEAD + 1)
            start, self._start = self._start, (keys[AHEAD] & 0xFFFFFFFF if len(keys) > AHEAD else None)
            for at in keys[:AHEAD]:
                found = selected(db, at, self._wanted, self._changed_since, start)
                if len(found):
                    self._found.append(found)
        self.done = not self._found

    def _fill(self, db: Db) -> Fetched:
        """The next slice with its columns; without columns all that was found."""
        slices: list[Slice] = []
        stale: Stale = []
        if not self._columns:
            slices = [Slice(found) for found in self._found]
            self._found.clear()
        elif self._found:
            filled, stale = self._fill_one(db, self._found[0])
            slices = [filled]
            rest = self._found.popleft()
            if len(filled.placements) < len(rest):
                self._found.appendleft(_piece(rest, len(filled.placements), len(rest)))
        self.done = self._start is None and not self._found
        return slices, stale

    def _fill_one(self, db: Db, found: Placements) -> tuple[Slice, Stale]:
        """As many of the first ones as are a slice."""
        count = len(found)
        pieces = -(-count // self._most)
        most = _fitting(found) if "data" in self._columns else -(-count // pieces)
        while True:
            piece = _piece(found, 0, most) if most < len(found) else found
            try:
                filled, stale = with_forms(db, self._files, piece, self._columns)
            except apsw.TooBigError:
                most = self._most = max(1, len(piece) // 2)
                continue
            octets = sum(len(column.text) for column in filled.columns if isinstance(column, Joined))
            if octets:
                self._most = min(placements.FULL, max(1, len(piece) * SLICE_OCTETS // octets))
            return filled, stale


def with_forms(db: Db, files: Files, found: Placements, columns: Sequence[str]) -> tuple[Slice, Stale]:
    """The asked-for columns of these placements, or of the first of them if all are too many octets; forms of an older
    parser are computed anew and returned as well. Raises apsw.TooBigError if less should be asked for."""
    emails = found.emails
    run = (emails[0], emails[-1])
    is_run = _is_run(emails)
    derived = not _DERIVED.isdisjoint(columns) and not (is_run and run in files.current)
    aliases = {_PLACES[column][0] for column in columns} | ({"e"} if derived or "data" in columns else set())
    tables = _TABLES["".join(sorted(aliases))]
    id_ = f"{tables.split()[1]}.id"
    bindings: tuple[Any, ...] = run
    if is_run:
        source = f"{tables} WHERE {id_} BETWEEN ? AND ? ORDER BY {id_}"
    else:
        source = f"carray(?) a CROSS JOIN {tables} WHERE {id_}=a.value"
        bindings = (apsw.carray(memoryview(emails).cast("B").cast("q")),)
    if _IN_ONE.issuperset(columns):
        joined = _in_one(db, source, bindings, columns, len(emails), derived)
        if joined is not None:
            if is_run and derived:
                if len(files.current) >= MANY_RUNS:
                    files.current.clear()
                files.current.add(run)
            return Slice(found, joined), []
    places = [_PLACES[column] for column in columns] + (["e.version"] if derived else [])
    rows: list[tuple[Any, ...]] = []
    octets = 0
    for row in db.execute(f"SELECT {', '.join(places)} FROM {source}", bindings):
        rows.append(row)
        octets += sum(len(value) for value in row if isinstance(value, bytes | str))
        if octets >= MOST_OCTETS and len(rows) < len(emails):
            found = _piece(found, 0, len(rows))
            break
    else:
        if len(rows) != len(emails):
            raise apsw.CorruptError(f"{len(emails) - len(rows)} emails of a mailbox are missing")
    stale: Stale = []
    if derived:
        for i, row in enumerate(rows):
            if row[-1] != VERSION:
                forms = _compute(db, files, emails[i])
                stale.append((emails[i], forms))
                rows[i] = _renewed(row, columns, forms)
        rows = [row[:-1] for row in rows]
    return Slice.of_rows(found, rows), stale


def _in_one(
    db: Db, source: str, bindings: tuple[Any, ...], columns: Sequence[str], count: int, derived: bool
) -> list[Joined] | None:
    """The columns, each joined to one text by SQLite: it gives up Python's lock once for all and not for each row, so
    that the loop sends one slice while the next is read. None if a row needs more care: a NUL octet in it, an older
    parser's, or the only one, which may be large. Raises apsw.TooBigError."""
    if count == 1:
        return None
    inner = ", ".join(f"{_PLACES[column]} AS c{i}" for i, column in enumerate(columns))
    separators = [_SEPARATORS.get(column, b"\0") for column in columns]
    outer = ", ".join(f"CAST(group_concat(c{i}, x'{s.hex()}') AS BLOB)" for i, s in enumerate(separators))
    if derived:
        outer, inner = f"min(v), max(v), {outer}", f"e.version AS v, {inner}"
    length = db.limit(apsw.SQLITE_LIMIT_LENGTH, MOST_OCTETS)
    try:
        sql = f"SELECT count(*), {outer} FROM (SELECT {inner} FROM {source})"
        [(rows, *texts)] = db.execute(sql, bindings).fetchall()
    finally:
        db.limit(apsw.SQLITE_LIMIT_LENGTH, length)
    if rows != count or (derived and (texts.pop(0), texts.pop(0)) != (VERSION, VERSION)):
        return None
    if any(text is None or text.count(s[:1]) != count - 1 for text, s in zip(texts, separators, strict=True)):
        return None
    return [*map(Joined, texts, separators)]


def _is_run(emails: array[int]) -> bool:
    """Are these consecutive numbers, ascending? Then one range scan reads them."""
    return emails[-1] - emails[0] == len(emails) - 1 and emails.tolist() == list(range(emails[0], emails[-1] + 1))


def _renewed(row: tuple[Any, ...], columns: Sequence[str], forms: WireForms) -> tuple[Any, ...]:
    names = EMAIL_FORMS + HEAD_FORMS + CONTENT_FORMS
    fresh = dict(zip(names, email_forms(forms) + head_forms(forms) + content_forms(forms), strict=True))
    fresh["references"] = fresh["refs"]
    return (*(fresh.get(column, old) for column, old in zip(columns, row, strict=False)), row[-1])


def _compute(db: Db, files: Files, email: int) -> WireForms:
    for prefix, sha256, blob, data in db.execute(
        "SELECT e.prefix, e.sha256, e.blob, c.data FROM email e LEFT JOIN content c ON c.id=e.id WHERE e.id=?",
        (email,),
    ):
        return wire_forms(read_whole(files.blobs, Content(sha256, 0, None)) if blob else data, prefix)
    raise NoSuchMessage(f"email {email}")


def renew_forms(db: Db, stale: Stale) -> None:
    """Keep forms that were computed anew."""
    tables = (("email", EMAIL_FORMS, email_forms), ("head", HEAD_FORMS, head_forms))
    for table, columns, values in (*tables, ("content", CONTENT_FORMS, content_forms)):
        assignments = ", ".join(f"{column}=?" for column in columns)
        for email, forms in stale:
            db.execute(f"UPDATE {table} SET {assignments} WHERE id=?", (*values(forms), email))


def _fitting(found: Placements, limit_octets: int = SLICE_OCTETS) -> int:
    """How many of the first messages have some 256 KiB together; at least one. Contents in files count little."""
    octets = 0
    for i, size in enumerate(found.sizes):
        octets += size if size <= INLINE_OCTETS else 4096
        if octets > limit_octets:
            return max(1, i)
    return len(found)


def _piece(found: Placements, start: int, end: int) -> Placements:
    piece = Placements()
    placements.extend(piece, found, start, end)
    return piece
