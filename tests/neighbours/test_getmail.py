"""getmail6: fetch by POP3 and IMAP and hand over to a program, each message once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples, simple, with_lf
from .programs import need, run, write
from .wire import deliver

OWN_MARK = re.compile(rb"\nX-getmail-retrieved-from-mailbox: .*\n\n")


@pytest.mark.parametrize("retriever", ["SimplePOP3SSLRetriever", "SimpleIMAPSSLRetriever", "SimplePOP3Retriever"])
def test_each_message_comes_once(server: MailHost, user: User, mailbox: Mailbox, home: Path, retriever: str) -> None:
    getmail = need("getmail")
    sent = samples(f"getmail {retriever}")
    mailbox.fill(sent)
    ports = {
        "SimplePOP3SSLRetriever": server.pop3s,
        "SimplePOP3Retriever": server.pop3,
        "SimpleIMAPSSLRetriever": server.imaps,
    }
    trust = f"ca_certs = {server.authority}\n" if "SSL" in retriever else ""
    (home / "mail").mkdir()
    keeper = write(home / "keep", f'#!/bin/sh\ncat > "$(mktemp {home}/mail/XXXXXXXX)"\n')
    keeper.chmod(0o700)
    write(
        home / "rc",
        f"[retriever]\ntype = {retriever}\nserver = localhost\nport = {ports[retriever]}\nusername = {user.address}\n"
        f"password = {user.password}\n{trust}[destination]\ntype = MDA_external\npath = {keeper}\n"
        "allow_root_commands = true\n"
        "[options]\nread_all = false\ndelivered_to = false\nreceived = false\nverbose = 2\n",
    )
    command = [getmail, f"--getmaildir={home}", "--rcfile=rc"]
    run(command, home)
    # its own mark, at the end of the header of what came by IMAP
    contents = [OWN_MARK.sub(b"\n\n", path.read_bytes(), count=1) for path in (home / "mail").iterdir()]
    assert len(contents) == len(sent)
    for sample in sent:
        [content] = [content for content in contents if f"Subject: {sample.subject}\n".encode() in content]
        assert content.endswith(with_lf(sample.octets))

    deliver(server, user.address, simple("getmail later"))
    mailbox.wait(len(sent) + 1)
    run(command, home)
    assert len(list((home / "mail").iterdir())) == len(sent) + 1

    (home / "rc").write_text((home / "rc").read_text() + "delete = true\n")
    run(command, home)
    assert mailbox.messages() == {}
