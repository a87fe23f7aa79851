"""s-nail: send by submission, read by POP3 and IMAP."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples
from .programs import need, run


def _login(user: User) -> str:
    return f"{quote(user.address, safe='')}:{quote(user.password, safe='')}"


def _base(server: MailHost) -> list[str]:
    command = [need("s-nail"), "-:/", "-#", "-Sv15-compat", f"-Stls-ca-file={server.authority}", "-Stls-verify=strict"]
    return [*command, "-Stls-ca-no-defaults", "-Sttycharset=utf-8", "-Shostname=localhost"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_send(server: MailHost, user: User, mailbox: Mailbox, home: Path, tls: str) -> None:
    scheme, port = ("smtps", server.submissions) if tls == "implicit" else ("smtp", server.submission)
    command = [*_base(server), f"-Smta={scheme}://{_login(user)}@localhost:{port}", "-Ssmtp-auth=plain"]
    if tls == "starttls":
        command.append("-Ssmtp-use-starttls")
    command += [f"-Sfrom={user.address}", "-s", f"s-nail {tls}", "-.", user.address]
    run(command, home, stdin="Grüße\n.\nafter the dot\n".encode())
    assert b"after the dot" in mailbox.wait_for(f"s-nail {tls}")


@pytest.mark.parametrize("scheme", ["pop3s", "imaps", "imap", "pop3"])
def test_read(server: MailHost, user: User, mailbox: Mailbox, home: Path, scheme: str) -> None:
    sent = samples(f"s-nail {scheme}")[:2]
    mailbox.fill(sent)
    port = {"pop3s": server.pop3s, "imaps": server.imaps, "imap": server.imap, "pop3": server.pop3}[scheme]
    folder = f"{scheme}://{_login(user)}@localhost:{port}" + ("/INBOX" if scheme.startswith("imap") else "")
    command = [*_base(server), f"-S{scheme[:4]}-use-starttls", "-Simap-keepalive=0", "-Spop3-auth=plain"]
    said = run([*command, "-f", folder], home, stdin=b"headers\nShow 1\nShow 2\ndelete 1\nquit\n")
    assert b"leading dot" in said
    assert b"words." in said
    mailbox.wait(1)
