"""POP3 over real sockets, against a store that can be seen through. Cases 52, 54 to 57, 184, 187, 192 to 195."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import multiprocessing
import poplib
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from net.pop3_world import ADA, PASSWORD, FakeMailboxes, World
from pillarbox.model.errors import Trouble
from pillarbox.model.settings import Limits
from pillarbox.net.maildrop_lock import MaildropLocks
from pillarbox.net.tls import ServerTls, client_context, ensure_self_signed
from pillarbox.protocol.sasl import ScramClient

MAIL = [f"Subject: {i}\r\n\r\n.dot\r\nline\r\n".encode() for i in range(1, 8)]
HUGE = (
    b"Subject: huge\r\n\r\n"
    + b"." * 70
    + b"\r\n"
    + b"0123456789abcdef" * 20
    + b"\r\n"
    + (b"." + b"x" * 500 + b"\r\n") * 1500
)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_on_loop(story: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(story)

    return run_on_loop


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    ensure_self_signed(folder / "c", folder / "k", ["mx.pillarbox.test"], time.time())
    return ServerTls(folder / "c", folder / "k").context


def test_a_whole_session(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL[:3])).serving() as world:
            client = await world.client()
            assert client.greeting == "+OK mx.pillarbox.test POP3 ready"
            assert await client.say("STAT") == f"+OK 3 {sum(map(len, MAIL[:3]))}"
            assert await client.ask("LIST") == b"".join(b"%d %d\r\n" % (i + 1, len(MAIL[i])) for i in range(3))
            assert await client.ask("UIDL") == b"1 0000123400000001\r\n2 0000123400000002\r\n3 0000123400000003\r\n"
            for i in range(3):
                assert await client.ask(f"RETR {i + 1}") == MAIL[i]
            assert await client.ask("TOP 2 1") == b"Subject: 2\r\n\r\n.dot\r\n"
            assert (await client.say("DELE 2")).startswith("+OK")
            assert (await client.say("RETR 2")).startswith("-ERR")
            assert await client.say("QUIT") == "+OK bye"
            assert await client.ends()
            assert list(world.mailboxes.messages) == [1, 3]

    run(story())


def test_pipelined_commands_are_answered_in_order_with_few_reads_of_the_store(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client()
            client.write("RETR 1", "RETR 2", "RETR 3", "TOP 1 0", "NOOP", "RETR 7", "RETR 6", "DELE 1", "QUIT")
            for i in (1, 2, 3):
                assert (await client.line()).startswith("+OK")
                assert await client.body() == MAIL[i - 1]
            assert await client.line() == "+OK"
            assert await client.body() == b"Subject: 1\r\n\r\n"
            assert await client.line() == "+OK"
            for i in (7, 6):
                assert (await client.line()).startswith("+OK")
                assert await client.body() == MAIL[i - 1]
            assert (await client.line()).startswith("+OK message 1")
            assert await client.line() == "+OK bye"
            assert world.mailboxes.fetches[0] == "1:7"
            assert len(world.mailboxes.fetches) <= 4

    run(story())


def test_a_client_that_reads_one_after_the_other_is_read_ahead_for(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client()
            for i in range(7):
                assert await client.ask(f"RETR {i + 1}") == MAIL[i]
            assert len(world.mailboxes.fetches) < 7
            client.close()

    run(story())


def test_large_messages_are_streamed(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(MAIL[0], HUGE)).serving() as world:
            client = await world.client()
            client.write("RETR 2", "TOP 2 2", "RETR 1")
            await client.line()
            assert await client.body() == HUGE
            await client.line()
            assert await client.body() == HUGE[: HUGE.index(b".x")]
            await client.line()
            assert await client.body() == MAIL[0]
            client.close()

    run(story())


def test_a_client_that_does_not_read_is_not_written_for(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, FakeMailboxes(HUGE, *MAIL), limits=Limits(write_stall_s=60))
        async with world.serving():
            client = await world.client()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.write(*["RETR 1"] * 40)
            session = next(iter(world.listener._sessions))
            while session._writable is None:
                await asyncio.sleep(0.001)
            reads = world.mailboxes.reads
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert world.mailboxes.reads - reads < 20 < 40 * len(HUGE) // 65536
            assert session._transport and session._transport.get_write_buffer_size() <= 256 * 1024
            for _ in range(3):  # the sweeps that see no progress
                world.clock.advance(61)
                world.listener.sweep()
            while world.gate.inside:
                await asyncio.sleep(0.001)
            client.abort()

    run(story())


def test_messages_expunged_elsewhere_answer_err_and_new_ones_wait(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client()
            assert await client.ask("RETR 1") == MAIL[0]
            assert await client.ask("RETR 2") == MAIL[1]  # 3 and 4 have been read ahead
            world.mailboxes.expunge_elsewhere(3)  # and the signal is lost
            world.clock.advance(0.1)
            world.mailboxes.messages[8] = b"new"
            assert await client.say("RETR 3") == "-ERR message expunged meanwhile"
            assert await client.say("TOP 3 0") == "-ERR message expunged meanwhile"
            assert await client.ask("RETR 4") == MAIL[3]
            assert await client.say("DELE 3") == "-ERR message expunged meanwhile"
            assert await client.say("RETR 8") == "-ERR no such message"
            world.mailboxes.expunge_elsewhere(5)
            world.signals.publish(f"account:{ADA.id}")
            assert await client.say("LIST 5") == "-ERR message expunged meanwhile"
            assert await client.say("QUIT") == "+OK bye"

    run(story())


def test_case_192_one_session_at_a_time(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            first = await world.client()
            second = await world.client(login=False)
            await second.say("USER ada@pillarbox.test")
            assert (await second.say(f"PASS {PASSWORD}")).startswith("-ERR [IN-USE]")
            assert await first.say("QUIT") == "+OK bye"
            await second.say("USER ada@pillarbox.test")
            assert (await second.say(f"PASS {PASSWORD}")).startswith("+OK")
            second.abort()
            while world.gate.inside:
                await asyncio.sleep(0.001)
            (await world.client()).close()

    run(story())


def _hold(folder: Path, ready: Any, end: Any) -> None:
    lock = MaildropLocks(folder).take(ADA.id)
    assert lock
    ready.set()
    end.wait(20)


def test_case_192_across_processes_and_freed_by_death(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, end))
    holder.start()
    try:
        assert ready.wait(20)
        locks = MaildropLocks(tmp_path)
        assert locks.take(ADA.id) is None
        holder.kill()
        holder.join()
        lock = locks.take(ADA.id)
        assert lock is not None and locks.take(ADA.id) is None
        lock.release()
        lock.release()
        assert list((tmp_path / "pop3").iterdir()) == []
    finally:
        holder.kill()


def test_case_194_nothing_is_deleted_without_quit(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client()
            assert (await client.say("DELE 1")).startswith("+OK")
            client.abort()
            while world.gate.inside:
                await asyncio.sleep(0.001)
            assert len(world.mailboxes.messages) == 7

    run(story())


def test_case_034_an_update_that_fails_is_said_and_removes_nothing(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client()
            await client.say("DELE 1")
            world.mailboxes.fails = Trouble("disk")
            assert (await client.say("QUIT")).startswith("-ERR [SYS/TEMP]")
            assert await client.ends()
            assert len(world.mailboxes.messages) == 7

    run(story())


def test_case_054_and_187_no_password_in_the_clear(run: Run, tmp_path: Path, certificate: ssl.SSLContext) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(), tls=certificate, cleartext=False).serving() as world:
            client = await world.client(login=False)
            capabilities = await client.ask("CAPA")
            assert (
                b"STLS" in capabilities
                and b"SASL" not in capabilities
                and b"USER\r\n" not in capabilities.split(b"UTF8 USER\r\n")
            )
            assert (await client.say("USER ada@pillarbox.test")).startswith("-ERR")
            assert (await client.say("AUTH PLAIN AGFkYQBwdw==")).startswith("-ERR")
            assert world.logins.asked == []
            client.close()

    run(story())


def test_stls_then_login(run: Run, tmp_path: Path, certificate: ssl.SSLContext) -> None:
    def with_poplib(port: int) -> None:
        client = poplib.POP3("127.0.0.1", port, timeout=10)
        client.stls(client_context(False))
        capabilities = client.capa()
        assert "STLS" not in capabilities and capabilities["SASL"] == ["SCRAM-SHA-256", "PLAIN"]
        token = base64.b64encode(f"\0ada@pillarbox.test\0{PASSWORD}".encode()).decode()
        assert client._shortcmd(f"AUTH PLAIN {token}").startswith(b"+OK 7 messages")  # type: ignore[attr-defined]
        assert b"\r\n".join([*client.retr(7)[1], b""]) == MAIL[6]
        with pytest.raises(poplib.error_proto):
            client._shortcmd("STLS")  # type: ignore[attr-defined]
        client.quit()

    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL), tls=certificate, cleartext=False).serving() as world:
            await asyncio.get_running_loop().run_in_executor(None, with_poplib, world.port)

    run(story())


def test_commands_sent_with_the_end_of_the_handshake(run: Run, tmp_path: Path, certificate: ssl.SSLContext) -> None:
    """A client need not wait for anything after its part of the handshake."""

    def talk(port: int) -> list[bytes]:
        said = []
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
                plain.recv(1000)
                plain.sendall(b"STLS\r\n")
                plain.recv(1000)
                with client_context(False).wrap_socket(plain, server_hostname="localhost") as secure:
                    secure.sendall(b"QUIT\r\n")
                    said.append(secure.recv(1000))
        return said

    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(), tls=certificate).serving() as world:
            said = await asyncio.get_running_loop().run_in_executor(None, talk, world.port)
            assert all(line.startswith(b"+OK") for line in said)

    run(story())


def test_case_052_nothing_said_with_stls_is_obeyed(run: Run, tmp_path: Path, certificate: ssl.SSLContext) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(), tls=certificate).serving() as world:
            client = await world.client(login=False)
            client.write("STLS", "USER ada@pillarbox.test", f"PASS {PASSWORD}")
            assert (await client.line()).startswith("-ERR")
            assert await client.ends()
            assert world.logins.asked == []

    run(story())


def test_a_failed_handshake_ends_the_session(run: Run, tmp_path: Path, certificate: ssl.SSLContext) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(), tls=certificate).serving() as world:
            client = await world.client(login=False)
            assert (await client.say("STLS")).startswith("+OK")
            client.write("this is not TLS")
            await client.reader.read()
            while world.gate.inside:
                await asyncio.sleep(0.001)
            client.close()

    run(story())


def test_implicit_tls(run: Run, tmp_path: Path, certificate: ssl.SSLContext) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL), cleartext=False).serving(certificate) as world:
            client = await world.client(ssl=client_context(False))
            client.write(*[f"RETR {i}" for i in range(1, 8)], "QUIT")
            for mail in MAIL:
                await client.line()
                assert await client.body() == mail
            assert await client.line() == "+OK bye"

    run(story())


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_scram(run: Run, tmp_path: Path, password: str) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client(login=False)
            scram = ScramClient("ada@pillarbox.test", password, "nonce")
            line = await client.say("AUTH SCRAM-SHA-256 " + base64.b64encode(scram.begin() or b"").decode())
            while line.startswith("+ "):
                line = await client.say(base64.b64encode(scram.receive(base64.b64decode(line[2:]))).decode())
            assert line.startswith("+OK" if password == PASSWORD else "-ERR [AUTH]")
            client.close()

    run(story())


def test_wrong_passwords_and_busy_servers(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes()).serving() as world:
            client = await world.client(login=False)
            await client.say("USER busy")
            assert (await client.say("PASS x")).startswith("-ERR [SYS/TEMP] too busy")
            for name in ("ada@pillarbox.test", "nobody", "ada"):  # case 184: the same words
                assert await client.say(f"USER {name}") == "+OK"
                assert await client.say("PASS wrong") == "-ERR [AUTH] authentication failed"
            assert (await client.line()).startswith("-ERR")
            assert await client.ends()

    run(story())


def test_case_057_leaving_in_the_middle_of_auth(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes()).serving() as world:
            for _ in range(50):
                client = await world.client(login=False)
                assert await client.say("AUTH PLAIN") == "+ "
                client.abort()
            while world.gate.inside:
                await asyncio.sleep(0.001)
            assert not world.listener._sessions

    run(story())


def test_who_is_not_admitted_is_told(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes()).serving() as world:
            world.gate.full = True
            client = await world.client(login=False)
            assert client.greeting == "-ERR [SYS/TEMP] too many sessions from your network"
            assert await client.ends()

    run(story())


def test_deadlines(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            user, stranger = await world.client(), await world.client(login=False)
            world.clock.advance(61)
            world.listener.sweep()
            assert await stranger.ends()
            assert await user.say("NOOP") == "+OK"
            world.clock.advance(599)
            world.listener.sweep()
            assert (await user.say("DELE 1")).startswith("+OK")
            world.clock.advance(601)
            world.listener.sweep()
            assert await user.ends()
            assert len(world.mailboxes.messages) == 7

    run(story())


def test_sessions_of_a_disabled_account_end(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client, stranger = await world.client(), await world.client(login=False)
            world.signals.publish("directory")
            assert await client.say("NOOP") == "+OK"
            world.directory.state = "disabled"
            world.signals.publish("directory")
            with pytest.raises((ConnectionError, AssertionError)):
                assert not await client.ends()
            assert (await stranger.say("CAPA")).startswith("+OK")
            stranger.close()

    run(story())


def test_sessions_of_a_disabled_account_end_even_if_nobody_is_told(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client()
            world.directory.state = "disabled"
            world.clock.advance(61)
            world.listener.sweep()
            with contextlib.suppress(ConnectionError):
                assert await client.ends()

    run(story())


def test_trouble_in_the_store(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(MAIL[0], HUGE)).serving() as world:
            client = await world.client()
            world.mailboxes.fail_at_read = 1
            assert (await client.say("RETR 2")).startswith("-ERR [SYS/TEMP]")  # before anything was sent
            assert await client.ask("RETR 1") == MAIL[0]
            world.mailboxes.fail_at_read = world.mailboxes.reads + 3
            assert (await client.say("RETR 2")).startswith("+OK")
            received = b""
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                while True:
                    received = (received + await client.reader.readexactly(1))[-5:]
            assert received != b"\r\n.\r\n"
            world.mailboxes.fails = Trouble("disk")
            other = await world.client(login=False)
            await other.say("USER ada@pillarbox.test")
            assert (await other.say(f"PASS {PASSWORD}")).startswith("-ERR [SYS/TEMP]")
            other.close()

    run(story())


def test_stop_lets_what_is_being_answered_end(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(HUGE)).serving() as world:
            idle, busy = await world.client(login=False), await world.client()
            busy.write("RETR 1")
            assert (await busy.line()).startswith("+OK")
            stopping = asyncio.create_task(world.listener.stop(10))
            assert await idle.ends()
            assert await busy.body() == HUGE
            assert await busy.ends()
            await stopping

    run(story())


def test_a_client_that_says_all_at_once_and_closes_its_side_is_answered(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            client = await world.client(login=False)
            client.write("USER ada@pillarbox.test", f"PASS {PASSWORD}", "RETR 1", "DELE 1", "QUIT")
            client.writer.write_eof()
            said = await client.reader.read()
            assert said.endswith(b"+OK message 1 will be deleted\r\n+OK bye\r\n")
            assert 1 not in world.mailboxes.messages

    run(story())


@pytest.mark.parametrize("size", [1, 800])
def test_utf8_headers_are_for_those_who_say_utf8(run: Run, tmp_path: Path, size: int) -> None:  # RFC 6856 §2.1
    mail = "Subject: Grüße\r\n\r\n".encode() + ("Köln " * 40 + "\r\n").encode() * size

    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(mail)).serving() as world:
            client = await world.client()
            header, _, body = (await client.ask("RETR 1")).partition(b"\r\n\r\n")
            assert header == b"Subject: =?utf-8?b?R3LDvMOfZQ==?=" or header.isascii()
            assert body == mail.partition(b"\r\n\r\n")[2]
            assert (await client.ask("TOP 1 0")).isascii()
            await client.say("QUIT")
            client = await world.client(login=False)
            assert (await client.say("UTF8")).startswith("+OK")
            await client.say("USER ada@pillarbox.test")
            await client.say(f"PASS {PASSWORD}")
            assert await client.ask("RETR 1") == mail
            client.close()

    run(story())


def test_poplib(run: Run, tmp_path: Path) -> None:
    def with_poplib(port: int) -> None:
        client = poplib.POP3("127.0.0.1", port, timeout=10)
        assert "UIDL" in client.capa()
        client.user("ada@pillarbox.test")
        client.pass_(PASSWORD)
        assert client.stat() == (7, sum(map(len, MAIL)))
        assert client.uidl()[1][0] == b"1 0000123400000001"
        for i in range(1, 8):
            assert b"\r\n".join([*client.retr(i)[1], b""]) == MAIL[i - 1]
            assert client.top(i, 0)[1] == [b"Subject: %d" % i, b""]
            client.dele(i)
        client.rset()
        client.dele(7)
        client.quit()

    async def story() -> None:
        async with World(tmp_path, FakeMailboxes(*MAIL)).serving() as world:
            await asyncio.get_running_loop().run_in_executor(None, with_poplib, world.port)
            assert list(world.mailboxes.messages) == [1, 2, 3, 4, 5, 6]

    run(story())
