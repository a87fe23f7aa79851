"""Many small emails in one read, their octets one after the other, for clients that read a mailbox from end to end.

SQLite joins them to one row: it gives up Python's lock once for all of them, so that the loop sends some while the next
are read. What would be looked for in each (the end of the header, lines that begin with a dot), it looks for meanwhile.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

import apsw

from pillarbox.message.section import RECORD_OCTETS, body_starts
from pillarbox.store.api import Joined
from pillarbox.store.sqlite.files import Db

HEAD_OCTETS: Final = 16 * 1024
"""So much of a content is read at most where only headers are asked for."""

_DATA: Final = "c.data"
_HEADER: Final = (
    f"substr(c.data, 1, ifnull(min(nullif(instr(c.data, x'0d0a0d0a'), 0) + 3, {HEAD_OCTETS}), {HEAD_OCTETS}))"
)


def _query(data: str) -> str:
    """`LIMIT` keeps SQLite from working out the inner columns once more for each outer one."""
    return f"""
SELECT (SELECT modseq FROM meta), count(*), group_concat(ifnull(length(x), -1)),
    CAST(group_concat(x, x'') AS BLOB), group_concat(length(prefix)), CAST(group_concat(parts, x'') AS BLOB),
    ifnull(max(instr(x, x'0a2e') OR substr(x, 1, 1) = x'2e'), 0)
FROM (
    SELECT ifnull(h.prefix, x'') AS prefix, CAST(ifnull(h.prefix, x'') || {data} AS BLOB) AS x,
        ifnull(substr(h.parts, 1, {RECORD_OCTETS}), zeroblob({RECORD_OCTETS})) AS parts
    FROM carray(?) a LEFT JOIN head h ON h.id=a.value LEFT JOIN content c ON c.id=a.value LIMIT -1
)"""


_WHOLE: Final = _query(_DATA)
_HEADS: Final = _query(_HEADER)


def joined(db: Db, emails: Sequence[int], heads_only: bool) -> Joined:
    """See `api.Mailboxes.joined`."""
    if not emails:
        return Joined(0, b"", [], [], False)
    numbers = apsw.carray(memoryview(array("q", emails)))
    rows = db.execute(_HEADS if heads_only else _WHOLE, (numbers,)).fetchall()
    [(modseq, count, sizes, octets, prefixes, parts, dotted)] = rows
    lengths = [*map(int, sizes.split(","))] if sizes else []
    octets = octets or b""
    if count != len(emails) or sum(length for length in lengths if length > 0) != len(octets):
        raise apsw.CorruptError("emails read together do not add up")
    starts = body_starts(parts or b"")
    if len(starts) == count:
        starts = [before + start for before, start in zip(map(int, prefixes.split(",")), starts, strict=True)]
    else:
        starts = [0] * count
    return Joined(modseq, octets, lengths, starts, bool(dotted))
