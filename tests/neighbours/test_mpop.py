"""mpop: fetch by POP3 with pipelining, TLS and SCRAM."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples, with_lf
from .programs import need, run, write


@pytest.mark.parametrize(
    ("tls", "auth"), [("implicit", "plain"), ("starttls", "scram-sha-256"), ("starttls", "user"), ("none", "plain")]
)
def test_fetch_into_a_maildir(server: MailHost, user: User, mailbox: Mailbox, home: Path, tls: str, auth: str) -> None:
    mpop = need("mpop")
    sent = samples(f"mpop {tls} {auth}")
    mailbox.fill(sent)
    for name in ("cur", "new", "tmp"):
        (home / "mail" / name).mkdir(parents=True)
    secure = "tls off" if tls == "none" else f"tls on\ntls_trust_file {server.authority}"
    rc = write(
        home / "rc",
        f"account default\nhost localhost\nport {server.pop3s if tls == 'implicit' else server.pop3}\n"
        f"user {user.address}\npassword {user.password}\nauth {auth}\n{secure}\n"
        f"tls_starttls {'on' if tls == 'starttls' else 'off'}\npipelining on\nkeep on\nreceived_header off\n"
        f"uidls_file {home}/uidls\ndelivery maildir {home}/mail\n",
    )
    command = [mpop, f"--file={rc}", "--debug"]
    run(command, home)
    contents = [path.read_bytes() for path in (home / "mail/new").iterdir()]
    assert len(contents) == len(sent)
    for sample in sent:
        [content] = [content for content in contents if f"Subject: {sample.subject}\n".encode() in content]
        assert content.endswith(with_lf(sample.octets))
    run(command, home)
    assert len(list((home / "mail/new").iterdir())) == len(sent)
    run([*command, "--keep=off"], home)
    assert mailbox.messages() == {}
