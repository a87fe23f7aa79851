"""A real pillarbox in a temporary home, set up by its own commands, on free loopback ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from .certificates import Certificates, make_certificates
from .mailhost import MailHost, User
from .processes import LOOPBACK, Server, answers, free_ports

# What `python -m` runs; the console script is the same.
PILLARBOX = [sys.executable, "-m", "pillarbox"]


class Pillarbox:
    """Home, configuration and process of one pillarbox.

    `name_server` is "address:port"; `outbound_port` the port that other servers of the test world listen on;
    `extra` holds more tables of the configuration as TOML text (limits, queue …); `top` more top-level keys.
    """

    def __init__(
        self,
        folder: Path,
        users: tuple[User, ...],
        *,
        domain: str = "pillarbox.test",
        certificates: Certificates | None = None,
        name_server: str = "",
        outbound_port: int = 25,
        workers: int = 0,
        top: str = "",
        queue: str = "",
        limits: str = "",
        extra: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.home = folder / "home"
        self.certificates = certificates or make_certificates(folder)
        self.server: Server | None = None
        smtp, submission, submissions, imap, imaps, pop3, pop3s, self.metrics, self.lmtp = free_ports(9)
        self.mailhost = MailHost(
            smtp=smtp,
            submission=submission,
            submissions=submissions,
            imap=imap,
            imaps=imaps,
            pop3=pop3,
            pop3s=pop3s,
            authority=self.certificates.authority,
            users=users,
            domain=domain,
        )
        self._name_servers = [name_server] if name_server else []
        self._outbound_port = outbound_port
        self._workers = workers
        self._top, self._queue, self._limits, self._extra = top, queue, limits, extra

    def set_up(self) -> None:
        """Make the home, the configuration, the domain and the users, by pillarbox's own commands."""
        self.command("init", "--postmaster", self.mailhost.ada.address, "--hostname", f"mx.{self.mailhost.domain}")
        (self.home / "pillarbox.toml").write_text(self.configuration())
        known = json.loads(self.command("domain", "list", "--json") or "[]")
        if self.mailhost.domain not in json.dumps(known):
            self.command("domain", "add", self.mailhost.domain)
        self.add_users(self.mailhost.users)

    def add_users(self, users: tuple[User, ...]) -> None:
        """Add many users at once."""
        self.command("user", "add", "-", stdin="".join(f"{user.address} {user.password}\n" for user in users))

    def start(self, timeout_s: float = 30.0) -> None:
        """Serve, and wait until every port greets."""
        command = [*PILLARBOX, "--home", str(self.home), "serve"]
        self.server = Server(command, self.folder / "serve.log", env=self._environment())
        mailhost = self.mailhost
        self.server.wait_ready([mailhost.smtp, mailhost.submission, mailhost.imap, mailhost.pop3], timeout_s)
        self.server.wait_ready([mailhost.submissions, mailhost.imaps, mailhost.pop3s], timeout_s, ready=answers)

    def stop(self) -> None:
        """End it by SIGTERM, and everything below it."""
        if self.server:
            self.server.stop()
            self.server = None

    def reload(self) -> None:
        """Ask it to read its configuration again."""
        if self.server:
            os.kill(self.server.pid, signal.SIGHUP)

    def command(self, *words: str, stdin: str = "") -> str:
        """Run one pillarbox command on this home; raise AssertionError with what it said if it fails."""
        done = subprocess.run(
            [*PILLARBOX, "--home", str(self.home), *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=300,
        )
        assert done.returncode == 0, f"pillarbox {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def family(self) -> list[int]:
        """All processes of the running server, the supervisor first."""
        return self.server.family() if self.server else []

    def tail(self) -> str:
        """The end of its log."""
        return self.server.tail() if self.server else ""

    def configuration(self) -> str:
        """The TOML text: all protocols on loopback, clear-text logins allowed, loopback trusted."""
        mailhost = self.mailhost
        listeners = [
            ("smtp", mailhost.smtp, "starttls"),
            ("submission", mailhost.submission, "starttls"),
            ("submission", mailhost.submissions, "implicit"),
            ("imap", mailhost.imap, "starttls"),
            ("imap", mailhost.imaps, "implicit"),
            ("pop3", mailhost.pop3, "starttls"),
            ("pop3", mailhost.pop3s, "implicit"),
            ("lmtp", self.lmtp, "none"),
            ("metrics", self.metrics, "none"),
        ]
        tables = "".join(
            f'[[listeners]]\nprotocol = "{protocol}"\naddress = "{LOOPBACK}"\nport = {port}\ntls = "{tls}"\n'
            + ("cleartext_login = true\n" if protocol in ("submission", "imap", "pop3") else "")
            for protocol, port, tls in listeners
        )
        return f"""\
hostname = "mx.{mailhost.domain}"
postmaster = "{mailhost.ada.address}"
workers = {self._workers}
trusted_networks = ["127.0.0.0/8"]
scram_iterations = 4096
{self._top}
{tables}
[tls]
certificate = "{self.certificates.certificate}"
key = "{self.certificates.key}"
[outbound]
port = {self._outbound_port}
allow_networks = ["127.0.0.0/8"]
name_servers = {json.dumps(self._name_servers)}
[queue]
{self._queue}
[limits]
{self._limits}
[log]
level = "info"
format = "json"
{self._extra}
"""

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1"}
