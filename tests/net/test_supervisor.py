"""The supervisor's parts: backoff, the lock on a home, what systemd is told, sockets for each worker. Case 244."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest

from neighbours.processes import free_ports
from pillarbox.model.settings import Listener
from pillarbox.net.supervisor import (
    AlreadyRunning,
    ChildFailed,
    PidFile,
    Supervisor,
    Worker,
    bind_all,
    close_sockets,
    notify_systemd,
    run_apart,
    running_pid,
)


def test_a_home_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "pillarbox.pid"
    assert running_pid(path) == 0
    held = PidFile(path)
    assert running_pid(path) == os.getpid()
    with pytest.raises(AlreadyRunning) as caught:
        PidFile(path)
    assert caught.value.pid == os.getpid()
    held.close()
    assert running_pid(path) == 0  # the file stays, but nobody holds it
    PidFile(path).close()


def test_each_worker_has_sockets_of_its_own_on_the_same_ports() -> None:
    smtp, metrics = free_ports(2)
    listeners = [Listener("smtp", "127.0.0.1", smtp), Listener("metrics", "127.0.0.1", metrics, "none")]
    sets = bind_all(listeners, 3)
    names = {sock.getsockname() for bound in sets for _, sock in bound}
    assert [len(bound) for bound in sets] == [1, 1, 1] and len(names) == 1
    with pytest.raises(OSError) as caught:
        bind_all([Listener("imap", "127.0.0.1", listeners[0].port)], 1)
    assert str(listeners[0].port) in str(caught.value.filename)
    close_sockets(*sets)


def test_a_socket_in_the_file_system_is_shared(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sets = bind_all([Listener("lmtp", f"{folder}/lmtp")], 2)
        assert len({sock.fileno() for bound in sets for _, sock in bound}) == 2
        close_sockets(*sets)


def test_backoff_begins_with_the_third_death_in_ten_seconds() -> None:
    worker = Worker("front-1", lambda: 0)
    supervisor = Supervisor([worker], in_child=lambda: None, reload=lambda call: None, ready=lambda: None)
    delays = []
    for _ in range(5):
        before = time.monotonic()
        supervisor._schedule(worker, -9)
        delays.append(round(worker.due_s - before, 1))
    assert delays == [0.0, 0.0, 0.5, 1.0, 2.0]
    worker.deaths.clear()
    worker.deaths.extend([before - 60] * 5)  # long ago
    supervisor._schedule(worker, -9)
    assert worker.due_s <= time.monotonic()


def test_a_worker_that_ends_is_started_again_until_told_to_stop(tmp_path: Path) -> None:
    """The supervisor runs in a process of its own; each life of the worker leaves a line, the third stays."""
    lives = tmp_path / "lives"

    def work() -> int:
        with lives.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(lives.read_text().splitlines()) >= 3:
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()
        return 1

    pid = os.fork()
    if not pid:
        worker = Worker("front-1", work)
        os._exit(Supervisor([worker], in_child=lambda: None, reload=lambda call: None, ready=lambda: None).run())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(set(lives.read_text().splitlines())) == 3


def test_what_goes_wrong_apart_is_told() -> None:
    run_apart(lambda: None)
    with pytest.raises(ChildFailed, match="ValueError: no such thing"):
        run_apart(lambda: (_ for _ in ()).throw(ValueError("no such thing")))
    with pytest.raises(ChildFailed, match="ended with -9"):
        run_apart(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_systemd_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        notify_systemd("READY=1")
        notify_systemd("RELOADING=1")
        assert sock.recv(100) == b"READY=1"
        assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        monkeypatch.delenv("NOTIFY_SOCKET")
        notify_systemd("STOPPING=1")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
