"""How much of a message is looked into. What lies beyond is kept octet for octet, but read as one opaque piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one scan; reaching one leaves a defect, never an error. Sizes in octets."""

    header_octets: int = 1024 * 1024
    """Of one header block: fields beyond are not seen."""
    fields: int = 2000
    """Of one header block."""
    field_octets: int = 100 * 1024
    """Of one field: its value is read no further."""
    depth: int = 100
    """Of multiparts and enclosed messages within one another."""
    parts: int = 10_000
    parameters: int = 256
    """Of one Content-Type or Content-Disposition (RFC 2231 pieces counted one by one)."""
    addresses: int = 2000
    """Of one address field."""
    message_ids: int = 1000
    """Of References: the last ones are kept."""


DEFAULT: Final = Limits()
