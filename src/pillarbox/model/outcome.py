"""What can become of a message for one recipient, as a value. Source: RFC 3464 §2.3.3 (actions)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pillarbox.model.status import Status

OK: Final = Status(2, 0, 0)


@dataclass(frozen=True, slots=True)
class Delivered:
    """It is in a mailbox, or another host has taken it (`remote` is its name then)."""

    status: Status = OK
    remote: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now; try again. `text` is the remote's words (or ours, where `remote` is empty), one line, printable."""

    status: Status
    text: str = ""
    remote: str = ""
    # The delivery may have happened: the connection broke after the final dot (case 18).
    unknown: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """Never; the sender is told. `text` and `remote` as in Deferred."""

    status: Status
    text: str = ""
    remote: str = ""


Outcome: TypeAlias = Delivered | Deferred | Failed
"""One per recipient."""
