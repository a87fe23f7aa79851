"""A real server in a process of its own, on free ports of loopback."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

START_S = 60.0


def children(pid: int) -> list[int]:
    """The processes that this one started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Running:
    """A started server: what it wrote so far is in `text`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = ""

    def until(self, words: str, times: int = 1) -> str:
        """Read its output until `words` stand in it so many times; all that came."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while self.text.count(words) < times:
            ready, _, _ = select.select([descriptor], [], [], START_S)
            octets = os.read(descriptor, 65536) if ready else b""
            assert octets, f"{words!r} did not come; this came:\n{self.text}"
            self.text += octets.decode()
        return self.text

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=START_S)
        self.text += out.decode()
        return self.process.returncode


@contextlib.contextmanager
def started(*words: str) -> Iterator[Running]:
    """`pillarbox WORDS`, output and errors together."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pillarbox", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    running = Running(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        rest, _ = process.communicate()
        print(running.text + rest.decode())  # pytest shows it beside a failure
