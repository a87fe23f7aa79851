"""TLS on IMAP connections: STARTTLS, implicit. Source: RFC 3501 §6.2.1, RFC 8314; cases 52, 54."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from structlog.testing import capture_logs

from pillarbox.net.tls import make_self_signed

from .imap_world import World, play


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = make_self_signed(["localhost"], 1_700_000_000.0)
    (folder / "both.pem").write_bytes(certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "both.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


def test_starttls_then_login(tmp_path, contexts):
    server, context = contexts

    async def story(world: World) -> None:
        client = await world.connect()
        assert "STARTTLS" in client.greeting and "LOGINDISABLED" in client.greeting
        assert (await client.command("STARTTLS"))[-1].startswith("t1 OK")
        await client.start_tls(context)
        said = await client.command("CAPABILITY")
        assert "AUTH=PLAIN" in said[0] and "STARTTLS" not in said[0] and "LOGINDISABLED" not in said[0]
        assert (await client.command("STARTTLS"))[-1].startswith("t3 BAD")
        with capture_logs() as logs:
            assert (await client.command("LOGIN ada secret"))[-1].startswith("t4 OK")
        assert (await client.command("SELECT INBOX"))[-1].startswith("t5 OK")
        (session,) = world.gate.sessions
        assert session.tls.startswith("TLSv1.")
        [said] = [entry for entry in logs if entry["event"] == "login"]
        assert (said["protocol"], said["peer"], said["tls"]) == ("imap", "127.0.0.1", session.tls)

    play(tmp_path, story, tls=server, mode="starttls", cleartext=False)


def test_commands_sent_with_the_end_of_the_handshake(tmp_path, contexts):
    """A client need not wait for anything after its part of the handshake."""
    server, context = contexts

    async def story(world: World) -> None:
        def work() -> list[bytes]:
            said = []
            for _ in range(30):
                with socket.create_connection(("127.0.0.1", world.port), timeout=10) as plain:
                    plain.recv(1000)
                    plain.sendall(b"a STARTTLS\r\n")
                    plain.recv(1000)
                    with context.wrap_socket(plain) as secure:
                        secure.sendall(b"b LOGOUT\r\n")
                        said.append(secure.recv(1000))
            return said

        said = await asyncio.get_running_loop().run_in_executor(None, work)
        assert all(line.startswith(b"* BYE") for line in said)

    play(tmp_path, story, tls=server, mode="starttls")


def test_case_052_commands_after_starttls(tmp_path, contexts):
    """What follows STARTTLS in the clear is neither carried out before nor after the handshake."""
    server, _ = contexts

    async def story(world: World) -> None:
        client = await world.connect()
        client.send("a STARTTLS\r\nb LOGIN ada secret\r\nc LOGOUT\r\n")
        said = await client.ended()
        assert said[0].startswith("a BAD") and said[1].startswith("* BYE") and len(said) == 2
        assert world.logins.asked == []

    play(tmp_path, story, tls=server, mode="starttls")


def test_starttls_is_not_there_without_a_certificate(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect()
        assert "STARTTLS" not in client.greeting
        assert (await client.command("STARTTLS"))[-1].startswith("t1 BAD")

    play(tmp_path, story)


def test_a_failed_handshake_ends_the_session(tmp_path, contexts):
    server, _ = contexts

    async def story(world: World) -> None:
        client = await world.connect()
        await client.command("STARTTLS")
        client.send("this is no handshake\r\n" * 50)
        try:
            while await client.reader.read(1000):
                pass
        except ConnectionError:
            pass
        for _ in range(1000):
            if not world.listener.sessions:
                break
            await asyncio.sleep(0.001)
        assert not world.listener.sessions and not world.gate.sessions

    play(tmp_path, story, tls=server, mode="starttls")


def test_implicit_tls(tmp_path, contexts):
    server, context = contexts

    async def story(world: World) -> None:
        await world.file(b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 100_000)
        client = await world.connect("ada", "INBOX", tls=context)
        assert "STARTTLS" not in client.greeting and "AUTH=PLAIN" in client.greeting
        assert len((await client.command("FETCH 1 BODY[]"))[0]) > 1_200_000

    play(tmp_path, story, tls=server, mode="implicit", cleartext=False)
