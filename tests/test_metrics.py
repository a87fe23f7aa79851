"""Numbers of all processes, added up. Counters outlive a process, gauges do not."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from pillarbox.metrics import SLOTS, MetricsPage, SharedNumbers, exposition


def test_numbers_of_all_parts_are_added_up() -> None:
    numbers = SharedNumbers(3)
    numbers.part(0).count("messages_accepted", protocol="smtp")
    numbers.part(1).count("messages_accepted", protocol="smtp")
    numbers.part(1).count("messages_accepted", protocol="lmtp")
    numbers.part(2).gauge("queue", 5, kind="held")
    text = exposition(numbers.totals()).decode()
    assert 'pillarbox_messages_accepted_total{protocol="smtp"} 2.0' in text
    assert 'pillarbox_messages_accepted_total{protocol="lmtp"} 1.0' in text
    assert "# TYPE pillarbox_messages_accepted_total counter" in text
    assert 'pillarbox_queue{kind="held"} 5.0' in text


def test_another_process_counts_into_the_same_memory() -> None:
    numbers = SharedNumbers(1)
    pid = os.fork()
    if not pid:
        numbers.part(0).count("deaths")
        os._exit(0)
    os.waitpid(pid, 0)
    assert numbers.totals() == {"c deaths": 1.0}


def test_the_next_process_goes_on_with_the_counters_and_not_with_the_gauges() -> None:
    numbers = SharedNumbers(1)
    numbers.part(0).count("messages")
    numbers.part(0).gauge("sessions", 7)
    after = numbers.part(0)
    after.reset_gauges()
    after.count("messages")
    assert numbers.totals() == {"c messages": 2.0, "g sessions": 0.0}


def test_labels_that_strangers_could_multiply_take_bounded_memory() -> None:
    numbers = SharedNumbers(1)
    part = numbers.part(0)
    for number in range(5 * SLOTS):
        part.count("odd", label=f"value {number}\0\n")
    totals = numbers.totals()
    assert len(totals) == SLOTS
    assert sum(totals.values()) == 5 * SLOTS
    assert b"pillarbox_other_total" in exposition(totals)


async def _ask(request: bytes) -> bytes:
    numbers = SharedNumbers(1)
    numbers.part(0).count("messages")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MetricsPage(numbers.totals), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request)
        answer = await reader.read()
        writer.close()
    return answer


def test_the_page_answers_get_and_nothing_else() -> None:
    good = asyncio.run(_ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert good.startswith(b"HTTP/1.1 200 OK\r\n") and b"pillarbox_messages_total 1.0" in good
    for bad in (b"POST /metrics HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"x" * 5000):
        assert asyncio.run(_ask(bad)).startswith(b"HTTP/1.1 404 ")


def test_all_numbers_are_in_the_manual() -> None:
    root = Path(__file__).parent.parent
    manual = (root / "docs" / "manual" / "logs.md").read_text()
    source = "".join(path.read_text() for path in (root / "src").rglob("*.py"))
    counters = set(re.findall(r"""\bcount\([\w.]+, "(\w+)\"""", source))
    gauges = set(re.findall(r"""\.gauge\("(\w+)\"""", source))
    assert len(counters) > 10 and len(gauges) > 2
    for name in [f"{counter}_total" for counter in counters] + [f"{gauge}` (gauge)" for gauge in gauges]:
        assert f"`pillarbox_{name}" in manual, name
