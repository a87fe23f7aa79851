"""The SMTP envelope: who sends, who receives, and what was asked for on the way. Source: RFC 5321 §2.3.1."""

from __future__ import annotations

from dataclasses import dataclass, field

from pillarbox.model.address import Address


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward-path, and what DSN parameters came with it (RFC 3461 §4.1, §4.2)."""

    address: Address
    orcpt: str = ""
    """Original recipient as "type;address" (decoded), empty if none was given."""
    notify: frozenset[str] = frozenset()
    """Of NEVER, SUCCESS, FAILURE, DELAY; empty means that none was given (failure, and delay by our choice)."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """`reverse_path` is None for the null sender `<>`."""

    reverse_path: Address | None
    recipients: tuple[Recipient, ...] = ()
    smtputf8: bool = False
    body: str = "7BIT"
    """7BIT, 8BITMIME or BINARYMIME as declared (RFC 6152, RFC 3030)."""
    ret: str = ""
    """FULL, HDRS or empty (RFC 3461 §4.3)."""
    envid: str = ""
    """Envelope id, decoded (RFC 3461 §4.4)."""
    extra: dict[str, str] = field(default_factory=dict)
    """Other parameters of MAIL that outlive the session (later standards put theirs here)."""
