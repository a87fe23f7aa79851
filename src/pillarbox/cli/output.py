"""Tables, sizes and times as people read them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from pillarbox.cli.program import DATA, CommandError

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)(?:I?B)?")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Lines with columns of equal width; only the heads where there is nothing. Control characters are escaped."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return tuple(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def printable(text: str) -> str:
    """What a stranger wrote, without what could steer a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def parse_size(text: str) -> int:
    """Octets of "500M", "5G", "5GiB", "1000". Raises CommandError."""
    found = _SIZE.fullmatch(text.strip().upper())
    if not found:
        raise CommandError(f"{text!r} is not a size; write 500M or 5G (0: no limit)", DATA)
    return int(found[1]) * _UNITS[found[2]]


def format_size(octets: int) -> str:
    """1536 → "1.5K"."""
    size = float(octets)
    for unit in ("", "K", "M", "G"):
        if size < 1024:
            return f"{size:.0f}{unit}" if size >= 10 or size == int(size) else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}T"


def format_time(at_s: float) -> str:
    """Local time, to the second; "-" for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s)) if at_s else "-"


def json_time(at_s: float) -> str | None:
    """RFC 3339, UTC; None for none."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s)) if at_s else None


def format_age(seconds: float) -> str:
    """ "42s", "7m", "3h", "2d"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
