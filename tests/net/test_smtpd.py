"""The SMTP, submission and LMTP shell over loopback sockets. Cases 2, 10, 15, 16, 51, 53, 60, 69, 84, 85."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from pillarbox.metrics import SharedNumbers
from pillarbox.model.address import Address
from pillarbox.model.settings import Limits
from pillarbox.protocol.sasl import ScramClient

from .smtp_world import FULL, MemoryDesk, PlainClient, listening, server_tls

START = b"EHLO client.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<ada@us.example>\r\n"
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def run(work: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    if loop == "uvloop":
        uvloop.run(work)
    else:
        asyncio.run(work)


@LOOPS
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_message_step_by_step_and_all_at_once(loop: str, turns: int) -> None:
    async def work() -> None:
        desk = MemoryDesk(turns)
        async with listening(desk) as (_, port):
            client = await PlainClient.connect(port, greet=False)
            assert await client.reply() == "220 mail.us.example ESMTP pillarbox\r\n"
            assert "250-PIPELINING\r\n" in await client.say(b"EHLO client.example\r\n")
            assert await client.say(b"MAIL FROM:<a@x.example>\r\n") == "250 2.1.0 sender OK\r\n"
            assert await client.say(b"RCPT TO:<ada@us.example>\r\n") == "250 2.1.5 recipient OK\r\n"
            assert (await client.say(b"RCPT TO:<nobody@us.example>\r\n")).startswith("550 5.1.1")
            assert (await client.say(b"RCPT TO:<x@elsewhere.example>\r\n")) == "550 5.7.1 relay denied\r\n"
            assert (await client.say(b"DATA\r\n")).startswith("354")
            assert await client.say(b"Subject: x\r\n\r\n..\r\n.\r\n") == "250 2.0.0 queued as feedfacefeedface\r\n"
            client.writer.write(START + b"DATA\r\nsecond\r\n.\r\nQUIT\r\n")
            codes = [line[:3] for line in (await client.rest()).split(b"\r\n") if line[3:4] == b" "]
            assert codes == [b"250", b"250", b"250", b"354", b"250", b"221"]
        assert [text for _, _, text in desk.messages] == [b"Subject: x\r\n\r\n.\r\n", b"second\r\n"]
        assert [str(r.address) for r in desk.messages[0][1]] == ["ada@us.example"]
        assert desk.inside == 0

    run(work(), loop)


def test_pipelined_commands_are_answered_in_one_write() -> None:
    """RFC 2920 §3.2."""

    async def work() -> None:
        async with listening(MemoryDesk(turns=2)) as (_, port):
            client = await PlainClient.connect(port)
            client.writer.write(START + b"RCPT TO:<bob@us.example>\r\nRSET\r\nNOOP\r\n")
            octets = await client.reader.read(65536)
            assert octets.endswith(b"250 2.0.0 OK\r\n250 2.0.0 OK\r\n")
            client.close()

    run(work())


def test_large_content_goes_to_the_writer_as_it_comes() -> None:
    async def work() -> None:
        desk = MemoryDesk()
        async with listening(desk) as (_, port):
            client = await PlainClient.connect(port)
            client.writer.write(START + b"DATA\r\n" + b"x" * 70 + b"\r\n")
            for _ in range(50):
                client.writer.write((b"y" * 998 + b"\r\n") * 100)
                await client.writer.drain()
            client.writer.write(b".\r\nQUIT\r\n")
            assert b"250 2.0.0 queued" in await client.rest()
        assert len(desk.messages[0][2]) == 72 + 50 * 100_000

    run(work())


def test_lmtp_answers_for_each_recipient() -> None:
    """RFC 2033 §4.2."""

    async def work() -> None:
        async with listening(MemoryDesk(), "lmtp") as (_, port):
            client = await PlainClient.connect(port)
            await client.say(b"LHLO x\r\n")
            await client.say(b"MAIL FROM:<a@x.example>\r\n")
            await client.say(b"RCPT TO:<ada@us.example>\r\n")
            await client.say(b"RCPT TO:<full@us.example>\r\n")
            await client.say(b"DATA\r\n")
            assert await client.say(b"x\r\n.\r\n") == "250 2.1.5 <ada@us.example> queued as feedfacefeedface\r\n"
            assert await client.reply() == "452 4.2.2 <full@us.example> mailbox full\r\n"
            client.close()

    run(work())


@LOOPS
def test_starttls_and_logins(loop: str, tmp_path: Path) -> None:
    async def work() -> None:
        desk = MemoryDesk(turns=1)
        async with listening(desk, "submission", server_tls(tmp_path)) as (_, port):
            client = await PlainClient.connect(port)
            assert "AUTH" not in (hello := await client.say(b"EHLO x\r\n"))
            assert "STARTTLS" in hello
            await client.start_tls()
            assert (await client.say(b"MAIL FROM:<ada@us.example>\r\n")).startswith("503 5.5.1")  # case 53
            assert "AUTH SCRAM-SHA-256 PLAIN LOGIN" in (hello := await client.say(b"EHLO x\r\n"))
            assert "STARTTLS" not in hello
            wrong = base64.b64encode(b"\0ada@us.example\0wrong")
            assert (await client.say(b"AUTH PLAIN " + wrong + b"\r\n")).startswith("535 5.7.8")
            other = base64.b64encode(b"bob@us.example\0ada@us.example\0s3cret")
            assert (await client.say(b"AUTH PLAIN " + other + b"\r\n")).startswith("535 5.7.8")
            scram = ScramClient("ada@us.example", "s3cret", "abc")
            reply = await client.say(b"AUTH SCRAM-SHA-256 " + base64.b64encode(scram.begin() or b"") + b"\r\n")
            while reply.startswith("334"):
                answer = scram.receive(base64.b64decode(reply[4:]))
                reply = await client.say(base64.b64encode(answer) + b"\r\n")
            assert reply.startswith("235")
            assert scram.is_satisfied()
            client.writer.write(b"MAIL FROM:<ada@us.example>\r\nRCPT TO:<ada@us.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
            assert b"queued as" in await client.rest()
        session = desk.sessions[0]
        assert session.tls.startswith("TLSv1.3")
        assert session.account is not None
        assert session.auth_failures == 2
        assert desk.messages[0][0].reverse_path == Address("ada", "us.example")

    run(work(), loop)


def test_implicit_tls(tmp_path: Path) -> None:
    async def work() -> None:
        desk = MemoryDesk()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with listening(desk, "submission", server_tls(tmp_path), "implicit") as (_, port):
            client = await PlainClient.connect(port, ssl=context)
            assert "AUTH" in await client.say(b"EHLO x\r\n")
            login = base64.b64encode(b"\0ada@us.example\0s3cret")
            assert (await client.say(b"AUTH PLAIN " + login + b"\r\n")).startswith("235")
            client.close()
        assert desk.sessions[0].tls

    run(work())


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100_000, b"421 4.7.0"),  # case 60
        (b"EHLO x\r\nDATA\r\nMAIL FROM:<a@x.example>\r\n", b"503 5.5.0"),  # case 59
        (b"x" * 500_000, b"500 5.5.2"),  # case 61
        (b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<a@x.example>\r\n", b"501 5.5.1"),  # case 51
    ],
)
def test_last_words_arrive_before_the_connection_is_closed(octets: bytes, code: bytes, tmp_path: Path) -> None:
    async def work() -> None:
        desk = MemoryDesk()
        async with listening(desk, tls=server_tls(tmp_path)) as (_, port):
            client = await PlainClient.connect(port)
            client.writer.write(octets)
            said = (await client.rest()).split(b"\r\n")
            assert said[-2].startswith(code)
            assert said[-1] == b""
            client.close()

    run(work())


def test_what_goes_wrong_on_our_side_is_temporary_and_tells_nothing() -> None:
    """Case 10, and errors that nobody foresaw."""

    async def work() -> None:
        desk = MemoryDesk(accept_error=FULL)
        async with listening(desk) as (_, port):
            client = await PlainClient.connect(port)
            await client.say(b"EHLO x\r\n")
            await client.say(b"MAIL FROM:<a@x.example>\r\n")
            assert await client.say(b"RCPT TO:<surprise@us.example>\r\n") == (
                "451 4.3.0 trouble on our side, try again later\r\n"
            )
            await client.say(b"RCPT TO:<ada@us.example>\r\n")
            await client.say(b"DATA\r\n")
            assert (await client.say(b"x\r\n.\r\n")).startswith("452 4.3.1")
            assert desk.writers[-1].is_aborted
            desk.accept_error = None
            await client.say(b"MAIL FROM:<a@x.example>\r\n")
            await client.say(b"RCPT TO:<ada@us.example>\r\n")
            await client.say(b"DATA\r\n")
            assert (await client.say(b"x\r\n.\r\n")).startswith("250")
            client.close()

    run(work())


@pytest.mark.parametrize(
    ("content", "status", "rule"),
    [
        (b"a\nb\r\n", "5.5.2", "bare-newline"),
        (b"a\rb\r\n", "5.5.2", "bare-newline"),
        (b"a\0b\n\r\n", "5.6.0", "nul"),
        (b"x" * 1001 + b"\r\n", "5.6.0", "content-line"),
        (b"0123456789\r\n" * 6000, "5.3.4", "message-size"),
    ],
)
def test_content_that_is_refused_for_its_octets_is_logged_and_counted(content: bytes, status: str, rule: str) -> None:
    async def work() -> None:
        desk = MemoryDesk()
        limits = Limits(greeting_wait_s=0.0, message_octets=65_536, content_line_octets=1000)
        async with listening(desk, limits=limits) as (service, port):
            numbers = SharedNumbers(1)
            service.metrics = numbers.part(0)
            client = await PlainClient.connect(port)
            client.writer.write(START)
            for _ in range(3):
                await client.reply()
            await client.say(b"DATA\r\n")
            with capture_logs() as logs:
                assert status in await client.say(content + b".\r\n")
            client.close()
        [said] = logs
        assert (said["event"], said["stage"], said["status"], said["rule"]) == ("refused", "content", status, rule)
        assert numbers.totals()[f"c smtp_refused|stage=content|status={status}"] == 1

    run(work())


def test_a_login_is_logged() -> None:
    async def work() -> None:
        async with listening(MemoryDesk(), "submission", cleartext=True) as (_, port):
            client = await PlainClient.connect(port)
            await client.say(b"EHLO x\r\n")
            with capture_logs() as logs:
                assert (await client.say(b"AUTH PLAIN AGFkYUB1cy5leGFtcGxlAHMzY3JldA==\r\n")).startswith("235")
            client.close()
        [said] = logs
        assert (said["event"], said["protocol"], said["account"]) == ("login", "submission", "a" * 26)
        assert (said["peer"], said["tls"]) == ("127.0.0.1", "none")

    run(work())


def test_a_refused_connection_gets_a_421() -> None:
    async def work() -> None:
        desk = MemoryDesk(admits=False)
        async with listening(desk) as (_, port):
            client = await PlainClient.connect(port, greet=False)
            assert await client.rest() == b"421 4.7.0 too many sessions from your address\r\n"
        assert desk.inside == 0

    run(work())


def test_case_002_a_client_that_leaves_during_accept_does_not_stop_it() -> None:
    async def work() -> None:
        desk = MemoryDesk(hold=asyncio.Event())
        async with listening(desk) as (service, port):
            client = await PlainClient.connect(port)
            client.writer.write(START + b"DATA\r\nx\r\n.\r\n")
            await asyncio.wait_for(desk.accepting.wait(), 5)
            client.writer.transport.abort()
            assert desk.hold is not None
            desk.hold.set()
            while not desk.messages or service.sessions:
                await asyncio.sleep(0.001)
        assert desk.messages[0][2] == b"x\r\n"
        assert not desk.writers[0].is_aborted

    run(work())


def test_a_client_that_leaves_in_mid_message_leaves_nothing() -> None:
    async def work() -> None:
        desk = MemoryDesk()
        async with listening(desk) as (service, port):
            client = await PlainClient.connect(port)
            client.writer.write(START + b"DATA\r\nhalf a mess")
            while not (desk.writers and desk.writers[0].octets):
                await asyncio.sleep(0.001)
            client.writer.transport.abort()
            while service.sessions:
                await asyncio.sleep(0.001)
        assert desk.writers[0].is_aborted
        assert (desk.messages, desk.inside) == ([], 0)

    run(work())


def test_case_016_stopping_lets_a_message_finish_and_sends_idle_clients_away() -> None:
    async def work() -> None:
        desk = MemoryDesk()
        async with listening(desk) as (service, port):
            idle = await PlainClient.connect(port)
            busy = await PlainClient.connect(port)
            busy.writer.write(START + b"DATA\r\nhalf")
            while not (desk.writers and desk.writers[0].octets):
                await asyncio.sleep(0.001)
            stopping = asyncio.create_task(service.stop(5))
            assert (await idle.rest()).startswith(b"421 4.3.2")
            busy.writer.write(b" and half\r\n.\r\n")
            octets = await busy.rest()
            assert b"250 2.0.0 queued" in octets
            assert octets.splitlines()[-1].startswith(b"421 4.3.2")
            idle.close()
            busy.close()
            await stopping
        assert len(desk.messages) == 1

    run(work())


class SweepAt:
    """Runs the sweep's checks at times of our choosing: seconds from now."""

    def __init__(self, service: Any) -> None:
        self.service = service

    def __call__(self, after_s: float) -> None:
        now_s = asyncio.get_running_loop().time() + after_s
        for session in list(self.service.sessions):
            session.check(now_s)


