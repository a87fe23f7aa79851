"""curl: SMTP, IMAP and POP3, in the clear, with STARTTLS and with TLS from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples, simple
from .programs import need, run
from .wire import deliver

TLS = pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])


def _base(server: MailHost, user: User, tls: str) -> list[str]:
    command = [
        need("curl"),
        "-sS",
        "-4",
        "--cacert",
        str(server.authority),
        "--user",
        f"{user.address}:{user.password}",
    ]
    return [*command, "--ssl-reqd"] if tls == "starttls" else command


def test_smtp_to_the_mx(server: MailHost, user: User, mailbox: Mailbox, home: Path) -> None:
    for sample in samples("curl mx"):
        (home / "data").write_bytes(sample.octets)
        command = [need("curl"), "-sS", f"smtp://localhost:{server.smtp}/client.test", "-T", str(home / "data")]
        run([*command, "--mail-from", "outside@sender.test", "--mail-rcpt", user.address], home)
        assert mailbox.wait_for(sample.subject).endswith(b"\r\n" + sample.octets)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_smtp_submission(server: MailHost, user: User, mailbox: Mailbox, home: Path, tls: str, mechanism: str) -> None:
    subject = f"curl {tls} {mechanism}"
    (home / "data").write_bytes(simple(subject, sender=user.address))
    url = f"smtps://localhost:{server.submissions}" if tls == "implicit" else f"smtp://localhost:{server.submission}"
    command = [*_base(server, user, tls), url, "-T", str(home / "data"), "--login-options", f"AUTH={mechanism}"]
    run([*command, "--mail-from", user.address, "--mail-rcpt", user.address], home)
    mailbox.wait_for(subject)


@TLS
def test_imap_append_fetch_search_and_store(
    server: MailHost, user: User, mailbox: Mailbox, home: Path, tls: str
) -> None:
    sample = samples(f"curl imap {tls}")[1]
    deliver(server, user.address, sample.octets)
    mailbox.wait_for(sample.subject)
    base = _base(server, user, tls)
    url = f"imaps://localhost:{server.imaps}" if tls == "implicit" else f"imap://localhost:{server.imap}"
    assert run([*base, f"{url}/INBOX;UID=1"], home).endswith(sample.octets)
    assert run([*base, f"{url}/INBOX;MAILINDEX=1;SECTION=TEXT"], home) == sample.octets.partition(b"\r\n\r\n")[2]
    assert b"INBOX" in run([*base, f"{url}/"], home)
    (home / "data").write_bytes(simple("appended by curl"))
    run([*base, f"{url}/INBOX", "-T", str(home / "data")], home)
    mailbox.wait_for("appended by curl")
    assert run([*base, f"{url}/INBOX?SUBJECT%20appended"], home) == b"* SEARCH 2\r\n"
    run([*base, f"{url}/INBOX", "-X", "STORE 1 +FLAGS (\\Answered)"], home)
    assert b"\\Answered" in mailbox.flags()[1]


@TLS
def test_pop3_list_retrieve_top_and_delete(
    server: MailHost, user: User, mailbox: Mailbox, home: Path, tls: str
) -> None:
    sent = samples(f"curl pop {tls}")
    mailbox.fill(sent)
    base = _base(server, user, tls)
    url = f"pop3s://localhost:{server.pop3s}" if tls == "implicit" else f"pop3://localhost:{server.pop3}"
    assert len(run([*base, f"{url}/"], home).splitlines()) == len(sent)
    received = [run([*base, f"{url}/{number}"], home) for number in range(1, len(sent) + 1)]
    for sample in sent:
        [message] = [octets for octets in received if f"Subject: {sample.subject}\r\n".encode() in octets]
        assert message.endswith(b"\r\n" + sample.octets)
    top = run([*base, f"{url}/", "-X", "TOP 1 1"], home)
    assert received[0].startswith(top[: received[0].index(b"\r\n\r\n") + 4])
    run([*base, f"{url}/1", "-X", "DELE", "-I"], home)
    mailbox.wait(len(sent) - 1)
