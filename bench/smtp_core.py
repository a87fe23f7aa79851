"""CPU per message of the SMTP core and its shell: connect, EHLO, MAIL, RCPT, DATA of 4 KB, QUIT, by loopback.

The desk says yes to everything and keeps nothing; `accept` waits for one turn of the loop, as a shared commit would.
The server is a process of its own, whose CPU time (user and system) is divided by the messages. Run:
`python bench/smtp_core.py [messages]`. Prints microseconds per message: core alone, with
the shell, and with sockets; of the first two the best of five.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import socket
import sys
import time
from typing import Any

import structlog
import uvloop

from pillarbox.mail.desk import Session, Transaction
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.outcome import Delivered, Outcome
from pillarbox.model.settings import Listener, Settings
from pillarbox.net.listen import Acceptor, bind_tcp
from pillarbox.net.smtpd import SmtpService
from pillarbox.protocol.smtp.events import Answered, Content, ContentEnd, Data, Hello, Mail, Quit, Rcpt
from pillarbox.protocol.smtp.rules import BYE, GO_AHEAD, MAIL_OK, OK, RCPT_OK, SmtpConfig
from pillarbox.protocol.smtp.server import SmtpServer

LINE = b"The quick brown fox jumps over the lazy dog, again and again, ok.\r\n"
MESSAGE = b"Subject: bench\r\nFrom: <a@x.example>\r\n\r\n" + LINE * 60
STEPS = [
    b"EHLO client.example\r\n",
    b"MAIL FROM:<a@x.example>\r\n",
    b"RCPT TO:<ada@us.example>\r\n",
    b"DATA\r\n",
    MESSAGE + b".\r\n",
    b"QUIT\r\n",
]


class Forgetful:
    """A content writer that keeps what it is given until the end."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, octets: bytes) -> None:
        self.parts.append(octets)

    async def drain(self) -> None: ...

    def abort(self) -> None: ...


class YesDesk:
    """Agrees to everything: Desk, Gate and Logins."""

    def admit(self, session: Session) -> None:
        session.trusted = True

    def leave(self, session: Session) -> None: ...

    async def mail(self, session: Session, envelope: Envelope, size_octets: int) -> Transaction:
        return Transaction(envelope)

    async def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> None:
        transaction.recipients.append(recipient)

    def content(self, session: Session, transaction: Transaction) -> Any:
        return Forgetful()

    async def accept(self, session: Session, transaction: Transaction, content: Any) -> tuple[str, list[Outcome]]:
        await asyncio.sleep(0)
        return "0123456789abcdef0123456789abcdef", [Delivered()]


def core_alone(messages: int) -> float:
    """Microseconds per message for octets in, events out, replies out; no socket."""
    config = SmtpConfig("mail.us.example")
    answers = {Mail: MAIL_OK, Rcpt: RCPT_OK, Data: GO_AHEAD, ContentEnd: OK, Quit: BYE}
    start = time.process_time()
    for _ in range(messages):
        smtp = SmtpServer(config, str)
        smtp.greet()
        for step in STEPS:
            smtp.receive(step)
            while (event := smtp.next_event()) is not None:
                kind = type(event)
                if kind is Content:
                    continue
                smtp.reply(event.reply if kind in (Answered, Hello) else answers[kind])
    return (time.process_time() - start) / messages * 1e6


class NoTransport:
    """Stands for a socket that takes everything."""

    def write(self, octets: bytes) -> None: ...

    def close(self) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 25)}.get(name)


def without_sockets(messages: int) -> float:
    """Microseconds per message for core and shell, called as the loop would."""

    async def run() -> float:
        desk: Any = YesDesk()
        service = SmtpService(desk, desk, desk, Settings(), Listener("smtp", "127.0.0.1"), None, structlog.get_logger())
        start = time.process_time()
        for _ in range(messages):
            connection = service.connection()
            connection.connection_made(NoTransport())  # type: ignore[arg-type]
            for step in STEPS:
                connection.data_received(step)
                if step is STEPS[4]:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            connection.connection_lost(None)
        return (time.process_time() - start) / messages * 1e6

    return uvloop.run(run())


def serve(sock: socket.socket, pipe: Any, native: bool) -> None:
    desk: Any = YesDesk()

    async def run() -> None:
        service = SmtpService(desk, desk, desk, Settings(), Listener("smtp", "127.0.0.1"), None, structlog.get_logger())
        service.start()
        if native:
            await asyncio.get_running_loop().create_server(service.connection, sock=sock)
        else:
            Acceptor(sock, service.connection).start()
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        now = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((now.ru_utime - used.ru_utime, now.ru_stime - used.ru_stime))

    uvloop.run(run())


def client(address: tuple[str, int], messages: int) -> None:
    for _ in range(messages):
        with socket.create_connection(address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.recv(4096)
            for step in STEPS:
                sock.sendall(step)
                sock.recv(4096)


def with_shell(messages: int, native: bool) -> tuple[float, float]:
    """(user, system) microseconds per message of the serving process."""
    sock = bind_tcp("127.0.0.1", 0)
    address = sock.getsockname()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(sock, theirs, native))
    server.start()
    sock.close()
    ours.recv()
    clients = [multiprocessing.Process(target=client, args=(address, messages // 4)) for _ in range(4)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    ours.send("stop")
    user, system = ours.recv()
    server.join()
    return user / messages * 1e6, system / messages * 1e6


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"core alone: {min(core_alone(messages // 4) for _ in range(5)):.0f} µs")
    print(f"core and shell without sockets: {min(without_sockets(messages // 4) for _ in range(5)):.0f} µs")
    for native in (False, True):
        user, system = with_shell(messages, native)
        print(
            f"core and shell, {'loop accepts' if native else 'our acceptor'}: {user:.0f} µs user, {system:.0f} system"
        )


if __name__ == "__main__":
    main()
