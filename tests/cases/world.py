"""A real server, and raw sockets to it. Each connection comes from a network of its own, as no network is trusted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from neighbours.processes import free_ports
from pillarbox.app import Pillarbox
from pillarbox.cli.main import main

DOMAIN = "us.example"
PASSWORD = "correct horse"
SENDER = "MAIL FROM:<carl@[192.0.2.1]>"
"""A sender whose domain needs no DNS."""
_PORTS = {
    "mx": ("smtp", "starttls", False),
    "lmtp": ("lmtp", "none", False),
    "submission": ("submission", "starttls", True),
    "submission-tls": ("submission", "starttls", False),
    "imap": ("imap", "starttls", True),
    "imap-tls": ("imap", "starttls", False),
    "imaps": ("imap", "implicit", False),
    "pop3": ("pop3", "starttls", True),
    "pop3-tls": ("pop3", "starttls", False),
}
_START_S = 60.0
_networks = count(1)
_crowd = count(0)


def fresh_source() -> str:
    """A loopback address in a /21 that no connection came from yet."""
    number = next(_networks)
    number %= 190 * 32  # by then nobody remembers the first ones
    return f"127.{10 + number // 32}.{number % 32 * 8}.1"


def many_sources(count: int) -> list[str]:
    """Addresses that no connection came from yet, few in any network: each is far below every limit."""
    numbers = [next(_crowd) for _ in range(count)]
    assert numbers[-1] < 55 * 512
    return [f"127.{200 + n // 512}.{n // 16 % 32 * 8}.{1 + n % 16}" for n in numbers]


class Line:
    """A connection: octets as they are, replies as lines."""

    def __init__(self, port: int, source: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30, (source or fresh_source(), 0))
        self._read = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, octets: bytes | str) -> None:
        self.socket.sendall(octets if isinstance(octets, bytes) else octets.encode())

    def line(self) -> str:
        """The next line without its end; "" when the connection has ended."""
        while b"\n" not in self._read:
            try:
                octets = self.socket.recv(65536)
            except ConnectionError:
                octets = b""
            if not octets:
                return ""
            self._read += octets
        line, _, self._read = self._read.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def reply(self) -> str:
        """An SMTP reply; of several lines the last. Only code and status, as the text is free."""
        line = self.line()
        while line[3:4] == "-":
            line = self.line()
        found = re.match(r"\d{3} ?(\d\.\d{1,3}\.\d{1,3})?", line)
        return found[0].strip() if found else line

    def say(self, command: bytes | str) -> str:
        """An SMTP command and its reply."""
        self.send((command if isinstance(command, bytes) else command.encode()) + b"\r\n")
        return self.reply()

    def ask(self, command: bytes | str) -> str:
        """A POP3 command and the first line of its answer."""
        self.send((command if isinstance(command, bytes) else command.encode()) + b"\r\n")
        return self.line()

    def until(self, start: str) -> list[str]:
        """Lines up to the one that begins so, or the end."""
        lines = [self.line()]
        while lines[-1] and not lines[-1].startswith(start):
            lines.append(self.line())
        return lines

    def imap(self, command: bytes | str) -> list[str]:
        """An IMAP command, tag `a`; its answer line by line, to its end or to where it asks for more."""
        self.send(b"a " + (command if isinstance(command, bytes) else command.encode()) + b"\r\n")
        lines = [self.line()]
        while lines[-1] and not lines[-1].startswith(("a ", "+")):
            lines.append(self.line())
        return lines

    def rest(self) -> str:
        """All that comes until the server closes."""
        with contextlib.suppress(ConnectionError):
            while octets := self.socket.recv(65536):
                self._read += octets
        rest, self._read = self._read, b""
        return rest.decode("utf-8", "replace")

    def secure(self) -> None:
        """The TLS handshake."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)


