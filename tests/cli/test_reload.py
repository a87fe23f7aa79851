"""A new configuration: taken over whole, by all processes, or not at all. Cases 243, 245."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import smtplib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from neighbours.processes import free_ports
from pillarbox.app.board import ReloadBoard
from pillarbox.net.tls import make_self_signed

from .conftest import Shell, edit
from .server import children, started
from .test_serve import Host, ready

NOT_CHECKED = ssl.create_default_context()
NOT_CHECKED.check_hostname = False
NOT_CHECKED.verify_mode = ssl.CERT_NONE


def announced(host: Host, times: int = 1) -> set[int]:
    """The sizes that so many new sessions are told: the kernel chooses the worker of each."""
    return {host.size_announced() for _ in range(times)}


def limit_size(host: Host, before: int, after: int) -> None:
    old = "# message_octets = 52428800" if before == 52428800 else f"message_octets = {before}"
    edit(host.config, lambda text: text.replace(old, f"message_octets = {after}"))


@contextmanager
def free_descriptors(pid: int, count: int) -> Iterator[None]:
    """Let a process open only so many more files."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    limit = 0
    while limit < count + sum(number < limit for number in used):
        limit += 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_needs_a_restart_is_named_and_the_rest_holds(shell: Shell, workers: int) -> None:
    host = Host(shell, workers)
    with started(*host.serve()) as server:
        ready(server, 1 if workers == 1 else workers + 1)
        assert shell.ok("reload")["needs_restart"] == []
        before = host.config.read_text()
        listener = f'[[listeners]]\nprotocol = "lmtp"\naddress = "127.0.0.1"\nport = {free_ports(1)[0]}\n'
        limits = "[limits]\nopen_accounts = 100\nmailboxes = 10\nmessage_octets = 1000000"
        text = before.replace(f"\nworkers = {workers}\n", '\nworkers = 3\nuser = "nobody"\n').replace(
            "[limits]", limits
        )
        host.config.write_text(text.replace('# level = "info"', 'level = "error"') + listener)
        names = ["workers", "user", "listeners", "limits.open_accounts", "limits.mailboxes", "log.level"]
        assert shell.ok("reload")["needs_restart"] == names
        assert "limits.mailboxes: needs a restart" in shell("reload").out
        assert f'"settings":"{", ".join(names)}"' in server.until('"event":"needs a restart"')
        assert announced(host) == {1_000_000}
        host.config.write_text(before)
        assert shell.ok("reload")["needs_restart"] == []
        assert announced(host) == {52428800}
        assert server.stop() == 0


@pytest.mark.parametrize("free", [0, 1, 2])
def test_one_process_that_cannot_take_all_of_it_over_takes_nothing(shell: Shell, free: int) -> None:
    """It has two listeners and the metrics page, each of which needs a descriptor: no room for the third."""
    host = Host(shell, workers=1)
    with started(*host.serve()) as server:
        ready(server, 1)
        assert announced(host) == {52428800}
        limit_size(host, 52428800, 1_000_000)
        with free_descriptors(server.process.pid, free):
            server.process.send_signal(signal.SIGHUP)
            server.until("reload failed, the old configuration stays")
        assert announced(host) == {52428800}
        assert host.arrive("one") == ["one"]
        assert shell("reload").code == 0
        assert announced(host) == {1_000_000}
        assert server.stop() == 0


def test_case_245_if_one_worker_cannot_take_it_over_none_does(shell: Shell) -> None:
    host = Host(shell, workers=2)
    with started(*host.serve()) as server:
        ready(server, 3)
        limit_size(host, 52428800, 1_000_000)
        second = children(server.process.pid)[1]
        with free_descriptors(second, 1):  # it can read the configuration, and one listener of two
            said = shell("reload")
        assert said.code == 78 and "1 of 3 processes could not take it over" in said.err
        server.until("reload failed, the old configuration stays")
        assert announced(host, 30) == {52428800}
        assert host.arrive("one") == ["one"]
        for pid in children(server.process.pid):  # those that come now have the old one, too
            os.kill(pid, signal.SIGKILL)
        ready(server, 6)
        assert announced(host, 30) == {52428800}
        assert shell("reload").code == 0
        assert announced(host, 30) == {1_000_000}
        assert server.stop() == 0


def test_processes_that_read_something_else_or_do_not_answer_stop_a_reload() -> None:
    board, seen = ReloadBoard(2), bytes(range(32))

    def work(digest: bytes) -> bool:
        return asyncio.run(board.decided(0, digest))

    with ThreadPoolExecutor(1) as pool:
        calls = []
        assert board.agree(seen, lambda: calls.append(pool.submit(work, bytes(32))) or [0]).startswith("1 of 1")
        assert calls[0].result() is False
        assert board.agree(seen, lambda: calls.append(pool.submit(work, seen)) or [0, 1], 0.1).startswith(
            "not all of 2"
        )
        assert calls[1].result() is False  # ready, but another was not
        assert board.agree(seen, lambda: calls.append(pool.submit(work, seen)) or [0], 0.1) == ""
        assert calls[2].result() is True