def test_silent_clients_are_cut_off() -> None:
    async def work() -> None:
        async with listening(MemoryDesk()) as (service, port):
            sweep_at = SweepAt(service)
            silent = await PlainClient.connect(port)
            known = await PlainClient.connect(port)
            await known.say(b"EHLO x\r\n")
            sweep_at(61)
            assert (await silent.rest()).startswith(b"421 4.4.2")
            assert (await known.say(b"NOOP\r\n")).startswith("250")
            sweep_at(301)
            assert (await known.rest()).startswith(b"421 4.4.2")
            silent.close()
            known.close()

    run(work())


def test_case_084_a_message_that_only_trickles_is_cut_off() -> None:
    async def work() -> None:
        desk = MemoryDesk()
        async with listening(desk) as (service, port):
            client = await PlainClient.connect(port)
            client.writer.write(START + b"DATA\r\n" + b"x" * 4000)
            while not (desk.writers and desk.writers[0].octets):
                await asyncio.sleep(0.001)
            SweepAt(service)(7)
            SweepAt(service)(20)
            assert (await client.rest()).splitlines()[-1].startswith(b"421 4.4.2")
            client.close()
        assert desk.writers[0].is_aborted

    run(work())


def test_case_085_a_client_that_never_reads_is_bounded_and_cut_off() -> None:
    async def work() -> None:
        limits = Limits(junk_commands=10**9, errors_slow=10**9, errors_close=10**9)
        async with listening(MemoryDesk(), limits=limits) as (service, port):
            client = await PlainClient.connect(port)
            transport = client.writer.transport
            transport.pause_reading()
            for _ in range(2000):
                client.writer.write(b"HELP\r\n" * 1000)
                try:
                    await asyncio.wait_for(client.writer.drain(), 0.05)
                except TimeoutError:
                    break
            else:
                raise AssertionError("the server swallows everything")
            (session,) = service.sessions
            assert session._transport is not None
            assert session._transport.get_write_buffer_size() <= 2 * 65536
            assert session._smtp.buffered <= 512 * 1024
            SweepAt(service)(61)
            while service.sessions:
                await asyncio.sleep(0.001)
            client.close()

    run(work())