class World:
    """A home with users, and the server that serves it. `limits` are lines of the configuration."""

    def __init__(
        self,
        folder: Path,
        users: Sequence[str] = ("ada", "bob", "eve"),
        limits: str = "greeting_wait_s = 0",
        level: str = "debug",
    ) -> None:
        self._limits, self._level = limits, level
        self.home = folder / "home"
        self.log = folder / "log"
        self.port: dict[str, int] = {}
        self.command("init", "--hostname", f"mx.{DOMAIN}", "--postmaster", f"ada@{DOMAIN}")
        (self.home / "pillarbox.toml").write_text(self._configuration())
        self.command("domain", "add", DOMAIN)
        self.command("user", "add", "-", stdin="".join(f"{u}@{DOMAIN} {PASSWORD}\n" for u in users))
        self._process = subprocess.Popen([sys.executable, "-m", "pillarbox", "--home", str(self.home), "serve"])
        self.pid = self._process.pid
        deadline_s = time.monotonic() + _START_S
        while '"event":"started"' not in self.logged():
            assert self._process.poll() is None and time.monotonic() < deadline_s, self.logged()
            time.sleep(0.02)

    def _configuration(self) -> str:
        text = [f'hostname = "mx.{DOMAIN}"', f'postmaster = "ada@{DOMAIN}"', "workers = 1", "scram_iterations = 4096"]
        text += ["[limits]", self._limits]
        text += ["[log]", f'file = "{self.log}"', 'format = "json"', f'level = "{self._level}"']
        for port, (name, (protocol, tls, cleartext)) in zip(free_ports(len(_PORTS)), _PORTS.items(), strict=True):
            self.port[name] = port
            text += ["[[listeners]]", f'protocol = "{protocol}"', 'address = "127.0.0.1"', f'tls = "{tls}"']
            text += [f"port = {self.port[name]}", f"cleartext_login = {str(cleartext).lower()}"]
        return "\n".join(text) + "\n"

    def command(self, *words: str, stdin: str = "") -> str:
        """Call pillarbox as a person would; what it prints."""
        out, given, sys.stdin = io.StringIO(), sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out):
                assert main(Pillarbox(), ["--home", str(self.home), *words]) == 0, words
        finally:
            sys.stdin = given
        return out.getvalue()

    def logged(self) -> str:
        """All that the server has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def rss_kib(self) -> int:
        """Resident memory of the server."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1])

    def cpu_s(self) -> float:
        """Seconds of a processor that the server has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """How many files and connections the server has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def stop(self) -> None:
        """Ask it to end. No input may have made it stumble: there is no trace of an exception in the log."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_START_S)
        finally:
            self._process.kill()
        stumbles = [line for line in self.logged().splitlines() if "Traceback" in line or '"level":"error"' in line]
        assert not stumbles, stumbles[0]
        assert code == 0

    # --- connections

    def smtp(self, port: str = "mx", source: str = "") -> Line:
        """Greeted, and EHLO (or LHLO) said."""
        line = Line(self.port[port], source)
        assert line.reply() == "220"
        assert line.say("LHLO client.example" if port == "lmtp" else "EHLO client.example") == "250"
        return line

    def to_content(self, port: str = "mx", user: str = "ada") -> Line:
        """As far as DATA's 354."""
        line = self.smtp(port)
        assert [line.say(c) for c in (SENDER, f"RCPT TO:<{user}@{DOMAIN}>")] == ["250 2.1.0", "250 2.1.5"]
        assert line.say("DATA") == "354"
        return line

    def deliver(self, octets: bytes, user: str = "ada") -> None:
        """A message whose lines need no dot stuffing, as far as its mailbox."""
        with self.imap("imap", user) as reader, self.to_content(user=user) as line:
            before = messages(reader)
            line.send(octets + b"\r\n.\r\n")
            assert line.reply() == "250 2.0.0"
            wait_for(reader, before + 1)

    def imap(self, port: str = "imap", user: str = "", source: str = "") -> Line:
        """Greeted; logged in if a user is named."""
        line = Line(self.port[port], source)
        assert line.line().startswith("* OK")
        if user:
            assert line.imap(f'LOGIN {user}@{DOMAIN} "{PASSWORD}"')[-1].startswith("a OK")
        return line

    def pop3(self, port: str = "pop3", user: str = "") -> Line:
        """The same for POP3."""
        line = Line(self.port[port])
        assert line.line().startswith("+OK")
        if user:
            assert line.ask(f"USER {user}@{DOMAIN}").startswith("+OK")
            assert line.ask(f"PASS {PASSWORD}").startswith("+OK")
        return line


def messages(reader: Line, mailbox: str = "INBOX") -> int:
    """How many messages are there."""
    found = re.search(r"MESSAGES (\d+)", reader.imap(f"STATUS {mailbox} (MESSAGES)")[0])
    assert found
    return int(found[1])


def until(true: Callable[[], object], said: str = "it did not come about") -> None:
    """Ask until it is so; by time, as a busy machine answers slowly."""
    until_s = time.monotonic() + 20.0
    while not true():
        assert time.monotonic() < until_s, said


def wait_for(reader: Line, number: int) -> None:
    """Ask until so many messages are there: delivery is a moment after the 250."""
    until(lambda: messages(reader) >= number, "the message did not arrive")


def events(world: World, name: str) -> Iterator[dict[str, object]]:
    """Log lines of one kind."""
    for line in world.logged().splitlines():
        entry = json.loads(line)
        if entry["event"] == name:
            yield entry
