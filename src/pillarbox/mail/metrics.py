"""What this floor asks of whoever counts and of whoever logs; both are handed in by the composition root."""

from __future__ import annotations

from typing import Any, Protocol


class Metrics(Protocol):
    """Counters by name and labels."""

    def count(self, name: str, **labels: str) -> None: ...


class Log(Protocol):
    """A structured logger: an event's name and its fields."""

    def debug(self, event: str, **fields: Any) -> Any: ...

    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...

    def error(self, event: str, **fields: Any) -> Any: ...


def count(metrics: Metrics | None, name: str, **labels: str) -> None:
    """Count one, if anyone counts."""
    if metrics is not None:
        metrics.count(name, **labels)