class Handshake:
    """A TLS client that sends what we let it, over a socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = NOT_CHECKED.wrap_bio(self._in, self._out)

    def step(self) -> bytes:
        """Go as far as we can without the server; what is to be sent."""
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    def finish(self) -> bytes:
        """The rest of it; the server's first words."""
        while True:
            octets = self.socket.recv(65536)
            assert octets, "the server broke the handshake off"
            self._in.write(octets)
            self.socket.sendall(self.step())
            try:
                return self.tls.read(1000)
            except (ssl.SSLWantReadError, ssl.SSLError):
                continue

    def certificate(self) -> bytes:
        found = self.tls.getpeercert(binary_form=True)
        assert found
        return found


def write_certificate(home: Path) -> bytes:
    """A new pair of files; the certificate in DER."""
    chain, key = make_self_signed(["mail.example.org"], 1_790_000_000.0)
    for name, octets in (("cert.pem", chain), ("key.pem", key)):
        path = home / name
        path.touch(0o600)
        path.write_bytes(octets)
    return ssl.PEM_cert_to_DER_cert(chain.decode())


@pytest.mark.parametrize("workers", [1, 2])
def test_case_243_a_new_certificate_breaks_nothing_off(shell: Shell, workers: int) -> None:
    host = Host(shell, workers)
    [port] = free_ports(1)
    more = f'[[listeners]]\nprotocol = "imap"\naddress = "127.0.0.1"\nport = {port}\ntls = "implicit"\n'
    pair = '[tls]\ncertificate = "cert.pem"\nkey = "key.pem"\n'
    edit(host.config, lambda text: text.replace("[tls]\n", pair) + more)
    first = write_certificate(host.home)
    with started(*host.serve()) as server:
        ready(server, 1 if workers == 1 else workers + 1)
        inside, clear = Handshake(port), smtplib.SMTP("127.0.0.1", host.smtp, timeout=30)
        inside.socket.sendall(inside.step())
        assert inside.finish().startswith(b"* OK") and inside.certificate() == first
        clear.ehlo()
        halves = [Handshake(port) for _ in range(8)]  # some have sent nothing yet, some half of their hello
        hellos = [half.step() for half in halves]
        for number, (half, hello) in enumerate(zip(halves, hellos, strict=True)):
            half.socket.sendall(hello[: number * 20])
        seen = Handshake(port)  # who comes after them is greeted: all of them have been accepted
        seen.socket.sendall(seen.step())
        assert seen.finish().startswith(b"* OK")

        second = write_certificate(host.home)
        assert shell("reload").code == 0
        for number, (half, hello) in enumerate(zip(halves, hellos, strict=True)):
            half.socket.sendall(hello[number * 20 :])
            assert half.finish().startswith(b"* OK")
            assert half.certificate() in (first, second)
        new = Handshake(port)
        new.socket.sendall(new.step())
        assert new.finish().startswith(b"* OK") and new.certificate() == second
        inside.tls.write(b"a NOOP\r\n")  # sessions that run go on
        inside.socket.sendall(inside._out.read())
        assert inside.finish().startswith(b"a OK")
        clear.starttls(context=NOT_CHECKED)  # and are given the new one
        assert isinstance(clear.sock, ssl.SSLSocket) and clear.sock.getpeercert(binary_form=True) == second
        clear.close()
        for half in (*halves, new, inside, seen):
            half.socket.close()
        assert server.stop() == 0


def test_case_243_a_pair_that_does_not_fit_changes_nothing(shell: Shell) -> None:
    host = Host(shell, workers=2)
    edit(host.config, lambda text: text.replace("[tls]\n", '[tls]\ncertificate = "cert.pem"\nkey = "key.pem"\n'))
    first = write_certificate(host.home)
    with started(*host.serve()) as server:
        ready(server, 3)
        key = (host.home / "key.pem").read_bytes()
        write_certificate(host.home)
        (host.home / "key.pem").write_bytes(key)
        assert "does not belong to the certificate" in shell("reload").err
        server.process.send_signal(signal.SIGHUP)
        server.until("reload refused, the old configuration stays")
        for _ in range(10):
            with smtplib.SMTP("127.0.0.1", host.smtp, timeout=30) as smtp:
                smtp.starttls(context=NOT_CHECKED)
                assert isinstance(smtp.sock, ssl.SSLSocket) and smtp.sock.getpeercert(binary_form=True) == first
        assert server.stop() == 0


def test_the_lowest_version_of_tls_is_taken_over(shell: Shell) -> None:
    host = Host(shell, workers=1)
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with started(*host.serve()) as server:
        ready(server, 1)
        with smtplib.SMTP("127.0.0.1", host.smtp, timeout=30) as smtp:
            smtp.starttls(context=old)
        edit(host.config, lambda text: text.replace("[tls]\n", '[tls]\nmin_version = "1.3"\n'))
        assert shell("reload").code == 0
        with smtplib.SMTP("127.0.0.1", host.smtp, timeout=30) as smtp, pytest.raises((ssl.SSLError, ConnectionError)):
            smtp.starttls(context=old)
        assert server.stop() == 0
