"""The base subject, by which messages are sorted and threaded. Source: RFC 5256 §2.1."""

from __future__ import annotations

import re
from typing import Final

_LOOKED_AT: Final = 1000
"""Characters of a subject that matter here: keeps the work small for any subject."""
_BLOB: Final = re.compile(r"\[[^\[\]]*\] *")
_LEADER: Final = re.compile(r"(?:\[[^\[\]]*\] *)*(?:re|fwd?) *(?:\[[^\[\]]*\] *)?: *", re.IGNORECASE)


def base_subject(subject: str) -> str:
    """The subject (decoded) without "Re:", "Fwd:", "[list]", "(fwd)" and the like; case is kept."""
    base = " ".join(subject[:_LOOKED_AT].split())
    if base[-1:] not in (")", "]") and base[:1] not in ("[", "r", "R", "f", "F"):
        return base
    while True:
        base = _without_trailers(base)
        while True:
            shorter = _without_leader(base)
            if shorter == base:
                break
            base = shorter
        if base[:5].lower() == "[fwd:" and base.endswith("]"):
            base = base[5:-1].strip()
            continue
        return base


def _without_trailers(text: str) -> str:
    text = text.rstrip()
    while text[-5:].lower() == "(fwd)":
        text = text[:-5].rstrip()
    return text


def _without_leader(text: str) -> str:
    text = text.lstrip()
    match = _LEADER.match(text)
    if match is not None:
        return text[match.end() :]
    match = _BLOB.match(text)
    if match is not None and match.end() < len(text):
        return text[match.end() :]
    return text
