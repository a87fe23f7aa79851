"""Jobs of the spool by SQL: claiming, looking, and what operators do. In the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pillarbox.store.api import Claim, Job, Selection, Spooled
from pillarbox.store.sqlite import bulk
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.spool_rows import HELD, JOB_COLUMNS, MESSAGE_COLUMNS, QUEUED, job_of, message_of
from pillarbox.store.sqlite.turns import Turns

JobKey = tuple[bytes, bytes]
"""spool id, job id."""
TARGETS: Final = 2000
"""Targets looked at in one claim; the next claim goes on behind them."""
_FREE: Final = "holder=0 AND state=0"
_TARGETS: Final = f"""
WITH RECURSIVE t(name) AS (
 SELECT min(target) FROM job WHERE {_FREE} AND target>?1
 UNION ALL
 SELECT (SELECT min(target) FROM job WHERE {_FREE} AND target>t.name) FROM t WHERE t.name IS NOT NULL LIMIT ?2)
SELECT name, (SELECT min(next_s) FROM job WHERE {_FREE} AND target=name) FROM t WHERE name IS NOT NULL
"""


def free_lost(db: Db, turns: Turns, own: int, now_s: float) -> None:
    """Queue again the jobs of holders that are dead or silent. `now_s` is monotonic. A silent one keeps its row: jobs
    may still be leased to it by colleagues, and are found by its row."""
    for holder, until_s in db.execute("SELECT id, until_s FROM holder").fetchall():
        is_dead = not turns.lives(holder)
        if holder != own and (is_dead or until_s < now_s):
            db.execute("UPDATE job SET holder=0, token=token+1 WHERE holder=?", (holder,))
            if is_dead:
                db.execute("DELETE FROM holder WHERE id=?", (holder,))


def free_orphans(db: Db) -> None:
    """Queue again the jobs of holders that have no row. There should be none; but nobody else would find them."""
    db.execute("UPDATE job SET holder=0, token=token+1 WHERE holder<>0 AND holder NOT IN (SELECT id FROM holder)")


def next_due(db: Db) -> float | None:
    """The earliest `next_s` of jobs nobody holds."""
    [(due,)] = db.execute(f"SELECT min(next_s) FROM job WHERE {_FREE}").fetchall()
    return None if due is None else float(due)


def is_due(db: Db, now_s: float) -> bool:
    """Is there a job to claim?"""
    due = next_due(db)
    return due is not None and due <= now_s


def claim(db: Db, holder: int, limit: int, now_s: float, busy: frozenset[str], cursor: str) -> tuple[list[Claim], str]:
    """Lease due jobs, oldest targets first, an equal share for each. Returns the target to go on behind next time."""
    targets = db.execute(_TARGETS, (cursor, TARGETS)).fetchall()
    following = targets[-1][0] if len(targets) >= TARGETS else ""
    if len(targets) < TARGETS and cursor:
        targets += [row for row in db.execute(_TARGETS, ("", TARGETS)) if row[0] <= cursor]
    due = sorted((next_s, name) for name, next_s in targets if next_s <= now_s and name not in busy)
    keys = _share_out(db, [name for _, name in due], limit, now_s)
    messages: dict[bytes, Spooled] = {}
    return [taken for key in keys if (taken := _lease(db, holder, key, messages)) is not None], following


def _share_out(db: Db, targets: list[str], limit: int, now_s: float) -> list[JobKey]:
    """Up to `limit` due jobs: first the same number of each target, then what is left of the first."""
    keys: list[JobKey] = []
    if not targets:
        return keys
    share = max(1, limit // len(targets))
    query = f"SELECT spool_id, id FROM job WHERE {_FREE} AND target=? AND next_s<=? ORDER BY next_s LIMIT ? OFFSET ?"
    full = []
    for target in targets:
        if len(keys) >= limit:
            return keys
        rows = db.execute(query, (target, now_s, min(share, limit - len(keys)), 0)).fetchall()
        keys += rows
        if len(rows) == share:
            full.append(target)
    for target in full:
        if len(keys) >= limit:
            break
        keys += db.execute(query, (target, now_s, limit - len(keys), share)).fetchall()
    return keys


def _lease(db: Db, holder: int, key: JobKey, messages: dict[bytes, Spooled]) -> Claim | None:
    """None for a job whose message is missing: it stays leased to nobody's use, and `verify` tells of it.
    `messages` are those that were read already: jobs of one message share it."""
    db.execute("UPDATE job SET holder=?, token=token+1 WHERE spool_id=? AND id=?", (holder, *key))
    [row] = db.execute(f"SELECT {JOB_COLUMNS} FROM job WHERE spool_id=? AND id=?", key).fetchall()
    job, _, token = job_of(row)
    message = messages.get(job.spool_id)
    if message is None:
        rows = db.execute(f"SELECT {MESSAGE_COLUMNS}, data FROM message WHERE id=?", (job.spool_id,)).fetchall()
        if not rows:
            return None
        message = messages[job.spool_id] = message_of(rows[0][:-1], rows[0][-1])
    return Claim(job, message, token)


def remove_done(db: Db, spool_ids: Sequence[bytes | None]) -> None:
    """Remove messages that have no jobs any more."""
    no_jobs = " AND NOT EXISTS(SELECT 1 FROM job WHERE spool_id=message.id)"
    bulk.delete(db, "message", "id", [(spool_id,) for spool_id in spool_ids], "n", no_jobs)


def peek(db: Db, selection: Selection) -> list[tuple[Job, Spooled]]:
    """The selected jobs, oldest first."""
    wanted = _filters(selection)
    where, bound = _where(selection)
    messages: dict[bytes, Spooled] = {}
    found: list[tuple[Job, Spooled]] = []
    for row in db.execute(f"SELECT {JOB_COLUMNS} FROM job {where} ORDER BY spool_id, id", bound):
        job, holder, _ = job_of(row)
        message = messages.get(job.spool_id)
        if message is None:
            for columns in db.execute(f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id=?", (job.spool_id,)):
                message = messages[job.spool_id] = message_of(columns)
        if message is None or not all(test(job, message, holder) for test in wanted):
            continue
        found.append((job, message))
        if selection.limit and len(found) >= selection.limit:
            break
    return found


def _where(selection: Selection) -> tuple[str, tuple[Any, ...]]:
    """What SQL can tell: it reads only those rows."""
    if selection.spool_ids:
        return f"WHERE spool_id IN ({','.join('?' * len(selection.spool_ids))})", tuple(selection.spool_ids)
    if selection.account is not None:
        return "WHERE target=?", (f"local:{selection.account}",)
    return "", ()


def _filters(selection: Selection) -> list[Callable[[Job, Spooled, int], bool]]:
    """The rest of it, as tests."""
    s = selection
    jobs = frozenset(s.jobs)
    domain, sender, recipient = s.domain.lower(), s.sender.casefold(), s.recipient.casefold()
    tests: list[tuple[object, Callable[[Job, Spooled, int], bool]]] = [
        (jobs, lambda job, message, holder: job.id in jobs),
        (domain, lambda job, message, holder: job.recipient.address.domain == domain),
        (sender, lambda job, message, holder: str(message.envelope.reverse_path or "").casefold() == sender),
        (recipient, lambda job, message, holder: str(job.recipient.address).casefold() == recipient),
        (
            s.account is not None,
            lambda job, message, holder: (job.target.kind, job.target.name) == ("local", s.account),
        ),
        (
            s.state,
            lambda job, message, holder: ("leased" if holder and job.state == "queued" else job.state) == s.state,
        ),
    ]
    return [test for asked, test in tests if asked]


def counts(db: Db) -> dict[str, int]:
    """Jobs by state, messages and their octets."""
    sql = "SELECT count(*) FILTER (WHERE state=0 AND holder=0), count(*) FILTER (WHERE state=1), " \
          "count(*) FILTER (WHERE state=0 AND holder<>0) FROM job"  # fmt: skip
    [(queued, held, leased)] = db.execute(sql).fetchall()
    [(messages, octets)] = db.execute("SELECT count(*), total(size) FROM message").fetchall()
    return {"queued": queued, "held": held, "leased": leased, "messages": messages, "octets": int(octets)}


def _each(db: Db, sql: str, keys: Sequence[JobKey], *bound: Any) -> int:
    changed = 0
    for key in keys:
        db.execute(sql + " WHERE spool_id=? AND id=?", (*bound, *key))
        changed += db.changes()
    return changed


def retry(db: Db, keys: Sequence[JobKey], now_s: float) -> int:
    """Due now. Leased and held ones stay as they are."""
    return sum(
        _each(db, "UPDATE job SET next_s=min(next_s,?)", [key], now_s)
        for key in keys
        if db.execute(f"SELECT 1 FROM job WHERE spool_id=? AND id=? AND {_FREE}", key).fetchall()
    )


def hold(db: Db, keys: Sequence[JobKey]) -> int:
    """Held; a lease is lost."""
    return _each(db, f"UPDATE job SET state={HELD}, holder=0, token=token+1", keys)


def release(db: Db, keys: Sequence[JobKey], now_s: float) -> int:
    """Queued and due; those that are not held stay as they are."""
    held = [
        k for k in keys if db.execute(f"SELECT 1 FROM job WHERE spool_id=? AND id=? AND state={HELD}", k).fetchall()
    ]
    return _each(db, f"UPDATE job SET state={QUEUED}, next_s=?", held, now_s)


def drop(db: Db, keys: Sequence[JobKey]) -> int:
    """Gone; a lease is lost."""
    changed = _each(db, "DELETE FROM job", keys)
    remove_done(db, list({spool_id for spool_id, _ in keys}))
    return changed
