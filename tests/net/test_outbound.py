"""Sending over loopback: to our own servers, and to peers that follow a script. Cases 18, 19, 117–119, 121."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from pillarbox.mail.desk import Hop
from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import DamagedMessage, Trouble
from pillarbox.model.outcome import Deferred, Delivered, Failed
from pillarbox.model.settings import Outbound, Settings
from pillarbox.model.status import Status
from pillarbox.net import outbound
from pillarbox.net.outbound import OutboundWire

from .smtp_world import MemoryDesk, listening, server_tls

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
ADA = Address("ada", "us.example")


def run(work: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    if loop == "uvloop":
        uvloop.run(work)
    else:
        asyncio.run(work)


@dataclass
class Text:
    """A parcel in memory."""

    octets: bytes = b"Subject: x\r\n\r\n.hello\r\n"
    recipients: tuple[str, ...] = ("ada",)
    has_eight_bit: bool = False
    needs_smtputf8: bool = False
    seven: bytes | None = None
    error: Exception | None = None

    @property
    def envelope(self) -> Envelope:
        recipients = tuple(Recipient(Address(name, "us.example")) for name in self.recipients)
        return Envelope(Address("sender", "x.example"), recipients)

    @property
    def size_octets(self) -> int:
        return len(self.octets)

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.octets), 100_000):
            if self.error is not None and start:
                raise self.error
            yield self.octets[start : start + 100_000]

    async def seven_bit(self) -> bytes | None:
        return self.seven


def a_wire(**options: Any) -> OutboundWire:
    return OutboundWire(Settings(hostname="us.example", outbound=Outbound(**options)), structlog.get_logger())


def a_hop(port: int, **options: Any) -> Hop:
    return Hop("localhost", "127.0.0.1", port, **options)


async def scripted(*script: tuple[bytes, bytes | None], ends: bool = False) -> tuple[asyncio.Server, int, list[bytes]]:
    """A peer that sends the answer after each line that begins so; None closes. One script for each connection."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for wanted, answer in script:
            while wanted and not (line := await reader.readline()).startswith(wanted):
                heard.append(line)
                if not line:
                    return
            if answer is None:
                writer.transport.abort()
                return
            writer.write(answer)
        if ends:
            await writer.drain()
            writer.transport.abort()
            return
        while line := await reader.readline():
            heard.append(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], heard


@LOOPS
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_a_message_arrives_and_the_connection_is_used_again(loop: str, protocol: str) -> None:
    async def work() -> None:
        desk = MemoryDesk(turns=1)
        wire = a_wire()
        async with listening(desk, protocol) as (_, port):
            hop = a_hop(port, protocol=protocol)
            parcel = Text(recipients=("ada", "nobody", "full"))
            for _ in range(3):
                done = await wire.send(hop, parcel)
                assert isinstance(done[0], Delivered)
                assert done[1] == Failed(Status(5, 1, 1), "550 5.1.1 no such user here", "localhost [127.0.0.1]")
                assert isinstance(done[2], Delivered if protocol == "smtp" else Deferred)
            assert len(desk.sessions) == 1
            await wire.close()
            while desk.inside:
                await asyncio.sleep(0.001)
        assert [text for _, _, text in desk.messages] == [parcel.octets] * 3

    run(work(), loop)


def test_a_large_message_is_sent_in_bounded_pieces() -> None:
    async def work() -> None:
        desk = MemoryDesk()
        wire = a_wire()
        text = b"".join(b"%06d.\r\n.x\r\n" % i for i in range(300_000))
        async with listening(desk) as (_, port):
            assert isinstance((await wire.send(a_hop(port), Text(text)))[0], Delivered)
            await wire.close()
        assert desk.messages[0][2] == text

    run(work())


@LOOPS
def test_opportunistic_tls_takes_any_certificate(loop: str, tmp_path: Path) -> None:
    """RFC 7435; case 117."""

    async def work() -> None:
        desk = MemoryDesk()
        wire = a_wire()
        async with listening(desk, tls=server_tls(tmp_path)) as (_, port):
            assert isinstance((await wire.send(a_hop(port), Text()))[0], Delivered)
            assert desk.sessions[0].tls
            refused = await wire.send(a_hop(port, tls="verify"), Text())
            assert refused == [Deferred(Status(4, 7, 5), "localhost [127.0.0.1]: TLS handshake failed")]
            await wire.close()

    run(work(), loop)


