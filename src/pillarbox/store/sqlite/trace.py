"""What happened to messages: events are logged with the spool's commits, and given their keys later, in batches."""

from __future__ import annotations

from typing import Final

from pillarbox.store.api import TraceEvent
from pillarbox.store.sqlite import bulk
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.spool_rows import event_keys, event_names, pack_events, text_key, unpack_events

BATCH: Final = 50
"""Commits, or events to be dropped, that one transaction handles: accepting waits for its end."""


def digest(db: Db) -> bool:
    """Move some logged events to where they can be found; True if there are more."""
    rows = db.execute("SELECT n, events FROM trace_log ORDER BY n LIMIT ?", (BATCH,)).fetchall()
    if not rows:
        return False
    [(last,)] = db.execute("SELECT coalesce(max(n), 0) FROM trace").fetchall()
    events = [event for _, packed in rows for event in unpack_events(packed)]
    bulk.insert(db, "INSERT INTO trace", [
        (last + 1 + i, event.at_s, pack_events([event])) for i, event in enumerate(events)
    ])  # fmt: skip
    keys = [(key, last + 1 + i) for i, event in enumerate(events) for key in event_keys(event)]
    bulk.insert(db, "INSERT OR IGNORE INTO trace_key", sorted(keys))
    db.execute("DELETE FROM trace_log WHERE n<=?", (rows[-1][0],))
    return len(rows) == BATCH


def find(db: Db, text: str, limit: int) -> list[TraceEvent]:
    """All events of the messages that the text names, oldest first."""
    folded = text.casefold()
    spool_ids: dict[bytes, None] = {}
    found: list[TraceEvent] = []
    for event in _with_key(db, text_key(text), limit):
        if not any(name.casefold() == folded for name in event_names(event)):
            continue
        if event.spool_id:
            spool_ids[event.spool_id] = None
        else:
            found.append(event)
    for spool_id in spool_ids:
        found += [event for event in _with_key(db, text_key(spool_id.hex()), limit) if event.spool_id == spool_id]
    found.sort(key=lambda event: event.at_s)
    return found[-limit:]


def _with_key(db: Db, key: int, limit: int) -> list[TraceEvent]:
    """The latest ones with this key, oldest first."""
    sql = "SELECT t.event FROM trace_key k JOIN trace t ON t.n=k.n WHERE k.key=? ORDER BY k.n DESC LIMIT ?"
    return [unpack_events(packed)[0] for (packed,) in db.execute(sql, (key, limit))][::-1]


def drop_before(db: Db, before_s: float) -> bool:
    """Remove some events that are too old; True if there may be more."""
    rows = db.execute("SELECT n, at_s, event FROM trace ORDER BY n LIMIT ?", (BATCH,)).fetchall()
    old = [(n, packed) for n, at_s, packed in rows if at_s < before_s]
    for n, packed in old:
        for key in event_keys(unpack_events(packed)[0]):
            db.execute("DELETE FROM trace_key WHERE key=? AND n=?", (key, n))
        db.execute("DELETE FROM trace WHERE n=?", (n,))
    return len(old) == BATCH
