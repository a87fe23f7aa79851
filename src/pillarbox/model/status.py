"""Enhanced mail system status codes: class.subject.detail. Source: RFC 3463."""

from __future__ import annotations

from typing import NamedTuple


class Status(NamedTuple):
    """One status: `Status(5, 1, 1)` is "5.1.1", bad destination mailbox. Class 2, 4 or 5. Source: RFC 3463 §2."""

    klass: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"


def parse_status(text: str) -> Status | None:
    """Parse "5.1.1"; None if it is not a status (class 2, 4 or 5, others of one to three digits). RFC 3463 §2."""
    parts = text.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) <= 3 for p in parts):
        return None
    status = Status(int(parts[0]), int(parts[1]), int(parts[2]))
    return status if status.klass in (2, 4, 5) else None
