"""fetchmail: fetch by POP3 and IMAP and hand over to a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples, with_lf
from .programs import need, run, write


@pytest.mark.parametrize("tls", ["ssl", "starttls"])
@pytest.mark.parametrize("protocol", ["pop3", "imap"])
def test_fetch_keep_and_then_flush(
    server: MailHost, user: User, mailbox: Mailbox, home: Path, protocol: str, tls: str
) -> None:
    fetchmail = need("fetchmail")
    sent = samples(f"fetchmail {protocol} {tls}")
    mailbox.fill(sent)
    ports = {
        ("pop3", "ssl"): server.pop3s,
        ("pop3", "starttls"): server.pop3,
        ("imap", "ssl"): server.imaps,
        ("imap", "starttls"): server.imap,
    }
    (home / "mail").mkdir()
    keeper = write(home / "keep", f'#!/bin/sh\ncat > "$(mktemp {home}/mail/XXXXXXXX)"\n')
    keeper.chmod(0o700)
    how = "ssl" if tls == "ssl" else "sslproto tls1.2+"
    uidl = "uidl" if protocol == "pop3" else ""
    rc = write(
        home / "rc",
        f"set invisible\npoll localhost protocol {protocol} service {ports[protocol, tls]} {uidl} no dns\n"
        f'  user "{user.address}" password "{user.password}" no rewrite keep\n'
        f'  {how} sslcertck sslcertfile "{server.authority}" mda "{keeper}"\n',
    )
    command = [fetchmail, "-f", str(rc), "--pidfile", str(home / "pid"), "-i", str(home / "ids"), "--nosyslog", "-v"]
    run(command, home)
    contents = [path.read_bytes() for path in (home / "mail").iterdir()]
    assert len(contents) == len(sent)
    for sample in sent:
        [content] = [content for content in contents if f"Subject: {sample.subject}\n".encode() in content]
        if not sample.subject.endswith("empty"):  # of which it makes one line more
            assert content.rstrip(b"\n").endswith(with_lf(sample.octets).rstrip(b"\n"))
    run(command, home, status=(1,))  # 1: no mail; it remembers what it has
    assert len(mailbox.messages()) == len(sent)

    run([*command, "--nokeep", "--all"], home)
    assert mailbox.messages() == {}
