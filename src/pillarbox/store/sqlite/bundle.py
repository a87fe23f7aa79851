"""Many small emails in one read, their octets one after the other, for clients that read a mailbox from end to end.

SQLite joins them to one row: it gives up Python's lock once for all of them, so that the loop sends some while the next
are read, and finds the ends of headers meanwhile.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import add
from typing import Final

import apsw

from pillarbox.message.section import BODY_START_AT, RECORD_OCTETS, all_without_dots, body_starts
from pillarbox.store.api import Bundle
from pillarbox.store.sqlite.files import Db

HEAD_OCTETS: Final = 16 * 1024
"""So much of a content is read at most where only headers are asked for."""

_ALL_OCTETS: Final = bytes(range(256)).hex()


def _octet(at: int) -> str:
    """The number that one octet of a content's first record is; SQLite has no function for that."""
    return f"(instr(x'{_ALL_OCTETS}', substr(h.parts, {at + 1}, 1)) - 1)"


_BODY_START: Final = (
    f"iif(substr(h.parts, {BODY_START_AT + 3}, 2) = x'0000', "
    f"{_octet(BODY_START_AT)} + 256 * {_octet(BODY_START_AT + 1)}, {HEAD_OCTETS})"
)
_DATA: Final = "c.data"
_HEADER: Final = f"iif(length(c.data), substr(c.data, 1, min({_BODY_START}, {HEAD_OCTETS})), c.data)"
"""To SQLite the first octets of nothing are NULL."""


def _query(data: str) -> str:
    """`LIMIT` keeps SQLite from working out the inner columns once more for each outer one."""
    return f"""
SELECT (SELECT modseq FROM meta), count(*), group_concat(ifnull(length(x), -1)),
    CAST(group_concat(x, x'') AS BLOB), group_concat(length(prefix)), CAST(group_concat(parts, x'') AS BLOB)
FROM (
    SELECT ifnull(h.prefix, x'') AS prefix, CAST(ifnull(h.prefix, x'') || {data} AS BLOB) AS x,
        ifnull(substr(h.parts, 1, {RECORD_OCTETS}), zeroblob({RECORD_OCTETS})) AS parts
    FROM carray(?) a LEFT JOIN head h ON h.id=a.value
        LEFT JOIN content c ON c.id=a.value LIMIT -1
)"""


_WHOLE: Final = _query(_DATA)
_HEADS: Final = _query(_HEADER)


def bundle(db: Db, emails: Sequence[int], heads_only: bool) -> Bundle:
    """See `api.Mailboxes.bundle`."""
    if not emails:
        return Bundle(0, b"", [], [], False)
    numbers = apsw.carray(memoryview(emails if isinstance(emails, array) else array("Q", emails)).cast("B").cast("q"))
    rows = db.execute(_HEADS if heads_only else _WHOLE, (numbers,)).fetchall()
    [(modseq, count, listed, octets, prefixes, parts)] = rows
    sizes = [*map(int, listed.split(","))]
    octets = octets or b""
    if count != len(emails) or sum(sizes) + sizes.count(-1) != len(octets):
        raise apsw.CorruptError("emails read together do not add up")
    starts = body_starts(parts)
    starts = [*map(add, map(int, prefixes.split(",")), starts)] if len(starts) == count else [0] * count
    return Bundle(modseq, octets, sizes, starts, not all_without_dots(parts))
