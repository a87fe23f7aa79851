"""Tables that strangers can fill are bounded, by count and in octets. Case 88."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from pillarbox.mail.limits import DoorGate
from pillarbox.mail.networks import network_keys
from pillarbox.mail.rates import CAPACITY, RateTable
from pillarbox.model.clock import FakeClock
from pillarbox.model.settings import Settings

from .world import session

MOST_OCTETS = 32 * 1024 * 1024


def v6(number: int) -> str:
    """An address in a /64 and a /48 of its own, 2,000 of them in a /32."""
    return f"2001:{number // 2000:x}:{number % 2000:x}::1"


def grown(fill: Callable[[], object]) -> int:
    """Octets that are held by what `fill` returns."""
    tracemalloc.start()
    try:
        held = fill()
        size, _ = tracemalloc.get_traced_memory()
        del held
        return size
    finally:
        tracemalloc.stop()


def test_case_088_a_door_that_meets_many_networks() -> None:
    def fill() -> DoorGate:
        door = DoorGate(Settings(), FakeClock())
        for number in range(CAPACITY // 2 + 1):  # each counts under a /64 and a /48 of its own
            at = session("smtp", peer=v6(number))
            door.admit(at)
            door.leave(at)
        assert len(door._rates) == CAPACITY and not door._sessions and not door._places
        return door

    assert grown(fill) < MOST_OCTETS


def test_case_088_one_bucket_for_a_network_of_ten_thousand_addresses() -> None:
    table = RateTable(60.0)
    for number in range(10_000):
        for key in network_keys(f"2001:db8::{number:x}"):
            table.add(key, 0.0)
    assert len(table) == 3


@pytest.mark.parametrize("window_s", [60.0, 3600.0, 86_400.0])
def test_case_088_a_table_forgets_those_it_has_not_heard_of_longest(window_s: float) -> None:
    table = RateTable(window_s, capacity=10)
    for number in range(100):
        table.add("busy", 0.0)
        table.add(number, 0.0)
    assert len(table) == 10
    assert table.count("busy", 0.0) == 100 and table.count(0, 0.0) == 0
