"""Signals between the processes of one home: a unix datagram socket each, in `HOME/run/`.

A signal only wakes, so everything here may be lost or doubled. Topics published within a moment travel together; where
a receiver is too slow for them, it is told "*" later, which wakes all its subscribers. A command (which has no loop)
publishes at once and listens to nothing. Implements `store.api.Signals`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger("signals")

EVERYTHING: Final = "*"
DATAGRAM_OCTETS: Final = 8192
MAX_PENDING: Final = 1000
"""Topics that wait for the end of the turn, or for a slow receiver; more become "*"."""
SPREAD_S: Final = 0.01
"""The first topic travels at once; those of the next 10 ms together: a wake-up of every process costs as much as a
message."""
RETRY_S: Final = 0.05
_MAX_TRIES: Final = 100
_MAX_UNIX_PATH: Final = 100


class LocalSignals:
    """`start` it on a running loop to hear others; without that it only speaks. Verbs are safe from any thread."""

    def __init__(self, run: Path) -> None:
        """`run` is the folder of the sockets; it is made (mode 700) if it is missing. Raises OSError."""
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._run = run
        self._folder_fd = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
        self._prefix = socket_folder(run, self._folder_fd)
        self._name = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._subscribers: dict[str, dict[int, Callable[[], None]]] = {}
        self._next_key = 0
        self._pending: dict[str, None] = {}
        self._flush_is_due = False
        self._flushed_s = float("-inf")
        self._peers: tuple[str, ...] = ()
        self._peers_seen = (-1, -1.0)
        self._slow: dict[str, tuple[set[str], int]] = {}
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen, on the running loop. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._name = f"{os.getpid()}-{secrets.token_hex(8)}.signal"
        self._socket.bind(f"{self._prefix}/{self._name}")
        self._loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._folder_fd < 0:
            return
        if self._loop and self._name:
            self._flush()
            self._loop.remove_reader(self._socket.fileno())
            self._forget(self._name)
        if self._retry:
            self._retry.cancel()
        self._socket.close()
        os.close(self._folder_fd)
        self._folder_fd = -1
        self._subscribers.clear()

    def publish(self, topic: str) -> None:
        """Wake the topic's subscribers, here and in other processes."""
        loop = self._loop
        if loop is None:
            self._send_to_all({topic})
            self._wake({topic})
        elif threading.get_ident() == self._thread:
            self._publish(topic)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._publish, topic)

    def subscribe(self, topic: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on the loop when the topic is published; returns what ends that (harmless if called again)."""
        key, self._next_key = self._next_key, self._next_key + 1
        self._subscribers.setdefault(topic, {})[key] = wake

        def end() -> None:
            waiting = self._subscribers.get(topic, {})
            waiting.pop(key, None)
            if not waiting:
                self._subscribers.pop(topic, None)

        return end

    def _publish(self, topic: str) -> None:
        if self._folder_fd < 0:
            return
        self._pending[topic if len(self._pending) < MAX_PENDING else EVERYTHING] = None
        if not self._flush_is_due:
            self._flush_is_due = True
            assert self._loop is not None
            wait_s = self._flushed_s + SPREAD_S - self._loop.time()
            if wait_s > 0.0:
                self._loop.call_later(wait_s, self._flush)
            else:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what was published, and wake our own."""
        self._flush_is_due = False
        if self._loop is not None:
            self._flushed_s = self._loop.time()
        if self._folder_fd < 0 or not self._pending:
            return
        topics = set(self._pending)
        self._pending.clear()
        self._send_to_all(topics)
        self._wake(topics)

    def _wake(self, topics: set[str]) -> None:
        if EVERYTHING in topics:
            topics = set(self._subscribers)
        for topic in topics:
            for wake in list(self._subscribers.get(topic, {}).values()):
                try:
                    wake()
                except Exception:
                    _log.exception("subscriber failed", topic=topic)

    def _send_to_all(self, topics: set[str]) -> None:
        for peer in self._others():
            self._send(peer, topics, 0)

    def _others(self) -> tuple[str, ...]:
        """Names of the other processes' sockets; the folder is read again only when it has changed."""
        try:
            seen = os.fstat(self._folder_fd)
            if (seen.st_mtime_ns, seen.st_ctime) != self._peers_seen:
                names = os.listdir(self._folder_fd)
                self._peers = tuple(n for n in names if n.endswith(".signal") and n != self._name)
                # a change within the clock's tick of the last one would go unseen: such a folder is read again
                fresh = abs(seen.st_mtime - time.time()) < 0.1
                self._peers_seen = (-1, -1.0) if fresh else (seen.st_mtime_ns, seen.st_ctime)
        except OSError as error:
            _log.warning("cannot list sockets", error=str(error))
            return ()
        return self._peers

    def _send(self, peer: str, topics: set[str], tries: int) -> None:
        """Never waits, never raises: a dead process's socket is removed, a slow one's topics wait a little."""
        if peer in self._slow:
            waiting, tries = self._slow[peer]
            waiting |= topics
            self._slow[peer] = ({EVERYTHING} if len(waiting) > MAX_PENDING else waiting, tries)
            return
        for datagram in _datagrams(topics):
            try:
                self._socket.sendto(datagram, f"{self._prefix}/{peer}")
            except (BlockingIOError, InterruptedError):
                if self._loop and tries < _MAX_TRIES:
                    self._slow[peer] = (set(topics), tries)
                    self._retry = self._retry or self._loop.call_later(RETRY_S, self._try_again)
                return
            except OSError as error:
                if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                    self._forget(peer)
                return

    def _try_again(self) -> None:
        self._retry = None
        slow, self._slow = self._slow, {}
        for peer, (topics, tries) in slow.items():
            self._send(peer, topics, tries + 1)

    def _forget(self, name: str) -> None:
        """Names hold random digits, so one that refused is never another process's."""
        self._peers_seen = (-1, -1.0)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder_fd)

    def _read(self) -> None:
        topics: set[str] = set()
        for _ in range(64):  # then others have their turn
            try:
                datagram = self._socket.recv(DATAGRAM_OCTETS)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                _log.warning("cannot receive", error=str(error))
                break
            topics.update(datagram.decode("utf-8", "replace").split("\n"))
        self._wake(topics)


def socket_folder(run: Path, folder_fd: int) -> str:
    """The folder as sockets in it are named (in up to 40 octets): sun_path holds 108, so a deep home is reached through
    the descriptor of its folder. Source: unix(7)."""
    short = len(os.fsencode(run)) + 40 < _MAX_UNIX_PATH
    return str(run) if short else f"/proc/self/fd/{folder_fd}"


def _datagrams(topics: set[str]) -> list[bytes]:
    """The topics in lines, in as few datagrams as they fit in; a topic that fits in none is "*"."""
    made: list[bytes] = []
    current: list[bytes] = []
    size = 0
    for topic in topics:
        line = topic.encode()
        if len(line) >= DATAGRAM_OCTETS or b"\n" in line:
            line = EVERYTHING.encode()
        if current and size + len(line) >= DATAGRAM_OCTETS:
            made.append(b"\n".join(current))
            current, size = [], 0
        current.append(line)
        size += len(line) + 1
    made.append(b"\n".join(current))
    return made
