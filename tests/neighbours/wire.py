"""Clients for the tests' own use: IMAP, POP3 and SMTP on a raw socket, strict about what comes back.

They are small on purpose: the programs under test are Debian's, these only look what became of a message and make
load. Any answer that is not the expected one raises WireError with the octets received.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import Iterable
from functools import cache
from types import TracebackType
from typing import Self

from .mailhost import MailHost, User

_LITERAL = re.compile(rb"\{(\d+)\}\r\n$")
_UID = re.compile(rb"\bUID (\d+)\b")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")


@cache
def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class WireError(Exception):
    """The server said something else than it should."""


class Wire:
    """A socket that reads lines and counted octets."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 30.0, *, tls: bool = False) -> None:
        self.sock = socket.create_connection((host, port), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = _any_certificate().wrap_socket(self.sock)
        self.file = self.sock.makefile("rb", buffering=65536)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close without a word."""
        self.file.close()
        self.sock.close()

    def send(self, octets: bytes) -> None:
        """Send all octets."""
        self.sock.sendall(octets)

    def line(self) -> bytes:
        """Return the next line with its CRLF; ConnectionError at the end of the stream."""
        line = self.file.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        if not line.endswith(b"\r\n"):
            raise WireError(f"a line without CRLF: {line[-200:]!r}")
        return line

    def exactly(self, count: int) -> bytes:
        """Return `count` octets."""
        octets = self.file.read(count)
        if len(octets) != count:
            raise ConnectionError("the server closed the connection")
        return octets


class SmtpWire(Wire):
    """An SMTP client."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 60.0) -> None:
        super().__init__(port, host, timeout_s)
        self.expect(b"220")
        self.send(b"EHLO client.test\r\n")
        self.expect(b"250")

    def answer(self) -> bytes:
        """Return a whole reply, all its lines."""
        reply = b""
        while True:
            line = self.line()
            reply += line
            if line[3:4] != b"-":
                return reply

    def expect(self, code: bytes) -> bytes:
        """Return a whole reply that begins with `code`."""
        reply = self.answer()
        if not reply.startswith(code):
            raise WireError(f"expected {code!r}, got {reply!r}")
        return reply

    def deliver(self, sender: str, recipients: Iterable[str], message: bytes) -> bytes:
        """Send one message; return the reply to it. Raises WireError when anything is refused."""
        to = list(recipients)
        self.send(
            b"".join(
                [b"MAIL FROM:<%s>\r\n" % sender.encode()]
                + [b"RCPT TO:<%s>\r\n" % address.encode() for address in to]
                + [b"DATA\r\n"]
            )
        )
        replies = [self.answer() for _ in range(len(to) + 2)]
        if not all(reply.startswith(b"2") for reply in replies[:-1]) or not replies[-1].startswith(b"354"):
            raise WireError(f"refused: {replies!r}")
        self.send(dot_stuffed(message) + b".\r\n")
        return self.expect(b"250")


class ImapWire(Wire):
    """An IMAP client: every untagged response is kept until someone asks."""

    def __init__(self, port: int, user: User, timeout_s: float = 60.0, *, tls: bool = False) -> None:
        super().__init__(port, timeout_s=timeout_s, tls=tls)
        self._number = 0
        greeting = self.response()
        if not greeting.startswith(b"* OK"):
            raise WireError(f"greeting {greeting!r}")
        self.command(b'LOGIN "%s" "%s"' % (user.address.encode(), user.password.encode()))

    def response(self) -> bytes:
        """Return one response with its literals, without the last CRLF."""
        line = self.line()
        whole = [line]
        while literal := _LITERAL.search(line):
            whole.append(self.exactly(int(literal[1])))
            line = self.line()
            whole.append(line)
        return b"".join(whole)[:-2]

    def command(self, words: bytes, *literals: bytes) -> list[bytes]:
        """Run a command, with `literals` where `words` has "{}"; return the untagged responses before its OK."""
        self._number += 1
        tag = b"t%d" % self._number
        untagged: list[bytes] = []
        pieces = words.split(b"{}")
        text = tag + b" " + pieces[0]
        for literal, after in zip(literals, pieces[1:], strict=True):
            self.send(text + b"{%d}\r\n" % len(literal))
            while not (said := self.response()).startswith(b"+"):
                if said.startswith(tag):
                    raise WireError(f"{words[:80]!r} → {said!r}")
                untagged.append(said)
            text = literal + after
        self.send(text + b"\r\n")
        while not (said := self.response()).startswith(tag + b" "):
            untagged.append(said)
        if not said.startswith(tag + b" OK"):
            raise WireError(f"{words[:80]!r} → {said!r}")
        return [*untagged, said]

    def select(self, mailbox: str = "INBOX") -> list[bytes]:
        """Select a mailbox."""
        return self.command(b'SELECT "%s"' % mailbox.encode())

    def append(self, mailbox: str, message: bytes, flags: bytes = b"") -> list[bytes]:
        """Append one message."""
        return self.command(b'APPEND "%s" (%s) {}' % (mailbox.encode(), flags), message)

    def fetch(self, what: bytes, of: bytes = b"1:*") -> dict[int, bytes]:
        """UID FETCH; return the response of each UID, its literals included."""
        found: dict[int, bytes] = {}
        for said in self.command(b"UID FETCH %s (UID %s)" % (of, what))[:-1]:
            if b" FETCH (" in said[:40] and (uid := _UID.search(said)):
                found[int(uid[1])] = said
        return found

    def flags(self) -> dict[int, set[bytes]]:
        """Return the flags of each UID, \\Recent left out."""
        found = {}
        for uid, said in self.fetch(b"FLAGS").items():
            flags = _FLAGS.search(said)
            found[uid] = set(flags[1].split()) - {b"\\Recent"} if flags else set()
        return found

    def messages(self, mailbox: str = "INBOX") -> dict[int, bytes]:
        """Return the octets of each message by UID."""
        self.select(mailbox)
        if not self.flags():
            return {}
        found = {}
        for uid, said in self.fetch(b"BODY.PEEK[]").items():
            head, _, rest = said.partition(b"BODY[] {")
            if not head or not rest:
                raise WireError(f"no body in {said[:200]!r}")
            size, _, octets = rest.partition(b"}\r\n")
            found[uid] = octets[: int(size)]
        return found

    def logout(self) -> None:
        """Leave in good order."""
        self.command(b"LOGOUT")
        self.close()


class PopWire(Wire):
    """A POP3 client."""

    def __init__(self, port: int, user: User, timeout_s: float = 60.0, *, tls: bool = False) -> None:
        super().__init__(port, timeout_s=timeout_s, tls=tls)
        self.ok()
        self.say(f"USER {user.address}")
        self.say(f"PASS {user.password}")

    def ok(self) -> bytes:
        """Return the next line, which must be a yes."""
        line = self.line()
        if not line.startswith(b"+OK"):
            raise WireError(f"expected +OK, got {line!r}")
        return line

    def say(self, command: str) -> bytes:
        """Send one command; return its first line, which must be a yes."""
        self.send(command.encode() + b"\r\n")
        return self.ok()

    def lines(self) -> list[bytes]:
        """Return the lines of a multi-line answer, dot-stuffing undone, each with its CRLF."""
        found = []
        while (line := self.line()) != b".\r\n":
            found.append(line[1:] if line.startswith(b".") else line)
        return found

    def listing(self, command: str = "UIDL") -> dict[int, str]:
        """Return message numbers and what UIDL or LIST says of each."""
        self.say(command)
        pairs = [line.split() for line in self.lines()]
        return {int(number): what.decode() for number, what in pairs}

    def retrieve(self, number: int) -> bytes:
        """Return a whole message."""
        self.say(f"RETR {number}")
        return b"".join(self.lines())

    def quit(self) -> None:
        """Leave, and have the deletions done."""
        self.say("QUIT")
        self.close()


def dot_stuffed(message: bytes) -> bytes:
    """Double the dots at line starts (RFC 5321 §4.5.2)."""
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def plain(user: User) -> bytes:
    """Return the PLAIN response of a user, in base64 (RFC 4616)."""
    return base64.b64encode(f"\0{user.address}\0{user.password}".encode())


def deliver(mailhost: MailHost, to: str, message: bytes, sender: str = "outside@sender.test") -> None:
    """Give one message to the MX port."""
    with SmtpWire(mailhost.smtp) as smtp:
        smtp.deliver(sender, [to], message)
        smtp.send(b"QUIT\r\n")


def read_mailbox(mailhost: MailHost, user: User, mailbox: str = "INBOX") -> dict[int, bytes]:
    """Return all messages of a mailbox, by UID."""
    with ImapWire(mailhost.imap, user) as imap:
        return imap.messages(mailbox)
