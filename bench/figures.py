"""Rows of a bench: what was measured, ours, the peer's, and the ratio that is asked for."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ours` and `theirs` are medians in `unit`; None where there is no peer.

    `asked` is the least ratio (or, without a peer, the bound of `ours`: "≥ 1000" or "≤ 50").
    """

    name: str
    unit: str
    ours: float
    theirs: float | None
    asked: str
    more_is_better: bool = True

    @property
    def ratio(self) -> float | None:
        """How many times better we are than the peer."""
        if self.theirs is None or not self.ours or not self.theirs:
            return None
        return self.ours / self.theirs if self.more_is_better else self.theirs / self.ours

    @property
    def met(self) -> bool:
        """Say whether the row shows what is asked."""
        if not self.asked:
            return True
        sign, _, bound = self.asked.rpartition(" ")
        value = self.ours if self.ratio is None else self.ratio
        return value <= float(bound) if sign == "≤" else value >= float(bound)


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the table, or one JSON object a line."""
    if as_json:
        for row in rows:
            print(json.dumps({**asdict(row), "ratio": row.ratio, "met": row.met}, ensure_ascii=False), flush=True)
        return
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}  {'pillarbox':>12}  {'peer':>12}  {'unit':<14}{'ratio':>7}   asked")
    for row in rows:
        theirs = f"{row.theirs:12,.1f}" if row.theirs is not None else " " * 12
        ratio = f"{row.ratio:7.2f}" if row.ratio is not None else " " * 7
        asked = f"{row.asked:>8}  {'' if row.met else 'NOT MET'}" if row.asked else ""
        print(f"{row.name:{width}}  {row.ours:12,.1f}  {theirs}  {row.unit:<14}{ratio} {asked}".rstrip(), flush=True)


def in_pairs(pairs: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
    """Measure A B A B …, and return the two medians."""
    measured: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        measured[0].append(ours())
        measured[1].append(theirs())
    return statistics.median(measured[0]), statistics.median(measured[1])


def arguments(description: str | None, **defaults: int | str) -> argparse.Namespace:
    """Parse the options of a bench: `defaults` by name, and --json, --pairs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"({default})")
    return parser.parse_args()


def finish(rows: Iterable[Row], *, as_json: bool) -> None:
    """Print the rows; exit status 1 if one does not show what is asked."""
    rows = list(rows)
    print_rows(rows, as_json=as_json)
    raise SystemExit(0 if all(row.met for row in rows) else 1)
