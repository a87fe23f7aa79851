"""swaks: to the MX port, and by submission with TLS and AUTH."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples
from .programs import need, run
from .wire import dot_stuffed


def test_mail_from_outside_arrives_byte_for_byte(server: MailHost, user: User, mailbox: Mailbox, home: Path) -> None:
    swaks = need("swaks")
    for sample in samples("swaks"):
        data = home / "data"
        data.write_bytes(dot_stuffed(sample.octets) + b".\r\n")
        command = [swaks, "--server", server.host, "--port", str(server.smtp), "--from", "outside@sender.test"]
        run([*command, "--to", user.address, "--data", f"@{data}", "--no-data-fixup"], home)
        assert mailbox.wait_for(sample.subject).endswith(b"\r\n" + sample.octets)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_submission_with_tls_and_auth(
    server: MailHost, user: User, mailbox: Mailbox, home: Path, mechanism: str, tls: str
) -> None:
    swaks = need("swaks")
    subject = f"swaks {mechanism} {tls}"
    command = [swaks, "--server", server.host, "--from", user.address, "--to", user.address]
    command += ["--auth", mechanism, "--auth-user", user.address, "--auth-password", user.password]
    command += ["--tls-verify", "--tls-ca-path", str(server.authority), "--header", f"Subject: {subject}"]
    if tls == "starttls":
        command += ["--port", str(server.submission), "--tls"]
    else:
        command += ["--port", str(server.submissions), "--tls-on-connect"]
    run(command, home)
    mailbox.wait_for(subject)


def test_a_wrong_password_is_refused(server: MailHost, user: User, home: Path) -> None:
    swaks = need("swaks")
    command = [swaks, "--server", server.host, "--port", str(server.submission), "--tls", "--to", user.address]
    command += ["--from", user.address, "--auth", "PLAIN", "--auth-user", user.address, "--auth-password", "wrong"]
    said = run(command, home, status=(28,))  # 28: no authentication succeeded
    assert b"535" in said


def test_no_relay_for_strangers(server: MailHost, home: Path) -> None:
    swaks = need("swaks")
    if server.name != "pillarbox":
        pytest.skip("the peers of the benches relay for loopback")
    command = [swaks, "--server", server.host, "--port", str(server.smtp), "--from", "outside@sender.test"]
    said = run([*command, "--to", "someone@other.test"], home, status=(24,))  # 24: all recipients refused
    assert b"550 5.7.1" in said


def test_an_unknown_recipient_is_refused_at_once(server: MailHost, home: Path) -> None:
    swaks = need("swaks")
    if server.name != "pillarbox":
        pytest.skip("the peers of the benches take every address")
    command = [swaks, "--server", server.host, "--port", str(server.smtp), "--from", "outside@sender.test"]
    said = run([*command, "--to", f"nobody.here@{server.domain}"], home, status=(24,))
    assert b"550 5.1.1" in said


def test_scram_by_gsasl(server: MailHost, user: User, home: Path) -> None:
    """swaks has no SCRAM; GNU SASL's own program has."""
    gsasl = need("gsasl")
    if not server.scram:
        pytest.skip("SCRAM is not offered for submission there")
    command = [gsasl, "--smtp", "--connect", f"{server.host}:{server.submission}", "--mechanism", "SCRAM-SHA-256"]
    command += ["--authentication-id", user.address, "--password", user.password, "--no-starttls", "--no-cb"]
    assert b"235" in run(command, home)
