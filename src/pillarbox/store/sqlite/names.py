"""What a mailbox may be called. Names are Unicode with "/" between levels; on disk there are only ids (case 173)."""

from __future__ import annotations

import unicodedata
from typing import Final

from pillarbox.model.errors import MailboxName

MAX_OCTETS: Final = 1000
MAX_LEVEL_OCTETS: Final = 255
MAX_DEPTH: Final = 32
_FORBIDDEN: Final = frozenset("*%\x7f\u2028\u2029")
_CONTROLS: Final = frozenset(["Cc", "Cf", "Cs", "Cn"])


def canonical_name(name: str) -> str:
    """The one spelling of a name: NFC, INBOX in capitals. Raises MailboxName if it cannot be one.

    For looking up, where a name that cannot exist is just not found, use `lookup_name`.
    """
    name = unicodedata.normalize("NFC", name)
    levels = name.split("/")
    if levels[0].upper() == "INBOX":
        levels[0] = "INBOX"
    name = "/".join(levels)
    reason = _fault(name, levels)
    if reason:
        raise MailboxName(f"{name[:80]!r} {reason}")
    return name


def lookup_name(name: str) -> str:
    """The spelling under which a name would be stored; any text will do."""
    name = unicodedata.normalize("NFC", name)
    first, slash, rest = name.partition("/")
    return "INBOX" + slash + rest if first.upper() == "INBOX" else name


def parents(name: str) -> list[str]:
    """ "a/b/c" → ["a", "a/b"]."""
    levels = name.split("/")
    return ["/".join(levels[:i]) for i in range(1, len(levels))]


def _fault(name: str, levels: list[str]) -> str:
    try:
        octets = len(name.encode())
    except UnicodeEncodeError:
        return "holds half a character"
    if octets > MAX_OCTETS or any(len(level.encode()) > MAX_LEVEL_OCTETS for level in levels):
        return "is too long"
    if len(levels) > MAX_DEPTH:
        return "is too deep"
    if any(not level or level in (".", "..") or level != level.strip() for level in levels):
        return "has a level that is empty, dots only or ends in space"
    if name[0] in "#~":
        return "begins with a reserved character"
    if any(char in _FORBIDDEN or unicodedata.category(char) in _CONTROLS for char in name):
        return "holds a character that is not allowed"
    return ""
