"""Reading and flags of one account's mailboxes, within the caller's transaction."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Final

import apsw

from pillarbox.message.section import CODES_END, HEADER_END
from pillarbox.message.wire import VERSION, WireForms, wire_forms
from pillarbox.model.errors import NoSuchMessage
from pillarbox.model.flags import DELETED, SEEN
from pillarbox.model.joined import Joined
from pillarbox.model.mailbox import Content, Mailbox, Placements
from pillarbox.model.uids import UidSet
from pillarbox.store.api import Changes, Slice, Stored
from pillarbox.store.blobs.frames import read_whole
from pillarbox.store.blobs.pool import INLINE_OCTETS
from pillarbox.store.sqlite import lanes64, mailboxes, placements
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.filing import (
    CONTENT_FORMS,
    EMAIL_FORMS,
    HEAD_FORMS,
    Files,
    content_forms,
    email_forms,
    head_forms,
)
from pillarbox.store.sqlite.mailboxes import Meta
from pillarbox.store.sqlite.placements import Chunk, Spans

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
AHEAD: Final = 8
"""Chunks that are read in one go, if there are no more than SLICE_OCTETS in them."""
Stale = list[tuple[int, WireForms]]


def uids(db: Db, mailbox: int) -> tuple[Mailbox, Placements]:
    """UIDs and flags of all."""
    box = mailboxes.by_id(db, mailbox)
    found = Placements()
    bounds = placements.key_of(mailbox), placements.key_of(mailbox + 1)
    for packed_uids, packed_flags in db.execute(
        "SELECT uids, flags FROM chunk WHERE at>=? AND at<? ORDER BY at", bounds
    ):
        found.uids.frombytes(packed_uids)
        found.flags.frombytes(packed_flags)
    return box.value(), found


def selected(db: Db, at: int, wanted: UidSet, changed_since: int, start_uid: int = 0) -> Placements:
    """Placements of one chunk that are in the set, at or above a UID, and changed after a modseq."""
    found = Placements()
    chunk = placements.load(db, at)
    if chunk is None:
        return found
    where = placements.spans(chunk.columns, wanted)
    if start_uid > chunk.columns.uids[0]:
        first = bisect_left(chunk.columns.uids, start_uid)
        where = [(max(start, first), end) for start, end in where if end > first]
    if changed_since:
        where = _changed_spans(chunk.columns, where, changed_since)
    if where == [(0, len(chunk.columns))]:
        return chunk.columns
    for start, end in where:
        placements.extend(found, chunk.columns, start, end)
    return found


def _changed_spans(columns: Placements, where: Spans, since: int) -> Spans:
    modseqs = columns.modseqs
    return [(i, i + 1) for start, end in where for i in range(start, end) if modseqs[i] > since]


def with_forms(db: Db, files: Files, found: Placements, columns: Sequence[str]) -> tuple[Slice, Stale]:
    """The asked-for columns of these placements; forms of an older parser are computed anew and returned as well."""
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
    rows = db.execute(f"SELECT {', '.join(places)} FROM {source}", bindings).fetchall()
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
    that the loop sends one slice while the next is read. None if a row needs more care: a NUL octet in it, or an older
    parser's."""
    inner = ", ".join(f"{_PLACES[column]} AS c{i}" for i, column in enumerate(columns))
    separators = [_SEPARATORS.get(column, b"\0") for column in columns]
    outer = ", ".join(f"CAST(group_concat(c{i}, x'{s.hex()}') AS BLOB)" for i, s in enumerate(separators))
    if derived:
        outer, inner = f"min(v), max(v), {outer}", f"e.version AS v, {inner}"
    [(rows, *texts)] = db.execute(f"SELECT count(*), {outer} FROM (SELECT {inner} FROM {source})", bindings).fetchall()
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


Fetched = tuple[list[Slice], "int | None", Stale]
"""Slices, the UID to go on from (None: that was all), and forms that were computed anew."""


def fetch(
    db: Db,
    files: Files,
    mailbox: int,
    wanted: UidSet,
    columns: Sequence[str],
    changed_since: int,
    start: int,
) -> Fetched:
    """The next slices of a FETCH, from UID `start` on: some chunks, as far as their forms are few octets, or a part of
    one with data."""
    keys = placements.keys(db, mailbox, wanted, changed_since, start, AHEAD + 1)
    slices: list[Slice] = []
    stale: Stale = []
    octets = 0
    following: int | None = None
    for place, at in enumerate(keys):
        if octets >= SLICE_OCTETS or place == AHEAD:
            following = at & 0xFFFFFFFF
            break
        found = selected(db, at, wanted, changed_since, start)
        if not len(found):
            continue
        if "data" in columns:
            count = _fitting(found)
            if count < len(found):
                following = found.uids[count]
                found = _piece(found, 0, count)
        piece = Slice(found)
        if columns:
            piece, fresh = with_forms(db, files, found, columns)
            stale += fresh
            octets += _octets(piece)
        slices.append(piece)
        if following is not None:
            break
    return slices, following, stale


