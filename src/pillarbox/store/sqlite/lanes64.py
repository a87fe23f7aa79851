"""Columns of 64-bit values as one big integer each: flags of 1,000 messages change in a few operations of C speed.

A lane is the 64 bits of one message; lane i of a column is its i-th value.
"""

from __future__ import annotations

from array import array
from typing import Final

from pillarbox.store.sqlite.placements import FULL, Spans

_LANE: Final = (1 << 64) - 1
_ONES: Final = sum(1 << 64 * i for i in range(FULL + 64))


def number_of(column: array[int]) -> int:
    """The column as one integer."""
    return int.from_bytes(column.tobytes(), "little")


def column_of(number: int, count: int) -> array[int]:
    """Back again."""
    column = array("Q")
    column.frombytes(number.to_bytes(8 * count, "little"))
    return column


def repeated(value: int, count: int) -> int:
    """The same 64-bit value in `count` lanes."""
    return value * (_ONES & ((1 << 64 * count) - 1))


def mask_of(spans: Spans, count: int) -> int:
    """All bits of the lanes in these spans."""
    if spans == [(0, count)]:
        return (1 << 64 * count) - 1
    octets = bytearray(8 * count)
    for start, end in spans:
        octets[8 * start : 8 * end] = b"\xff" * (8 * (end - start))
    return int.from_bytes(octets, "little")


def differing(old: int, new: int) -> int:
    """1 in each lane where the two differ."""
    folded = old ^ new
    for shift in (32, 16, 8, 4, 2, 1):  # bit 0 of a lane becomes the OR of its 64 bits; the others do not matter
        folded |= folded >> shift
    return folded & _ONES


def whole_lanes(ones: int) -> int:
    """All bits of the lanes that hold a 1."""
    return ones * _LANE


def count_of(number: int, bit: int, count: int) -> int:
    """How many lanes have this bit."""
    return (number & repeated(bit, count)).bit_count()
