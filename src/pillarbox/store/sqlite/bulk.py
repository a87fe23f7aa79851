"""Many rows in few steps: each step of a statement gives up Python's lock and must win it back from the loop's thread.

Statements come in a few sizes only (8, 4, 2, 1 rows), so that all of them stay prepared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from pillarbox.store.sqlite.files import Db

Row = tuple[Any, ...]
_SIZES: Final = (8, 4, 2, 1)


@lru_cache(maxsize=64)
def _places(rows: int, width: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return ",".join([row] * rows)


def _pieces(rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    """VALUES lists and what to bind to them."""
    at = 0
    while at < len(rows):
        size = next(size for size in _SIZES if size <= len(rows) - at)
        piece = rows[at : at + size]
        yield _places(size, len(piece[0])), list(chain.from_iterable(piece))
        at += size


def insert(db: Db, into: str, rows: Sequence[Row]) -> None:
    """`into` is "INSERT INTO table(columns)"; all rows have the same width."""
    for places, values in _pieces(rows):
        db.execute(f"{into} VALUES{places}", values)


def count(db: Db, table: str, columns: str, keys: Sequence[Row]) -> int:
    """How many of these keys are in the table: `columns` is "(a,b)", or "a" for keys of one value."""
    found = 0
    for places, values in _pieces(keys):
        found += db.execute(f"SELECT count(*) FROM {table} WHERE {columns} IN (VALUES{places})", values).fetchall()[0][
            0
        ]
    return found


def delete(db: Db, table: str, columns: str, keys: Sequence[Row], also: str = "") -> int:
    """Delete the rows with these keys (for which `also`, a further condition, holds), and return how many."""
    gone = 0
    for places, values in _pieces(keys):
        db.execute(f"DELETE FROM {table} WHERE {columns} IN (VALUES{places}){also}", values)
        gone += db.changes()
    return gone
