"""Reading and flags of one account's mailboxes, within the caller's transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from pillarbox.model.errors import NoSuchMessage
from pillarbox.model.flags import DELETED, SEEN
from pillarbox.model.mailbox import Mailbox, Placements
from pillarbox.model.uids import UidSet
from pillarbox.store.api import Changes, Stored
from pillarbox.store.sqlite import lanes64, mailboxes, placements
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.mailboxes import Meta
from pillarbox.store.sqlite.placements import Chunk, Spans


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
