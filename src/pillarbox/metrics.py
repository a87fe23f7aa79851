"""Numbers for Prometheus: each process counts in its own part of a shared memory, and any of them can add them up.

The memory is made before the fork. A part has slots of (name with labels, value); counting is one look-up and one
addition, without a lock or a system call. A process that dies leaves its counters, and the one that takes its place
goes on with them; its gauges begin anew. Served as text on the `metrics` listeners (loopback only).
Source: Prometheus text exposition format 0.0.4 (written by prometheus_client).
"""

from __future__ import annotations

import asyncio
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

SLOTS: Final = 512
"""Names with labels that one process can count; further ones are counted together as `pillarbox_other_total`."""
_KEY_OCTETS: Final = 120
_SLOT_OCTETS: Final = 8 + _KEY_OCTETS
_PART_OCTETS: Final = SLOTS * _SLOT_OCTETS
_REQUEST_OCTETS: Final = 4096
_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")

Labels = tuple[tuple[str, str], ...]


class SharedNumbers:
    """The memory of all processes: make it before the fork, with as many parts as there will be processes."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._memory = mmap.mmap(-1, parts * _PART_OCTETS)

    def part(self, index: int) -> Counters:
        """The counters of process `index`, with what its predecessor left."""
        return Counters(memoryview(self._memory)[index * _PART_OCTETS : (index + 1) * _PART_OCTETS])

    def totals(self) -> dict[str, float]:
        """Slot keys ("c name|label=value") with their sums over all processes."""
        sums: dict[str, float] = {}
        for index in range(self.parts):
            for key, value in self.part(index).items():
                sums[key] = sums.get(key, 0.0) + value
        return sums


class Counters:
    """One process's numbers. Implements `mail.metrics.Metrics`."""

    def __init__(self, part: memoryview) -> None:
        self._keys = part[SLOTS * 8 :]
        self._values = part[: SLOTS * 8].cast("d")
        self._slots: dict[tuple[str, Labels], int] = {}
        self._used = 0
        for place in range(SLOTS):
            key = self._key_at(place)
            if not key:
                break
            self._used = place + 1

    def reset_gauges(self) -> None:
        """At the start of a process: what its predecessor held is not held any more."""
        for place in range(self._used):
            if self._key_at(place).startswith("g "):
                self._values[place] = 0.0

    def count(self, name: str, **labels: str) -> None:
        """Count one."""
        self._values[self._slot(("c " + name, tuple(labels.items())))] += 1.0

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; those of all processes are added up."""
        self._values[self._slot(("g " + name, tuple(labels.items())))] = value

    def items(self) -> Iterator[tuple[str, float]]:
        """(key, value) of every slot in use."""
        for place in range(SLOTS):
            key = self._key_at(place)
            if not key:
                return
            yield key, self._values[place]

    def _slot(self, wanted: tuple[str, Labels]) -> int:
        place = self._slots.get(wanted)
        if place is None:
            place = self._slots[wanted] = self._find(wanted)
            if len(self._slots) > 4 * SLOTS:
                self._slots.clear()
        return place

    def _find(self, wanted: tuple[str, Labels]) -> int:
        name, labels = wanted
        key = "|".join([name, *(f"{_NAME.sub('_', label)}={text}" for label, text in labels)])
        octets = key.encode("utf-8", "replace").replace(b"\0", b"")[:_KEY_OCTETS]
        for place in range(self._used):
            if self._keys[place * _KEY_OCTETS : (place + 1) * _KEY_OCTETS].tobytes().rstrip(b"\0") == octets:
                return place
        if self._used == SLOTS - 1:
            octets = b"c other"
        if self._used == SLOTS:
            return SLOTS - 1
        place, self._used = self._used, self._used + 1
        self._keys[place * _KEY_OCTETS : place * _KEY_OCTETS + len(octets)] = octets
        return place

    def _key_at(self, place: int) -> str:
        return (
            self._keys[place * _KEY_OCTETS : (place + 1) * _KEY_OCTETS]
            .tobytes()
            .rstrip(b"\0")
            .decode("utf-8", "replace")
        )


def exposition(totals: Mapping[str, float]) -> bytes:
    """The numbers as Prometheus reads them: counters get "_total", all names "pillarbox_"."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

    families: dict[str, Metric] = {}
    for key, value in sorted(totals.items()):
        kind, _, rest = key.partition(" ")
        name, *pairs = rest.split("|")
        name = "pillarbox_" + _NAME.sub("_", name)
        labels = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        family = families.get(name)
        if family is None:
            text = name.replace("_", " ")
            family = CounterMetricFamily(name, text) if kind == "c" else GaugeMetricFamily(name, text)
            families[name] = family
        family.add_sample(name + ("_total" if kind == "c" else ""), labels, value)

    class Once:
        def collect(self) -> Iterator[Metric]:
            yield from families.values()

    registry = CollectorRegistry()
    registry.register(Once())
    return bytes(generate_latest(registry))


class MetricsPage(asyncio.Protocol):
    """Answers one HTTP request with the numbers, and closes. Source: RFC 9112 (GET /metrics only)."""

    def __init__(self, totals: Callable[[], Mapping[str, float]]) -> None:
        self._totals = totals
        self._request = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not instances of it
        self._deadline = asyncio.get_running_loop().call_later(10.0, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._request += data
        if b"\r\n\r\n" not in self._request and len(self._request) < _REQUEST_OCTETS:
            return
        words = self._request.split(b"\r\n", 1)[0].split(b" ")
        self._request = b""
        if words[:1] == [b"GET"] and len(words) == 3 and words[1].split(b"?")[0] == b"/metrics":
            self._answer(b"200 OK", b"text/plain; version=0.0.4; charset=utf-8", exposition(self._totals()))
        else:
            self._answer(b"404 Not Found", b"text/plain", b"the numbers are at /metrics\n")

    def _answer(self, status: bytes, kind: bytes, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status, kind, len(body), body)
        )
        self._transport.close()
