"""Postfix and Dovecot together as one mail host: what pillarbox is measured beside, and the tests are tried on."""

from __future__ import annotations

from pathlib import Path

from .certificates import Certificates, make_certificates
from .dovecot import Dovecot
from .mailhost import MailHost, User
from .postfix import Postfix
from .processes import free_ports


class PeerHost:
    """Debian's Postfix delivering by LMTP into Debian's Dovecot, configured as administrators do."""

    def __init__(
        self,
        folder: Path,
        users: tuple[User, ...],
        *,
        domain: str = "pillarbox.test",
        mail_format: str = "maildir",
        any_user: bool = False,
        idle_sessions: int = 1000,
        certificates: Certificates | None = None,
        postfix_settings: dict[str, str] | None = None,
    ) -> None:
        smtp, submission, submissions, imap, imaps, pop3, pop3s = free_ports(7)
        folder.mkdir(parents=True, exist_ok=True)
        certificates = certificates or make_certificates(folder)
        self.dovecot = Dovecot(
            folder / "dovecot",
            certificates,
            users,
            imap=imap,
            imaps=imaps,
            pop3=pop3,
            pop3s=pop3s,
            mail_format=mail_format,
            any_user=any_user,
            idle_sessions=idle_sessions,
        )
        self.postfix = Postfix(
            folder / "postfix",
            smtp,
            domains=(domain,),
            transport=f"lmtp:unix:{self.dovecot.lmtp_socket}",
            sasl_socket=self.dovecot.auth_socket,
            certificates=certificates,
            submission=submission,
            submissions=submissions,
            settings={"smtpd_recipient_limit": "2000", **(postfix_settings or {})},
        )
        self.mailhost = MailHost(
            smtp=smtp,
            submission=submission,
            submissions=submissions,
            imap=imap,
            imaps=imaps,
            pop3=pop3,
            pop3s=pop3s,
            authority=certificates.authority,
            users=users,
            domain=domain,
            name="Postfix + Dovecot",
            scram=False,
        )

    def start(self) -> None:
        """Start both."""
        self.dovecot.folder.mkdir(parents=True, exist_ok=True)
        self.dovecot.start()
        try:
            self.postfix.start()
        except BaseException:
            self.dovecot.stop()
            raise

    def stop(self) -> None:
        """End both."""
        try:
            self.postfix.stop()
        finally:
            self.dovecot.stop()

    def tail(self) -> str:
        """The ends of both logs."""
        return self.postfix.tail() + self.dovecot.tail()
