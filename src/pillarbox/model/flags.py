"""System flags as bits, keywords as names. Source: RFC 3501 §2.3.2."""

from __future__ import annotations

from typing import Final

SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16
FIRST_KEYWORD_BIT: Final = 5
"""Bit of a mailbox's first keyword: keyword i of its list has bit 5 + i."""
MAX_KEYWORDS: Final = 59
"""Keywords one mailbox can hold: 64 bits less the system flags."""

SYSTEM_FLAGS: Final = {
    "\\Seen": SEEN,
    "\\Answered": ANSWERED,
    "\\Flagged": FLAGGED,
    "\\Deleted": DELETED,
    "\\Draft": DRAFT,
}
"""Name → bit. \\Recent is not stored: it belongs to a session's view of the mailbox."""

SYSTEM_FLAGS_FOLDED: Final = {name.lower(): (name, bit) for name, bit in SYSTEM_FLAGS.items()}


def flag_names(bits: int, keywords: list[str]) -> list[str]:
    """The names of the set bits, system flags first; `keywords` is the mailbox's list, in order of bits."""
    names = [name for name, bit in SYSTEM_FLAGS.items() if bits & bit]
    rest = bits >> FIRST_KEYWORD_BIT
    if rest:
        names += [name for i, name in enumerate(keywords) if rest >> i & 1]
    return names
