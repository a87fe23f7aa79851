"""An own instance of Debian's Dovecot: private folders, loopback ports, never the system-wide one. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .certificates import Certificates
from .mailhost import User
from .processes import LOOPBACK, Server, answers, program

MAIL_UID = 8  # Debian's user and group "mail": Dovecot gives no mailbox to root


@dataclass(slots=True)
class Dovecot:
    """Where this instance listens, whom it knows, and how it keeps mail.

    `mail_format` is "maildir" or "sdbox". LMTP comes by the socket `lmtp_socket`; Postfix asks for logins at
    `auth_socket`. Any address of the known domains has a mailbox when `any_user` is set (password "secret").
    """

    folder: Path
    certificates: Certificates
    users: Sequence[User]
    imap: int
    imaps: int
    pop3: int
    pop3s: int
    mail_format: str = "maildir"
    any_user: bool = False
    idle_sessions: int = 1000
    settings: dict[str, str] = field(default_factory=dict)
    server: Server | None = None

    @property
    def lmtp_socket(self) -> Path:
        """Where LMTP is spoken."""
        return self.folder / "run/lmtp-in"

    @property
    def auth_socket(self) -> Path:
        """Where Postfix asks for logins."""
        return self.folder / "run/auth-postfix"

    @property
    def configuration(self) -> Path:
        """The file that `-c` names."""
        return self.folder / "dovecot.conf"

    def mail_folder(self, user: User) -> Path:
        """Where a user's mail is kept."""
        return self.folder / "mail" / user.address

    def start(self) -> None:
        """Write the configuration, start the instance and wait until it greets."""
        for name in ("run", "state", "mail"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        os.chown(self.folder / "mail", MAIL_UID, MAIL_UID)
        lines = [f"{user.address}:{{PLAIN}}{user.password}\n" for user in self.users]
        (self.folder / "users").write_text("".join(lines))
        self.configuration.write_text(self._text())
        path = program("dovecot")
        if path is None:
            raise FileNotFoundError("dovecot")
        self.server = Server([path, "-F", "-c", str(self.configuration)], self.folder / "dovecot.out")
        self.server.wait_ready([self.imap, self.pop3, self.imaps, self.pop3s], ready=answers)

    def stop(self) -> None:
        """End this instance."""
        if self.server:
            self.server.stop()

    def doveadm(self, *words: str) -> str:
        """Run doveadm on this instance and return what it prints."""
        command = [program("doveadm") or "doveadm", "-c", str(self.configuration), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def give_to_mail(self, folder: Path) -> None:
        """Make `folder` and all in it belong to the user who reads it."""
        subprocess.run(["chown", "-R", f"{MAIL_UID}:{MAIL_UID}", str(folder)], check=True)

    def tail(self, octets: int = 4000) -> str:
        """Return the end of the log."""
        log = self.folder / "mail.log"
        return log.read_bytes()[-octets:].decode("utf-8", "replace") if log.exists() else ""

    def forget_mail(self) -> None:
        """Remove all mail; only while the instance is stopped."""
        shutil.rmtree(self.folder / "mail", ignore_errors=True)

    def _text(self) -> str:
        where = {"maildir": "maildir:~/Maildir", "sdbox": "sdbox:~/dbox"}[self.mail_format]
        passdb = "static\n  args = password=secret" if self.any_user else f"passwd-file\n  args = {self.folder}/users"
        extra = "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        return f"""\
# Debian's Dovecot with its own defaults; only places, ports and limits are ours.
base_dir = {self.folder}/run
state_dir = {self.folder}/state
log_path = {self.folder}/mail.log
listen = {LOOPBACK}
protocols = imap pop3 lmtp
ssl = yes
ssl_cert = <{self.certificates.certificate}
ssl_key = <{self.certificates.key}
disable_plaintext_auth = no
auth_mechanisms = plain login scram-sha-256
mail_location = {where}
mail_home = {self.folder}/mail/%u
first_valid_uid = {MAIL_UID}
first_valid_gid = {MAIL_UID}
mail_max_userip_connections = {self.idle_sessions + 100}
passdb {{
  driver = {passdb}
}}
userdb {{
  driver = static
  args = uid={MAIL_UID} gid={MAIL_UID} allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
service imap-login {{
  service_count = 0
  client_limit = {self.idle_sessions + 200}
  inet_listener imap {{
    port = {self.imap}
  }}
  inet_listener imaps {{
    port = {self.imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {self.pop3}
  }}
  inet_listener pop3s {{
    port = {self.pop3s}
    ssl = yes
  }}
}}
service imap {{
  process_limit = {self.idle_sessions + 200}
}}
service anvil {{
  client_limit = {2 * self.idle_sessions + 1000}
}}
service auth {{
  client_limit = {2 * self.idle_sessions + 1000}
  unix_listener {self.auth_socket.name} {{
    mode = 0666
  }}
}}
service lmtp {{
  unix_listener {self.lmtp_socket.name} {{
    mode = 0666
  }}
}}
{extra}"""
