"""mutt and neomutt: send from the command line, read by IMAP and POP3 on a terminal."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples
from .programs import need, run, run_on_terminal, write


def _settings(server: MailHost, user: User, more: str) -> str:
    return f"""\
set from = "{user.address}"
set realname = "A Tester"
set use_envelope_from = yes
set ssl_ca_certificates_file = "{server.authority}"
set certificate_file = "{server.authority}"
set ssl_starttls = yes
set imap_user = "{user.address}"
set imap_pass = "{user.password}"
set pop_user = "{user.address}"
set pop_pass = "{user.password}"
set smtp_pass = "{user.password}"
set copy = no
set wait_key = no
set mail_check = 1
set sleep_time = 0
set header_cache = ""
set message_cachedir = ""
unset help
set quit = yes
set delete = yes
set confirmappend = no
set confirmcreate = no
set pipe_decode = no
{more}
"""


@pytest.mark.parametrize("name", ["mutt", "neomutt"])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_send_in_batch_mode(server: MailHost, user: User, mailbox: Mailbox, home: Path, name: str, scheme: str) -> None:
    mutt = need(name)
    port = server.submission if scheme == "smtp" else server.submissions
    url = f'set smtp_url = "{scheme}://{quote(user.address)}@localhost:{port}/"\nset ssl_force_tls = yes'
    rc = write(home / "muttrc", _settings(server, user, url))
    attachment = home / "attached.bin"
    attachment.write_bytes(bytes(range(256)) * 20)
    subject = f"{name} {scheme}"
    run([mutt, "-F", str(rc), "-n", "-s", subject, "-a", str(attachment), "--", user.address], home, stdin=b"Words.\n")
    assert b"attached.bin" in mailbox.wait_for(subject)


@pytest.mark.parametrize("name", ["mutt", "neomutt"])
@pytest.mark.parametrize("scheme", ["imaps", "imap"])
def test_read_flag_copy_and_delete_by_imap(
    server: MailHost, user: User, mailbox: Mailbox, home: Path, name: str, scheme: str
) -> None:
    mutt = need(name)
    sent = samples(f"{name} {scheme}")[:3]
    mailbox.fill(sent)
    rc = write(home / "muttrc", _settings(server, user, "set ssl_force_tls = yes\nset sort = mailbox-order"))
    out = home / "piped"
    port = server.imaps if scheme == "imaps" else server.imap
    folder = f"{scheme}://localhost:{port}/INBOX"
    keys = f"<first-entry><pipe-message>cat > {out}<enter><flag-message><last-entry><copy-message>=Kept<enter>"
    keys += "<first-entry><next-entry><delete-message><sync-mailbox><quit>"
    base = f'set folder = "{scheme}://localhost:{port}/"'
    run_on_terminal([mutt, "-F", str(rc), "-n", "-e", base, "-f", folder, "-e", f'push "{keys}"'], home)
    assert sent[0].octets.replace(b"\r\n", b"\n") in out.read_bytes().replace(b"\r\n", b"\n")
    flags = mailbox.flags()
    assert len(flags) == 2
    assert b"\\Flagged" in flags[min(flags)]
    [copy] = mailbox.messages("Kept").values()
    assert copy.endswith(sent[2].octets)


@pytest.mark.parametrize("name", ["mutt", "neomutt"])
def test_read_by_pop3(server: MailHost, user: User, mailbox: Mailbox, home: Path, name: str) -> None:
    mutt = need(name)
    sent = samples(f"{name} pop")[:2]
    mailbox.fill(sent)
    rc = write(home / "muttrc", _settings(server, user, f"set sort = mailbox-order\nset folder = {home}"))
    out = home / "piped"
    keys = f"<last-entry><pipe-message>cat > {out}<enter><first-entry><delete-message><sync-mailbox><quit>"
    command = [mutt, "-F", str(rc), "-n", "-f", f"pops://localhost:{server.pop3s}/", "-e", f'push "{keys}"']
    run_on_terminal(command, home)
    assert sent[1].octets.replace(b"\r\n", b"\n") in out.read_bytes().replace(b"\r\n", b"\n")
    assert len(mailbox.messages()) == 1
