"""Binding and accepting, on loopback and in files."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401  (without descriptors it cannot be imported)
import errno
import os
import resource
import socket
import time
from pathlib import Path
from typing import cast

import pytest
import uvloop

from pillarbox.net.listen import Acceptor, bind_tcp, bind_unix
from pillarbox.net.tls import ServerTls, client_context, ensure_self_signed

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.write(b"hello")
        stream.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_connections_reach_protocols_in_the_clear_and_inside_tls(new_loop: object, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c", tmp_path / "k"
    ensure_self_signed(certificate, key, ["x.test"], time.time())

    async def story() -> None:
        plain, secure = bind_tcp("127.0.0.1", 0), bind_tcp("127.0.0.1", 0)
        acceptors = [Acceptor(plain, Greeter), Acceptor(secure, Greeter, tls=ServerTls(certificate, key).context)]
        for acceptor in acceptors:
            acceptor.start()
        for sock, context in ((plain, None), (secure, client_context(False))):
            reader, writer = await asyncio.open_connection(*sock.getsockname(), ssl=context)
            assert await reader.read() == b"hello"
            writer.close()
        address = secure.getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"this is no handshake\r\n")
        assert b"hello" not in await reader.read()
        writer.close()
        for acceptor in acceptors:
            acceptor.close()
        with pytest.raises(OSError):
            await asyncio.open_connection(*address)

    _run(new_loop, story())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_case_014_out_of_descriptors(new_loop: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillarbox.net.listen.PAUSE_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def story() -> None:
        sock = bind_tcp("127.0.0.1", 0)
        acceptor = Acceptor(sock, Greeter)
        rests: list[OSError] = []
        monkeypatch.setattr(acceptor, "_rest", lambda error: (rests.append(error), Acceptor._rest(acceptor, error)))
        acceptor.start()
        while acceptor._starting is not None and not acceptor._starting.done():
            await asyncio.sleep(0)  # it listens before descriptors run out: the loop's own reserve is one of them
        clients = [socket.socket() for _ in range(3)]
        for client in clients:
            client.setblocking(False)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        spare: list[int] = []
        try:
            while True:
                try:
                    spare.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            loop = asyncio.get_running_loop()
            for client in clients:
                await loop.sock_connect(client, sock.getsockname())
            if not isinstance(loop, uvloop.Loop):
                assert await loop.sock_recv(clients[0], 10) == b""  # turned away with the reserve
                await asyncio.sleep(0)
                assert rests and rests[0].errno == errno.EMFILE and len(rests) <= 3
            before_s = time.process_time()
            await asyncio.sleep(0.2)
            assert time.process_time() - before_s < 0.1  # no busy loop
        finally:
            for descriptor in spare:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        assert await asyncio.wait_for(reader.read(), 10) == b"hello"  # served when descriptors are there again
        writer.close()
        acceptor.close()
        for client in clients:
            client.close()

    _run(new_loop, story())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_case_014_listening_begins_without_a_free_descriptor(new_loop: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillarbox.net.listen.PAUSE_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def story() -> None:
        sock = bind_tcp("127.0.0.1", 0)
        acceptor = Acceptor(sock, Greeter)
        client = socket.socket()
        used = {int(name) for name in os.listdir("/proc/self/fd")}
        spare = [os.dup(sock.fileno()) for _ in range(max(used) - len(used) + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    spare.append(os.dup(sock.fileno()))
            acceptor.start()
            client.connect(sock.getsockname())  # to the backlog
            before_s = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - before_s < 0.1  # no busy loop
        finally:
            for descriptor in spare:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        assert await asyncio.wait_for(reader.read(), 10) == b"hello"
        writer.close()
        acceptor.close()
        client.close()

    _run(new_loop, story())


def test_case_090_half_handshakes_have_a_cap_and_a_deadline(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c", tmp_path / "k"
    ensure_self_signed(certificate, key, ["x.test"], time.time())

    async def story() -> None:
        sock = bind_tcp("127.0.0.1", 0)
        context = ServerTls(certificate, key).context
        acceptor = Acceptor(sock, Greeter, tls=context, handshake_timeout_s=0.2, max_handshakes=2)
        acceptor.start()
        connections = [await asyncio.open_connection(*sock.getsockname()) for _ in range(3)]
        assert await connections[2][0].read() == b""  # at once
        assert await connections[0][0].read() == b""  # after the deadline
        acceptor.close()
        for _, writer in connections:
            writer.close()

    asyncio.run(story())


def test_ports_are_shared_between_workers_when_asked() -> None:
    first = bind_tcp("127.0.0.1", 0)
    second = bind_tcp("127.0.0.1", first.getsockname()[1])
    with pytest.raises(OSError):
        bind_tcp("127.0.0.1", first.getsockname()[1], reuse_port=False)
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    first.close()
    second.close()


def test_unix_sockets_have_their_mode_and_replace_only_dead_sockets(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    first = bind_unix(path, 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="in use"):
        bind_unix(path)
    first.close()
    bind_unix(path).close()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        bind_unix(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_unix_connections_are_accepted(tmp_path: Path) -> None:
    async def story() -> None:
        acceptor = Acceptor(bind_unix(tmp_path / "s"), Greeter)
        acceptor.start()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        assert await reader.read() == b"hello"
        writer.close()
        acceptor.close()

    asyncio.run(story())


def _run(new_loop: object, story: object) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(story)  # type: ignore[arg-type]
