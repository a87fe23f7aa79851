"""Many rows in few steps: a step of a statement costs as much as the row it writes.

Statements come in two sizes only (8 rows and 1), so that all of them stay prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from pillarbox.store.sqlite.files import Db

Row = tuple[Any, ...]
_PIECE: Final = 8


@lru_cache(maxsize=64)
def _places(rows: int, width: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return ",".join([row] * rows)


def insert(db: Db, into: str, rows: Sequence[Row]) -> None:
    """`into` is "INSERT INTO table(columns)"; all rows have the same width."""
    at, width = 0, len(rows[0]) if rows else 0
    while len(rows) - at >= _PIECE:
        values = list(chain.from_iterable(rows[at : at + _PIECE]))
        db.execute(f"{into} VALUES{_places(_PIECE, width)}", values)
        at += _PIECE
    for row in rows[at:]:
        db.execute(f"{into} VALUES{_places(1, width)}", row)


def delete(db: Db, table: str, columns: str, keys: Sequence[Row], returning: str, also: str = "") -> list[Any]:
    """Delete the rows with these keys, for which `also`, a further condition, holds; the column `returning` of those
    that were there. `columns` is "(a,b)", or "a" for keys of one value."""
    gone: list[Any] = []
    at, width = 0, len(keys[0]) if keys else 0
    while at < len(keys):
        size = _PIECE if len(keys) - at >= _PIECE else 1
        where = f"{columns} IN (VALUES{_places(size, width)}){also}"
        values = list(chain.from_iterable(keys[at : at + size]))
        gone += [value for (value,) in db.execute(f"DELETE FROM {table} WHERE {where} RETURNING {returning}", values)]
        at += size
    return gone
