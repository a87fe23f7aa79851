"""Listening sockets, and accepting from them without falling over when descriptors run out.

The supervisor binds every socket before it drops root and forks; each worker accepts from its own (SO_REUSEPORT), so
that a worker that dies resets no waiting client of another. Accepted connections go to an `asyncio.Protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from pillarbox.mail.networks import network_keys

_log = structlog.get_logger("listen")

BACKLOG: Final = 1024
PAUSE_S: Final = 1.0
"""How long nothing is accepted when descriptors or memory have run out (case 14)."""
LOG_EVERY_S: Final = 60.0
UNACKNOWLEDGED_MS: Final = 900_000
MAX_HANDSHAKES: Final = 500
"""TLS handshakes at once on one socket; then hosts that have many give way to hosts that have few (case 90)."""
_AT_ONCE: Final = 64
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def bind_tcp(address: str, port: int, *, reuse_port: bool = True, backlog: int = BACKLOG) -> socket.socket:
    """A listening TCP socket, not blocking. Keep-alive finds peers that vanished (case 191). Raises OSError.

    An IPv6 socket takes IPv6 only, so that "::" and "0.0.0.0" can both be listed.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # what follows is inherited by accepted sockets: silence for 10 minutes, then 5 probes a minute apart
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 600)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)
        # what a peer does not acknowledge for so long ends the connection, whatever the system's retries are
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((address, port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def bind_unix(path: Path, mode: int = 0o660, *, backlog: int = BACKLOG) -> socket.socket:
    """A listening unix socket with these permissions, not blocking; one that a dead process left is replaced.

    Raises OSError: EADDRINUSE if someone listens there, EEXIST if it is no socket.
    """
    if path.is_symlink() or path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket", str(path))
        if _is_answered(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(str(path))
        path.chmod(mode)  # nobody can connect before listen()
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


class Acceptor:
    """Accepts from one listening socket and hands each connection to a new protocol, inside TLS if `tls` is given.

    In the clear on uvloop the loop accepts by itself, at a third of the cost (100 µs less a connection); without
    descriptors it leaves the clients in the backlog. Else we accept, one at a time: handshakes are counted, and without
    descriptors there is a rest.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_s: float = 30.0,
        max_handshakes: int = MAX_HANDSHAKES,
    ) -> None:
        self._socket = sock
        self._factory = protocol_factory
        self._tls = tls
        self._handshake_timeout_s = handshake_timeout_s
        self._max_handshakes = max_handshakes
        self._handshakes: dict[asyncio.Task[None], str] = {}  # oldest first → host
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._reserve = -1
        self._logged_s: dict[str, float] = {}
        self._server: asyncio.AbstractServer | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Accept, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        if (
            self._tls is None
            and type(self._loop).__module__.startswith("uvloop")
            and self._socket.family != socket.AF_UNIX
        ):
            self._starting = self._loop.create_task(self._listen())
            return
        self._take_reserve()
        self._loop.add_reader(self._socket.fileno(), self._accept)

    async def _listen(self) -> None:
        """uvloop keeps one descriptor in reserve, from the moment it listens; without it, it would spin as soon as
        descriptors run out. So it begins when one is free, and nothing can take it in between."""
        assert self._loop is not None
        while not self._take_reserve():
            await asyncio.sleep(PAUSE_S)
        self._drop_reserve()
        self._server = await self._loop.create_server(self._factory, sock=self._socket, backlog=BACKLOG)
        self._watch()

    def _watch(self) -> None:
        """uvloop does not tell that it is out of descriptors: look once a second."""
        assert self._loop is not None
        self._take_reserve()
        self._drop_reserve()
        self._pause = self._loop.call_later(PAUSE_S, self._watch)

    @property
    def handshakes(self) -> int:
        """How many clients were accepted and are not with their protocol yet."""
        return len(self._handshakes)

    def retire(self) -> None:
        """Accept no more, but let TLS handshakes that are in progress come to their end (case 243)."""
        going_on, self._handshakes = self._handshakes, {}
        self.close()
        self._handshakes = going_on

    def close(self) -> None:
        """Accept no more, and break off handshakes. The socket is closed here; where another process holds it too, it
        stays bound there."""
        for task in list(self._handshakes):
            task.cancel()
        if self._loop is None:
            self._socket.close()
            return
        if self._pause:
            self._pause.cancel()
        if self._starting is not None:
            self._starting.cancel()
            if self._server is not None:
                self._server.close()
            self._socket.close()
            return
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self._drop_reserve()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):  # then others have their turn
            try:
                connection, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                else:
                    self._log("accept failed", error=error.strerror)
                return
            self._hand_over(connection, peer)

    def _hand_over(self, connection: socket.socket, peer: object) -> None:
        host = network_keys(str(peer[0]))[0] if isinstance(peer, tuple) and peer else ""
        if self._tls and len(self._handshakes) >= self._max_handshakes and not self._make_room(host):
            self._log("too many TLS handshakes", limit=self._max_handshakes)
            connection.close()
            return
        connection.setblocking(False)
        assert self._loop is not None
        task = self._loop.create_task(self._connect(connection))
        self._handshakes[task] = host
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)

    def _make_room(self, host: str) -> bool:
        """Break off the oldest handshake of the host that has most of them, if this one has fewer: so that no host can
        shut out the others."""
        counts = Counter(self._handshakes.values())
        greedy, most = counts.most_common(1)[0]
        if counts[host] + 1 >= most:
            return False
        oldest = next(task for task, its_host in self._handshakes.items() if its_host == greedy)
        del self._handshakes[oldest]
        oldest.cancel()
        return True

    async def _connect(self, connection: socket.socket) -> None:
        """Lives until the TLS handshake is over, or for a moment without TLS."""
        assert self._loop is not None
        options: dict[str, Any] = {}
        if self._tls:
            options = {"ssl": self._tls, "ssl_handshake_timeout": self._handshake_timeout_s}
        try:
            await self._loop.connect_accepted_socket(self._factory, connection, **options)
        except (OSError, TimeoutError):  # a failed handshake is the peer's affair; ssl.SSLError is an OSError
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        except Exception:
            _log.exception("connection failed")
            connection.close()

    def _rest(self, error: OSError) -> None:
        """Out of descriptors: turn one waiting client away with the reserve, log, and look again in a second."""
        assert self._loop is not None
        self._loop.remove_reader(self._socket.fileno())
        self._log("cannot accept", error=error.strerror, pause_s=PAUSE_S)
        if self._reserve >= 0:
            self._drop_reserve()
            with contextlib.suppress(OSError):
                self._socket.accept()[0].close()
            self._take_reserve()
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self._reserve < 0:
            self._take_reserve()
        if self._loop and self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def _take_reserve(self) -> bool:
        try:
            self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._log("cannot accept", error=error.strerror, pause_s=PAUSE_S)
            return False
        return True

    def _drop_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _log(self, event: str, **fields: object) -> None:
        """Each thing once a minute."""
        assert self._loop is not None
        now_s = self._loop.time()
        if now_s - self._logged_s.get(event, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_s[event] = now_s
            _log.warning(event, **fields)