def test_a_verified_certificate_and_a_login(tmp_path: Path) -> None:
    async def work() -> None:
        desk = MemoryDesk()
        context = server_tls(tmp_path)
        pem = ssl.DER_cert_to_PEM_cert(_certificate_of(context))
        (tmp_path / "ca.pem").write_text(pem)
        wire = OutboundWire(Settings(), structlog.get_logger(), ca_file=tmp_path / "ca.pem")
        for mode, tls in (("starttls", "verify"), ("implicit", "implicit")):
            async with listening(desk, "submission", context, mode) as (_, port):
                hop = a_hop(port, tls=tls, username="ada@us.example", password="s3cret")
                assert isinstance((await wire.send(hop, Text()))[0], Delivered)
                wrong = a_hop(port, tls=tls, username="ada@us.example", password="wrong")
                outcome = (await wire.send(wrong, Text()))[0]
                assert isinstance(outcome, Deferred)
                assert outcome.status == Status(4, 7, 8)
                await wire.close()

    run(work())


def _certificate_of(context: ssl.SSLContext) -> bytes:
    """The certificate that this server context shows, by a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = ours.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_a_broken_handshake_is_followed_by_clear_text() -> None:
    async def work() -> None:
        sessions = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sessions
            sessions += 1
            writer.write(b"220 peer\r\n")
            while line := await reader.readline():
                if line.startswith(b"EHLO"):
                    writer.write(b"250-peer\r\n250 STARTTLS\r\n")
                elif line.startswith(b"STARTTLS"):
                    writer.write(b"220 go\r\n" if sessions == 1 else b"454 no\r\n")
                    if sessions == 1:
                        await reader.read(10)
                        writer.write(b"this is no TLS at all, is it?\r\n")
                        writer.close()
                        return
                elif line.startswith(b"DATA"):
                    writer.write(b"354 go\r\n")
                elif line == b".\r\n" or not line.startswith((b"Subject", b"\r\n", b"..hello")):
                    writer.write(b"250 ok\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        wire = a_wire()
        hop = a_hop(server.sockets[0].getsockname()[1])
        assert isinstance((await wire.send(hop, Text()))[0], Delivered)
        assert sessions == 2
        await wire.close()
        server.close()

    run(work())


def test_nobody_listens() -> None:
    async def work() -> None:
        server, port, _ = await scripted()
        server.close()
        await server.wait_closed()
        (outcome,) = await a_wire().send(a_hop(port), Text())
        assert outcome == Deferred(Status(4, 4, 1), "localhost [127.0.0.1]: connection refused")

    run(work())


@pytest.mark.parametrize(
    "greeting",
    [b"421 4.3.2 busy\r\n", b"421 4.7.0 not so fast\r\n", b"450 later\r\n", b"554 go away\r\n", b"nonsense\r\n"],
)
def test_another_host_may_be_tried_after_a_bad_greeting(greeting: bytes) -> None:
    async def work() -> None:
        server, port, _ = await scripted((b"", greeting))
        (outcome,) = await a_wire().send(a_hop(port), Text())
        assert isinstance(outcome, Deferred)
        assert outcome.status == Status(4, 4, 1)
        server.close()

    run(work())


SESSION = (
    (b"", b"220 peer\r\n"),
    (b"EHLO", b"250-peer\r\n250 PIPELINING\r\n"),
    (b"MAIL", b"250 ok\r\n"),
    (b"RCPT", b"250 ok\r\n"),
    (b"DATA", b"354 go\r\n"),
)


def test_case_018_a_peer_that_drops_after_the_final_dot() -> None:
    async def work() -> None:
        server, port, _ = await scripted(*SESSION, (b".\r\n", None))
        (outcome,) = await a_wire().send(a_hop(port), Text())
        assert isinstance(outcome, Deferred)
        assert outcome.unknown
        server.close()

    run(work())


def test_case_019_a_peer_that_answers_and_resets() -> None:
    async def work() -> None:
        server, port, _ = await scripted(*SESSION, (b".\r\n", b"250 2.0.0 taken\r\n"), ends=True)
        wire = a_wire()
        (outcome,) = await wire.send(a_hop(port), Text())
        assert outcome == Delivered(Status(2, 0, 0), "localhost [127.0.0.1]", "250 2.0.0 taken")
        await wire.close()
        server.close()

    run(work())


def test_a_connection_closed_while_idle_is_replaced() -> None:
    async def work() -> None:
        server, port, _ = await scripted(*SESSION, (b".\r\n", b"250 ok\r\n"), (b"MAIL", None))
        wire = a_wire()
        for _ in range(3):
            assert isinstance((await wire.send(a_hop(port), Text()))[0], Delivered)
        await wire.close()
        server.close()

    run(work())


def test_case_119_a_silent_or_trickling_peer_meets_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr("pillarbox.protocol.smtp.client.SmtpClient.patience_s", 0.05)

        async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(b"2")
                    await asyncio.sleep(0.01)
            except ConnectionError:
                return

        server = await asyncio.start_server(trickle, "127.0.0.1", 0)
        (outcome,) = await a_wire().send(a_hop(server.sockets[0].getsockname()[1]), Text())
        assert outcome == Deferred(Status(4, 4, 1), "localhost [127.0.0.1]: timeout waiting for an answer")
        server.close()

    run(work())


def test_a_peer_that_refuses_in_the_middle_of_a_message() -> None:
    """The answer comes while we write; what is left is not sent."""

    async def work() -> None:
        server, port, _ = await scripted(*SESSION, (b"", b"421 4.3.0 disk on fire\r\n"))
        (outcome,) = await a_wire().send(a_hop(port), Text(b"x\r\n" * 1_000_000))
        assert isinstance(outcome, Deferred)
        assert outcome.text == "421 4.3.0 disk on fire"
        server.close()

    run(work())


@pytest.mark.parametrize("error", [Trouble("disk"), DamagedMessage("hash"), ZeroDivisionError()])
def test_a_message_that_cannot_be_read_is_not_half_sent(error: Exception) -> None:
    async def work() -> None:
        desk = MemoryDesk()
        async with listening(desk) as (service, port):
            (outcome,) = await a_wire().send(a_hop(port), Text(b"x" * 998 + b"\r\n" * 200_000, error=error))
            assert isinstance(outcome, Deferred)
            assert outcome.status == Status(4, 3, 0)
            while service.sessions:
                await asyncio.sleep(0.001)
        assert desk.messages == []

    run(work())


def test_a_peer_without_8bitmime_gets_seven_bits() -> None:
    """RFC 6152 §3."""

    async def work() -> None:
        server, port, heard = await scripted(*SESSION, (b".\r\n", b"250 ok\r\n"))
        wire = a_wire()
        eight = Text("Subject: x\r\n\r\nä\r\n".encode(), has_eight_bit=True)
        (outcome,) = await wire.send(a_hop(port), eight)
        assert isinstance(outcome, Failed)
        assert outcome.status == Status(5, 6, 3)
        await wire.close()
        eight.seven = b"Subject: x\r\n\r\n=C3=A4\r\n"
        assert isinstance((await wire.send(a_hop(port), eight))[0], Delivered)
        assert b"=C3=A4\r\n" in heard
        await wire.close()
        server.close()

    run(work())


def test_connections_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr(outbound, "IDLE_S", 0.01)
        desk = MemoryDesk()
        wire = a_wire()
        async with listening(desk) as (_, port):
            await wire.send(a_hop(port), Text())
            while desk.inside:
                await asyncio.sleep(0.001)
            monkeypatch.setattr(outbound, "IDLE_S", 10.0)
            monkeypatch.setattr(outbound, "MESSAGES_PER_CONNECTION", 2)
            for _ in range(3):
                await wire.send(a_hop(port), Text())
            assert len(desk.sessions) == 3
            await wire.close()

    run(work())


def test_mail_leaves_from_the_chosen_address() -> None:
    async def work() -> None:
        desk = MemoryDesk()
        wire = a_wire(source_address="127.0.0.9")
        async with listening(desk) as (_, port):
            await wire.send(a_hop(port), Text())
            await wire.close()
        assert desk.sessions[0].peer == "127.0.0.9"

    run(work())