def _octets(piece: Slice) -> int:
    """Of its forms, where that is known; else it is enough for one time."""
    return sum(len(column.text) if isinstance(column, Joined) else SLICE_OCTETS for column in piece.columns)


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


OpenedRow = tuple[bytes, bytes, int, bytes, int, "bytes | None", int]
"""prefix, parts, size, sha256, blob, data, version."""


def open_row(db: Db, email: int) -> OpenedRow:
    """What an opened email is read from. Raises NoSuchMessage."""
    for row in db.execute(
        "SELECT e.prefix, e.parts, e.size, e.sha256, e.blob, c.data, e.version FROM email e "
        "LEFT JOIN content c ON c.id=e.id WHERE e.id=?",
        (email,),
    ):
        return row  # type: ignore[no-any-return]
    raise NoSuchMessage(f"email {email}")


def changes(db: Db, mailbox: int, since: int) -> Changes:
    """What changed after a modseq."""
    box = mailboxes.by_id(db, mailbox)
    changed, gone = Placements(), UidSet()
    if box.modseq > since:
        everything = UidSet(((1, 0xFFFFFFFF),))
        for at in placements.keys(db, mailbox, everything, since):
            placements.extend(changed, selected(db, at, everything, since))
        rows = db.execute("SELECT low, high FROM expunged WHERE mailbox=? AND modseq>?", (mailbox, since))
        gone = UidSet(tuple(_merged(sorted(rows.fetchall()))))
    return Changes(box.value(), changed, gone)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in ranges:
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def set_flags(
    db: Db, mailbox: int, wanted: UidSet, mode: str, names: frozenset[str], unchanged_since: int | None
) -> Stored:
    """STORE. One modseq for all that changed."""
    box, meta = mailboxes.by_id(db, mailbox), Meta(db)
    keywords_before = len(box.keywords)
    bits = box.bits(names, add=mode != "-")
    changed, refused = Placements(), list[int]()
    for chunk, where in placements.chunks(db, mailbox, wanted):
        if unchanged_since is not None:
            refused += [chunk.columns.uids[i] for i, _ in _changed_spans(chunk.columns, where, unchanged_since)]
            where = _unchanged_spans(chunk.columns, where, unchanged_since)
        _store_chunk(db, box, meta, chunk, where, mode, bits, changed)
    if len(changed):
        box.modseq = meta.modseq
        meta.save()
    if len(changed) or len(box.keywords) != keywords_before:
        box.save(db)
    return Stored(changed, UidSet.of(refused), meta.modseq, box.value())


def _unchanged_spans(columns: Placements, where: Spans, since: int) -> Spans:
    modseqs = columns.modseqs
    return [(i, i + 1) for start, end in where for i in range(start, end) if modseqs[i] <= since]


def _store_chunk(
    db: Db, box: mailboxes.Box, meta: Meta, chunk: Chunk, where: Spans, mode: str, bits: int,
    changed: Placements,
) -> None:  # fmt: skip
    """Set flags of the spans of one chunk, count, write, and add what changed to `changed`."""
    columns, count = chunk.columns, len(chunk.columns)
    if not where:
        return
    old = lanes64.number_of(columns.flags)
    mask, asked = lanes64.mask_of(where, count), lanes64.repeated(bits, count)
    if mode == "+":
        new = old | (asked & mask)
    elif mode == "-":
        new = old & ~(asked & mask)
    else:
        new = (old & ~mask) | (asked & mask)
    if new == old:
        return
    modseq = meta.change()
    ones = lanes64.differing(old, new)
    touched = lanes64.whole_lanes(ones)
    box.unseen += lanes64.count_of(old, SEEN, count) - lanes64.count_of(new, SEEN, count)
    box.deleted += lanes64.count_of(new, DELETED, count) - lanes64.count_of(old, DELETED, count)
    modseqs = (lanes64.number_of(columns.modseqs) & ~touched) | (lanes64.repeated(modseq, count) & touched)
    columns.flags = lanes64.column_of(new, count)
    columns.modseqs = lanes64.column_of(modseqs, count)
    chunk.max_modseq = modseq
    placements.store_flags(db, chunk)
    if ones.bit_count() == count:
        placements.extend(changed, columns)
    else:
        placements.extend_chosen(changed, columns, lanes64.column_of(ones, count))
