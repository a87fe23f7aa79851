"""Signals within a process, between two, and past receivers that are dead or asleep."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pillarbox.net.signals import MAX_PENDING, LocalSignals


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until_set(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


def test_subscribers_here_and_elsewhere_are_woken_once_a_turn(tmp_path: Path) -> None:
    async def story() -> None:
        ours, theirs = LocalSignals(tmp_path / "run"), LocalSignals(tmp_path / "run")
        ours.start()
        theirs.start()
        heard: list[str] = []
        woken = asyncio.Event()
        ours.subscribe("account:1", lambda: heard.append("ours"))
        theirs.subscribe("account:1", lambda: (heard.append("theirs"), woken.set()))
        theirs.subscribe("account:2", lambda: heard.append("wrong"))
        for _ in range(10):
            ours.publish("account:1")
        await until_set(woken)
        assert sorted(heard) == ["ours", "theirs"]
        ours.close()
        theirs.close()
        assert list((tmp_path / "run").iterdir()) == []

    asyncio.run(story())


def test_topics_of_a_moment_travel_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once; what follows within the moment is heard once, at its end."""
    monkeypatch.setattr("pillarbox.net.signals.SPREAD_S", 0.05)

    async def story() -> None:
        signals = LocalSignals(tmp_path)
        signals.start()
        heard: list[str] = []
        last = asyncio.Event()
        signals.subscribe("spool", lambda: heard.append("spool"))
        signals.subscribe("account:x", last.set)
        signals.publish("spool")
        await turns()
        assert heard == ["spool"]
        for _ in range(5):
            signals.publish("spool")
            await turns()
        assert heard == ["spool"]
        signals.publish("account:x")
        async with asyncio.timeout(10):
            await last.wait()
        assert heard == ["spool", "spool"]
        signals.close()

    asyncio.run(story())


def test_what_subscribe_returned_ends_it_and_a_failing_subscriber_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillarbox.net.signals.SPREAD_S", 0.0)

    async def story() -> None:
        signals = LocalSignals(tmp_path)
        signals.start()
        heard: list[int] = []

        def fails() -> None:
            raise RuntimeError("on purpose")

        signals.subscribe("spool", fails)
        end = signals.subscribe("spool", lambda: heard.append(1))
        signals.subscribe("spool", lambda: heard.append(2))
        signals.publish("spool")
        await turns()
        end()
        end()
        signals.publish("spool")
        await turns()
        assert heard == [1, 2, 2]
        signals.close()
        signals.publish("spool")  # nothing happens
        signals.close()

    asyncio.run(story())


def test_a_command_in_another_process_publishes(tmp_path: Path) -> None:
    async def story() -> None:
        signals = LocalSignals(tmp_path)
        signals.start()
        woken = asyncio.Event()
        signals.subscribe("directory", woken.set)
        code = (
            "import sys, pathlib; from pillarbox.net.signals import LocalSignals\n"
            "s = LocalSignals(pathlib.Path(sys.argv[1])); s.publish('directory'); s.close()"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path))
        await until_set(woken)
        assert await process.wait() == 0
        signals.close()

    asyncio.run(story())


def test_sockets_of_the_dead_are_removed(tmp_path: Path) -> None:
    async def story() -> None:
        left = tmp_path / "999999-dead.signal"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(str(left))
        signals = LocalSignals(tmp_path)
        signals.start()
        signals.publish("spool")
        await turns()
        assert not left.exists()
        signals.close()

    asyncio.run(story())


def test_a_sleeping_receiver_neither_blocks_nor_grows_us_and_hears_in_the_end(tmp_path: Path) -> None:
    async def story() -> None:
        signals = LocalSignals(tmp_path)
        signals.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as slow:
            slow.bind(str(tmp_path / "1-slow.signal"))
            for i in range(3 * MAX_PENDING):
                signals.publish(f"account:{i}")
                await asyncio.sleep(0)
            assert sum(len(topics) for topics, _ in signals._slow.values()) <= MAX_PENDING + 1
            slow.settimeout(10)
            loop = asyncio.get_running_loop()
            heard: set[str] = set()
            while "*" not in heard and f"account:{3 * MAX_PENDING - 1}" not in heard:
                heard.update((await loop.run_in_executor(None, slow.recv, 65536)).decode().split("\n"))
        signals.close()

    asyncio.run(story())


def test_everything_wakes_everyone_and_garbage_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        signals = LocalSignals(tmp_path)
        signals.start()
        heard: list[int] = []
        woken = asyncio.Event()
        signals.subscribe("account:1", lambda: heard.append(1))
        signals.subscribe("spool", lambda: (heard.append(2), woken.set()))
        path = next(tmp_path.glob("*.signal"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for datagram in (b"", b"\xff\0\n\n", b"x" * 8192, b"account:1 "):
                sender.sendto(datagram, str(path))
            await turns(50)
            assert heard == []
            sender.sendto(b"*", str(path))
        await until_set(woken)
        assert sorted(heard) == [1, 2]
        signals.close()

    asyncio.run(story())


def test_threads_may_publish_and_deep_homes_work(tmp_path: Path) -> None:
    async def story() -> None:
        deep = tmp_path / ("d" * 100) / "run"
        signals, other = LocalSignals(deep), LocalSignals(deep)
        signals.start()
        other.start()
        woken = asyncio.Event()
        other.subscribe("spool", woken.set)
        await asyncio.get_running_loop().run_in_executor(None, signals.publish, "spool")
        await until_set(woken)
        signals.close()
        other.close()

    asyncio.run(story())


def test_the_folder_is_private(tmp_path: Path) -> None:
    LocalSignals(tmp_path / "run").close()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_process_killed_leaves_nothing_that_hurts(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, sys, pathlib; from pillarbox.net.signals import LocalSignals\n"
        "async def main():\n  s = LocalSignals(pathlib.Path(sys.argv[1])); s.start(); os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert len(list(tmp_path.glob("*.signal"))) == 1
    command = LocalSignals(tmp_path)
    command.publish("spool")
    command.close()
    assert list(tmp_path.glob("*.signal")) == []