def test_case_069_harvesting_is_slowed_and_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        slept: list[float] = []
        sleep = asyncio.sleep

        async def count_sleep(seconds: float) -> None:
            if seconds >= 1:
                slept.append(seconds)
            await sleep(0)

        monkeypatch.setattr("pillarbox.net.smtp_connection.asyncio.sleep", count_sleep)
        async with listening(MemoryDesk()) as (_, port):
            client = await PlainClient.connect(port)
            client.writer.write(b"EHLO x\r\nMAIL FROM:<a@x.example>\r\n" + b"RCPT TO:<nobody@us.example>\r\n" * 50)
            lines = (await client.rest()).splitlines()
            assert [line[:9] for line in lines[-3:]] == [b"550 5.1.1", b"550 5.1.1", b"421 4.7.0"]
            assert sum(line.startswith(b"550") for line in lines) == 19
            assert slept == [1.0] * 10
            client.close()

    run(work())


@LOOPS
def test_case_058_who_speaks_before_the_greeting_and_who_waits_for_it(loop: str) -> None:
    async def work() -> None:
        async with listening(MemoryDesk(), limits=Limits(greeting_wait_s=0.3)) as (_, port):
            hasty = await PlainClient.connect(port, greet=False)
            hasty.writer.write(START)
            assert (await hasty.reply()).startswith("554 5.5.0")
            assert await hasty.reader.read() == b""
            patient = await PlainClient.connect(port, greet=False)
            assert (await patient.reply()).startswith("220")
            for line in (b"EHLO x.example", b"MAIL FROM:<a@x.example>", b"RCPT TO:<ada@us.example>", b"DATA"):
                await patient.say(line + b"\r\n")
            assert (await patient.say(b"Subject: a\r\n\r\nb\r\n.\r\n")).startswith("250")
            known = await PlainClient.connect(port, greet=False)
            known.writer.write(b"NOOP\r\n")  # after the greeting has been written: known addresses do not wait
            assert (await known.reply()).startswith("220")

    run(work(), loop)
