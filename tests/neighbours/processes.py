"""Ports, folders and processes for servers that a test starts and ends.

Every server listens on 127.0.0.0/8 only, has a folder of its own, and is ended by its process id. Nothing here looks
for processes by name.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Return `count` TCP ports that were free a moment ago, all different, and that the system gives to nobody by
    itself: a port from its own range may be a client's a moment later."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first_given = int(file.read().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(min(10_000, first_given // 2), first_given)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind((host, port))
            if port not in found:
                found.append(port)
    return found


def until(said: str, ready: Callable[[], bool], timeout_s: float = 20.0, every_s: float = 0.05) -> None:
    """Wait until `ready()` is true; raise TimeoutError with the words `said` when it takes too long."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:g} s for {said}")
        time.sleep(every_s)


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Say whether something accepts TCP connections at `host`:`port`."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def greets(port: int, host: str = LOOPBACK) -> bool:
    """Say whether a server at `host`:`port` sends a greeting that is a yes (220, +OK, * OK)."""
    try:
        with socket.create_connection((host, port), timeout=2) as sock:
            sock.settimeout(5)
            return sock.recv(4096).startswith((b"220", b"+OK", b"* OK"))
    except OSError:
        return False


@contextmanager
def open_folder(prefix: str) -> Iterator[Path]:
    """Give a new folder that other users may walk through (the peers drop root), and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}."))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if os.environ.get("PILLARBOX_KEEP"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    """Say whether `pid` runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def children(pid: int) -> list[int]:
    """Return the process ids of all descendants of `pid` that run now, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def proportional_memory_octets(pids: list[int]) -> int:
    """Return the sum of the proportional set sizes (PSS) of `pids`; one that ended meanwhile counts nothing."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


class Server:
    """One program in the foreground with its output in a file; ended by SIGTERM, then SIGKILL."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None):
        self.command = command
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process id of the program itself."""
        return self.process.pid

    def family(self) -> list[int]:
        """The program and its descendants."""
        return [self.pid, *children(self.pid)]

    def wait_ready(self, ports: list[int], timeout_s: float = 20.0, ready: Callable[[int], bool] = greets) -> None:
        """Wait until every port is `ready`; raise RuntimeError with the end of the log if the program ends first."""

        def check() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command[0]} ended with {self.process.returncode}:\n{self.tail()}")
            return all(ready(port) for port in ports)

        try:
            until(f"{self.command[0]} on {ports}", check, timeout_s)
        except TimeoutError as error:
            raise RuntimeError(f"{error}:\n{self.tail()}") from None

    def tail(self, octets: int = 4000) -> str:
        """Return the end of what the program wrote."""
        return self.log.read_bytes()[-octets:].decode("utf-8", "replace")

    def stop(self, timeout_s: float = 35.0) -> int:
        """End the program and what it started; return its exit status."""
        family = children(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in family:
            end_orphan(pid)
        return self.process.returncode


def end_orphan(pid: int, patience_s: float = 5.0) -> None:
    """Let a process that lost its parent end by itself, then insist."""
    end = time.monotonic() + patience_s
    while alive(pid):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def program(name: str) -> str | None:
    """Return the path of a program, also from the folders of system programs, or None."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
