"""Placements of a mailbox as packed columns in rows of table `chunk`. docs/decisions/packed-placements.md.

A chunk holds up to FULL messages; its key is mailbox * 2^32 + a lower bound of its UIDs. All functions run within the
caller's transaction.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, Final

from pillarbox.model.mailbox import Placements
from pillarbox.model.uids import UidSet
from pillarbox.store.sqlite.files import Db

FULL: Final = 1000
TAIL: Final = 64
_SELECT: Final = "SELECT at, max_modseq, uids, flags, modseqs, emails, sizes, received, saved FROM chunk "
_PUT: Final = "INSERT OR REPLACE INTO chunk VALUES(?,?,?,?,?,?,?,?,?,?)"
Spans = list[tuple[int, int]]
"""Half-open ranges of indexes."""

assert sys.byteorder == "little", "chunks are little-endian arrays"


@dataclass(slots=True)
class Chunk:
    """One row, unpacked."""

    at: int
    max_modseq: int
    columns: Placements


def key_of(mailbox: int, uid: int = 0) -> int:
    """The key of a chunk that begins with this UID."""
    return mailbox << 32 | uid


def columns_of(placements: Placements) -> tuple[array[int], ...]:
    """In the order of the table."""
    p = placements
    return p.uids, p.flags, p.modseqs, p.emails, p.sizes, p.received_s, p.saved_s


def unpack(row: Sequence[Any]) -> Chunk:
    """A row of _SELECT."""
    placements = Placements()
    for column, octets in zip(columns_of(placements), row[2:], strict=True):
        column.frombytes(octets)
    return Chunk(row[0], row[1], placements)


def extend(target: Placements, source: Placements, start: int = 0, end: int | None = None) -> None:
    """Append source[start:end] to target."""
    whole = start == 0 and (end is None or end == len(source))
    for into, column in zip(columns_of(target), columns_of(source), strict=True):
        into.extend(column if whole else column[start:end])


def extend_chosen(target: Placements, source: Placements, chosen: Iterable[int]) -> None:
    """Append those whose place in `chosen` is not 0."""
    for into, column in zip(columns_of(target), columns_of(source), strict=True):
        into.extend(compress(column, chosen))


def without(placements: Placements, spans: Spans) -> Placements:
    """What is left when the spans are cut out."""
    left = Placements()
    at = 0
    for start, end in spans:
        extend(left, placements, at, start)
        at = end
    extend(left, placements, at, len(placements))
    return left


def store(db: Db, at: int, columns: Placements) -> None:
    """Write one chunk, new or in place of what is there; an empty one is removed."""
    if not len(columns):
        db.execute("DELETE FROM chunk WHERE at=?", (at,))
        return
    packed = [column.tobytes() for column in columns_of(columns)]
    db.execute(_PUT, (at, len(columns), max(columns.modseqs), *packed))


def store_flags(db: Db, chunk: Chunk) -> None:
    """Write flags and modseqs only: SQLite then touches only the pages that differ."""
    columns = chunk.columns
    db.execute(
        "UPDATE chunk SET max_modseq=?, flags=?, modseqs=? WHERE at=?",
        (chunk.max_modseq, columns.flags.tobytes(), columns.modseqs.tobytes(), chunk.at),
    )


Tail = tuple[int, Placements]
"""The key of a mailbox's last chunk, and what is in it."""


def append(db: Db, mailbox: int, new: Placements, tail: Tail | None = None) -> Tail:
    """Add placements whose UIDs are above all others of the mailbox, and return what the last chunk is now. `tail` is
    what it was, if that is known; it is changed."""
    low = key_of(mailbox)
    if tail is None:
        found = db.execute(
            _SELECT + "WHERE at>=? AND at<? ORDER BY at DESC LIMIT 1", (low, key_of(mailbox + 1))
        ).fetchall()
        if found:
            chunk = unpack(found[0])
            tail = chunk.at, chunk.columns
    at = key_of(mailbox, new.uids[0])
    rows = new
    if tail is not None and len(tail[1]) < TAIL:
        at, rows = tail
        extend(rows, new)
        if len(rows) > TAIL:
            at, rows = _join_left(db, low, at, rows)
    while len(rows) > FULL:
        piece, rest = Placements(), Placements()
        extend(piece, rows, 0, FULL)
        extend(rest, rows, FULL, len(rows))
        store(db, at, piece)
        at, rows = key_of(mailbox, rest.uids[0]), rest
    store(db, at, rows)
    return at, rows


