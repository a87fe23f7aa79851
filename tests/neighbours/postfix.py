"""An own instance of Debian's Postfix: private folders, loopback ports, never the system-wide one. Needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .certificates import Certificates
from .processes import LOOPBACK, answers, program, until

# Which services run, in Postfix's own words: name, kind, private, unprivileged, chroot, wake-up, limit, program.
SERVICES = """\
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
proxymap  unix  -  -  n  -     -  proxymap
proxywrite unix -  -  n  -     1  proxymap
smtp      unix  -  -  n  -     -  smtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
virtual   unix  -  n  n  -     -  virtual
lmtp      unix  -  -  n  -     -  lmtp
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
postlog   unix-dgram n - n -   1  postlogd
"""


@dataclass(slots=True)
class Postfix:
    """Where this instance listens, what it takes, and where it puts it.

    `domains` are delivered by `transport`: "virtual" (Maildir files under `folder`/mail, for `mailboxes`) or an LMTP
    socket such as "lmtp:unix:/path". Everything else is relayed for loopback clients, by `relayhost` when given.
    """

    folder: Path
    port: int
    host: str = LOOPBACK
    domains: Sequence[str] = ("other.test",)
    transport: str = "virtual"
    mailboxes: Sequence[str] = ()
    relayhost: str = ""
    sasl_socket: Path | None = None
    certificates: Certificates | None = None
    submission: int = 0
    submissions: int = 0
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The log file of this instance."""
        return self.folder / "mail.log"

    def start(self) -> None:
        """Write the configuration, start the instance and wait until it greets."""
        for name in ("etc", "queue", "data", "mail"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._own("data", "postfix")
        self._own("mail", "mail")
        (self.folder / "etc/main.cf").write_text("".join(f"{k} = {v}\n" for k, v in self._main().items()))
        (self.folder / "etc/master.cf").write_text(self._master())
        (self.folder / "etc/mailboxes").write_text("".join(f"{name} {name}/\n" for name in self.mailboxes))
        self._run("start")
        ports = [port for port in (self.port, self.submission, self.submissions) if port]
        try:
            until("Postfix to listen", lambda: all(answers(port, self.host) for port in ports))
        except TimeoutError as error:
            raise RuntimeError(f"{error}:\n{self.tail()}") from None

    def stop(self) -> None:
        """End this instance by its own stop command."""
        self._run("stop")

    def flush(self) -> None:
        """Try everything that is deferred now."""
        subprocess.run([_need("postqueue"), "-c", str(self.folder / "etc"), "-f"], check=True)

    def queue(self) -> str:
        """Return what postqueue -p prints."""
        command = [_need("postqueue"), "-c", str(self.folder / "etc"), "-p"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def messages(self, address: str) -> list[bytes]:
        """Return the messages delivered to `address` by the transport "virtual", oldest first."""
        folder = self.folder / "mail" / address / "new"
        files = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns) if folder.is_dir() else []
        return [path.read_bytes() for path in files]

    def tail(self, octets: int = 4000) -> str:
        """Return the end of the log."""
        return self.log.read_bytes()[-octets:].decode("utf-8", "replace") if self.log.exists() else ""

    def master_pid(self) -> int:
        """The process id of master(8)."""
        return int((self.folder / "queue/pid/master.pid").read_text())

    def _run(self, verb: str) -> None:
        done = subprocess.run(
            [_need("postfix"), "-c", str(self.folder / "etc"), verb], capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"postfix {verb}: {done.stdout}{done.stderr}\n{self.tail()}")

    def _own(self, name: str, user: str) -> None:
        subprocess.run(["chown", f"{user}:{user}", str(self.folder / name)], check=True)

    def _main(self) -> dict[str, str]:
        main = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.folder / "queue"),
            "data_directory": str(self.folder / "data"),
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.folder),
            "myhostname": f"mx.{self.domains[0]}",
            "mydomain": self.domains[0],
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_protocols": "ipv4",
            "inet_interfaces": LOOPBACK,  # must be an address that an interface lists; master.cf has the others
            "smtp_host_lookup": "native",
            "relayhost": self.relayhost,
            "alias_maps": "",
            "alias_database": "",
            "virtual_mailbox_domains": " ".join(self.domains),
            "virtual_mailbox_base": str(self.folder / "mail"),
            "virtual_mailbox_maps": f"texthash:{self.folder}/etc/mailboxes"
            if self.transport == "virtual"
            else "static:all",
            "virtual_uid_maps": "static:8",
            "virtual_gid_maps": "static:8",
            "virtual_minimum_uid": "8",
            "virtual_transport": self.transport,
            "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject",
            "smtpd_recipient_restrictions": "",
            "smtputf8_enable": "no",
            "biff": "no",
        }
        if self.certificates:
            main |= {
                "smtpd_tls_security_level": "may",
                "smtpd_tls_cert_file": str(self.certificates.certificate),
                "smtpd_tls_key_file": str(self.certificates.key),
                "smtp_tls_security_level": "may",
                "smtp_tls_CAfile": str(self.certificates.authority),
            }
        if self.sasl_socket:
            main |= {"smtpd_sasl_type": "dovecot", "smtpd_sasl_path": str(self.sasl_socket)}
        return main | self.settings

    def _master(self) -> str:
        lines = f"{self.host}:{self.port} inet n - n - - smtpd\n"
        auth = "  -o smtpd_sasl_auth_enable=yes\n  -o smtpd_client_restrictions=permit_sasl_authenticated,reject\n"
        if self.submission:
            lines += (
                f"{self.host}:{self.submission} inet n - n - - smtpd\n  -o smtpd_tls_security_level=encrypt\n" + auth
            )
        if self.submissions:
            lines += f"{self.host}:{self.submissions} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes\n" + auth
        return lines + SERVICES


def _need(name: str) -> str:
    path = program(name)
    if path is None:
        raise FileNotFoundError(name)
    return path
