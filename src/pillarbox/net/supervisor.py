"""The supervisor: binds, drops root, forks workers, and keeps them alive. It opens no database, thread or loop.

Sockets are bound here, one set per front worker (SO_REUSEPORT), and outlive the workers: clients that wait for a dead
one are served by the next. A worker that dies is replaced at once; from the third death in ten seconds on, later each
time. Workers end with the supervisor (PR_SET_PDEATHSIG, and a look at the parent).
Signals: TERM and INT finish what is in progress, HUP reads the configuration again.
Source: ARCHITECTURE "Roles"; prctl(2), sd_notify(3), signal(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import pwd
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from pillarbox.model.errors import PillarboxError
from pillarbox.model.settings import Listener
from pillarbox.net.listen import bind_tcp, bind_unix
from pillarbox.net.memory import keep_large_buffers_apart

_log = structlog.get_logger("supervisor")

STOP_S: Final = 30.0
"""How long workers may take to finish; then they are killed (systemd's TimeoutStopSec is a little more)."""
FILES: Final = 1 << 20
"""Open files we ask for; as many as the hard limit allows."""
QUICK_DEATHS: Final = 3
QUICK_S: Final = 10.0
MAX_BACKOFF_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

Bound = list[tuple[Listener, socket.socket]]
"""One worker's listening sockets."""


class AlreadyRunning(Exception):
    """Another server holds this home; `pid` is its process (0 if it is not known)."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid}")
        self.pid = pid


class ChildFailed(PillarboxError):
    """What was to be done in a process of its own failed there."""


class PidFile:
    """HOME/run/pillarbox.pid, locked as long as the server lives: the lock is the truth, the number is for people."""

    def __init__(self, path: Path) -> None:
        """Raises AlreadyRunning, OSError."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _read_pid(self._descriptor)
            os.close(self._descriptor)
            raise AlreadyRunning(pid) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        """In a forked worker: it must not hold the lock when the supervisor has gone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def running_pid(path: Path) -> int:
    """The server that holds this pid file, 0 if none does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(descriptor)
    finally:
        os.close(descriptor)
    return 0


def _read_pid(descriptor: int) -> int:
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else 0


def bind_all(listeners: Sequence[Listener], workers: int) -> list[Bound]:
    """Bind every listener once for each worker; a socket in the file system, which cannot be shared so, is one socket
    that all of them accept from. Raises OSError whose `filename` names the address."""
    sets: list[Bound] = [[] for _ in range(workers)]
    try:
        for listener in listeners:
            if listener.protocol == "metrics":
                continue
            if listener.address.startswith("/"):
                shared = bind_unix(Path(listener.address))
                for number, bound in enumerate(sets):
                    bound.append((listener, shared if number == 0 else shared.dup()))
                continue
            for bound in sets:
                bound.append((listener, _bind(listener, reuse_port=workers > 1)))
    except OSError:
        close_sockets(*sets)
        raise
    return sets


def bind_metrics(listeners: Sequence[Listener]) -> Bound:
    """The sockets of the metrics page, which one process serves."""
    return [(item, _bind(item, reuse_port=False)) for item in listeners if item.protocol == "metrics"]


def _bind(listener: Listener, reuse_port: bool) -> socket.socket:
    try:
        return bind_tcp(listener.address, listener.port, reuse_port=reuse_port)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{listener.address} port {listener.port}") from error


def close_sockets(*sets: Bound) -> None:
    for bound in sets:
        for _, sock in bound:
            sock.close()


# --- what every process of ours does to itself ----------------------------------------------------------------------


def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def drop_root(uid: int, gid: int) -> None:
    """Become an ordinary user for good."""
    try:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if os.getuid() == 0 or os.geteuid() == 0:
        raise PermissionError("root was not dropped")


def machine_name() -> str:
    """The machine's name, qualified where it knows how."""
    name = socket.gethostname()
    return name if "." in name else socket.getfqdn()


def harden() -> None:
    """No core dumps with secrets in them, nothing to read for other processes of the same user; many open files."""
    _prctl(_PR_SET_DUMPABLE, 0)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def raise_file_limit() -> int:
    """As many open files as we may have (root may raise the hard limit); returns how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (FILES, hard if hard != resource.RLIM_INFINITY else FILES):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def tune_collector() -> None:
    """What is loaded now is never garbage; young objects die by reference count, so look for cycles seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    keep_large_buffers_apart()


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def run_apart(work: Callable[[], object]) -> None:
    """Do this in a process of its own and wait for it: what it opens (SQLite above all) must not be in a process that
    forks. Raises ChildFailed with the words of what went wrong there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)
            work()
            code = 0
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:4000])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if status:
        raise ChildFailed(text or f"the process ended with {os.waitstatus_to_exitcode(status)}")


def notify_systemd(state: str) -> None:
    """Tell systemd, if it listens: "READY=1", "RELOADING=1", "STOPPING=1". Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if state.startswith("RELOADING"):
        state += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


# --- workers --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Worker:
    """One process to keep: `work` runs in the child and returns its exit code."""

    name: str
    work: Callable[[], int]
    pid: int = 0
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    """Monotonic times of its last deaths."""
    due_s: float = 0.0
    """When it is to be started (monotonic)."""


class Supervisor:
    """Keeps workers alive until told to stop."""

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        in_child: Callable[[], None],
        reload: Callable[[Callable[[], list[int]]], None],
        ready: Callable[[], None],
        stop_s: float = STOP_S,
    ) -> None:
        """`in_child` drops what is the supervisor's own; `reload` checks the new configuration, and is given what calls
        the workers to take it (and returns their places in `workers`); `ready` is called when all have been started."""
        self._workers = list(workers)
        self._in_child = in_child
        self._reload = reload
        self._ready = ready
        self._stop_s = stop_s

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; 0, or 1 if a worker had to be killed."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        tune_collector()
        for worker in self._workers:
            self._start(worker)
        self._ready()
        while True:
            received = signal.sigtimedwait(_WATCHED, self._patience_s())
            number = received.si_signo if received else 0
            if number in (signal.SIGTERM, signal.SIGINT):
                return self._stop()
            if number == signal.SIGHUP:
                notify_systemd("RELOADING=1")
                self._reap()  # the dead need not be waited for
                self._reload(lambda: self._tell(signal.SIGHUP))
                notify_systemd("READY=1")
            self._reap()
            now_s = time.monotonic()
            for worker in self._workers:
                if not worker.pid and worker.due_s <= now_s:
                    self._start(worker)

    def _patience_s(self) -> float:
        """How long until a worker is due; a minute where none is."""
        due = [worker.due_s for worker in self._workers if not worker.pid]
        return min(60.0, max(0.0, min(due) - time.monotonic())) if due else 60.0

    def _start(self, worker: Worker) -> None:
        supervisor = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _log.error("cannot start a worker", worker=worker.name, error=error.strerror)
            worker.due_s = time.monotonic() + 1.0
            return
        if pid:
            worker.pid = pid
            return
        code = 70
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != supervisor:
                os._exit(0)
            self._in_child()
            os.environ.pop("NOTIFY_SOCKET", None)
            # Ctrl-C reaches the whole group of processes: it is the supervisor that tells the workers to stop.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = worker.work()
        except BaseException:
            _log.exception("worker failed", worker=worker.name)
        finally:
            os._exit(code)

    def _reap(self) -> list[int]:
        """Take note of who has ended; the exit codes (negative: the signal)."""
        codes: list[int] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return codes
            if not pid:
                return codes
            codes.append(os.waitstatus_to_exitcode(status))
            for worker in self._workers:
                if worker.pid == pid:
                    worker.pid = 0
                    self._schedule(worker, codes[-1])

    def _schedule(self, worker: Worker, code: int) -> None:
        """At once, but from the third death in ten seconds on later each time."""
        now_s = time.monotonic()
        worker.deaths.append(now_s)
        quick = sum(1 for at_s in worker.deaths if now_s - at_s < QUICK_S)
        delay_s = 0.0 if quick < QUICK_DEATHS else min(MAX_BACKOFF_S, 0.5 * 2 ** (quick - QUICK_DEATHS))
        worker.due_s = now_s + delay_s
        _log.error("worker died", worker=worker.name, code=code, again_in_s=delay_s)

    def _tell(self, number: signal.Signals) -> list[int]:
        """Send a signal to all workers that live; their places."""
        told: list[int] = []
        for place, worker in enumerate(self._workers):
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
                    told.append(place)
        return told

    def _stop(self) -> int:
        """Let workers finish; kill those that do not."""
        notify_systemd("STOPPING=1")
        _log.info("stopping")
        self._tell(signal.SIGTERM)
        for worker in self._workers:
            worker.due_s = float("inf")
        deadline_s = time.monotonic() + self._stop_s
        killed = False
        while any(worker.pid for worker in self._workers):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 and not killed:
                killed = True
                for worker in self._workers:
                    if worker.pid:
                        _log.error("worker killed", worker=worker.name, after_s=self._stop_s)
                self._tell(signal.SIGKILL)
            self._wait_for_end(max(0.05, left_s))
        _log.info("stopped")
        return 1 if killed else 0

    def _wait_for_end(self, seconds: float) -> None:
        signal.sigtimedwait((signal.SIGCHLD,), seconds)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = -1
            if pid <= 0:
                break
            for worker in self._workers:
                if worker.pid == pid:
                    worker.pid = 0
        if pid < 0:
            for worker in self._workers:
                worker.pid = 0