def _join_left(db: Db, low: int, at: int, rows: Placements) -> tuple[int, Placements]:
    """Join a chunk that has outgrown the tail to its left neighbour, if there is room."""
    left = db.execute("SELECT at, count FROM chunk WHERE at>=? AND at<? ORDER BY at DESC LIMIT 1", (low, at)).fetchall()
    if not left or left[0][1] + len(rows) > FULL:
        return at, rows
    joined = load(db, left[0][0])
    assert joined is not None
    extend(joined.columns, rows)
    db.execute("DELETE FROM chunk WHERE at=?", (at,))
    return joined.at, joined.columns


def load(db: Db, at: int) -> Chunk | None:
    """The chunk with this key."""
    for row in db.execute(_SELECT + "WHERE at=?", (at,)):
        return unpack(row)
    return None


def keys(
    db: Db, mailbox: int, uids: UidSet, changed_since: int = 0, start_uid: int = 0, limit: int = 1 << 31
) -> list[int]:
    """Keys of up to `limit` chunks that can hold members of `uids` from `start_uid` on, ascending; with
    `changed_since` only changed chunks."""
    low, high = key_of(mailbox), key_of(mailbox + 1)
    first = low
    if start_uid:
        sql = "SELECT at FROM chunk WHERE at>=? AND at<=? ORDER BY at DESC LIMIT 1"
        first = (db.execute(sql, (low, low + start_uid)).fetchall() or [(low,)])[0][0]
    rows = db.execute("SELECT at, max_modseq FROM chunk WHERE at>=? AND at<? ORDER BY at", (first, high))
    found: list[int] = []
    ranges = uids.ranges
    before, before_modseq = 0, 0
    for at, max_modseq in chain(rows, [(high, 0)]):
        if before and before_modseq > changed_since:
            index = bisect_right(ranges, (at - low - 1, 1 << 64)) - 1
            if index >= 0 and ranges[index][1] >= before - low:
                found.append(before)
                if len(found) >= limit:
                    break
        before, before_modseq = at, max_modseq
    return found


def spans(columns: Placements, uids: UidSet) -> Spans:
    """Where members of `uids` are, as ascending, disjoint spans. Cost: the ranges that touch this chunk."""
    ordered, ranges = columns.uids, uids.ranges
    if not ordered:
        return []
    found: Spans = []
    index = max(0, bisect_right(ranges, (ordered[0], 1 << 64)) - 1)
    at = 0
    while index < len(ranges) and ranges[index][0] <= ordered[-1]:
        low, high = ranges[index]
        start = bisect_left(ordered, low, at)
        at = bisect_right(ordered, high, start)
        if start < at:
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], at)
            else:
                found.append((start, at))
        index += 1
    return found


def chunks(db: Db, mailbox: int, uids: UidSet, changed_since: int = 0) -> Iterator[tuple[Chunk, Spans]]:
    """Chunks with members of `uids`, and where they are."""
    for at in keys(db, mailbox, uids, changed_since):
        chunk = load(db, at)
        if chunk is None:
            continue
        where = spans(chunk.columns, uids)
        if where:
            yield chunk, where


def remove(db: Db, chunk: Chunk, where: Spans, left: Chunk | None) -> Chunk | None:
    """Cut spans out of a chunk; a small rest joins its left neighbour `left` (already stored) where it fits.

    Returns the chunk that is now the left neighbour of the next.
    """
    rest = without(chunk.columns, where)
    if len(rest) and left is not None and _may_join(db, left, chunk, len(rest)):
        extend(left.columns, rest)
        db.execute("DELETE FROM chunk WHERE at=?", (chunk.at,))
        store(db, left.at, left.columns)
        return left
    store(db, chunk.at, rest)
    if not len(rest):
        return left
    chunk.columns = rest
    return chunk


def _may_join(db: Db, left: Chunk, chunk: Chunk, rest: int) -> bool:
    if rest >= FULL // 4 or len(left.columns) + rest > FULL:
        return False
    return not db.execute("SELECT 1 FROM chunk WHERE at>? AND at<?", (left.at, chunk.at)).fetchall()
