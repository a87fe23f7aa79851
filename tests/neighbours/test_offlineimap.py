"""offlineimap3: pull, push flags, and a second run that changes nothing."""

from __future__ import annotations

from pathlib import Path

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples, with_lf
from .programs import need, run, write


def test_pull_push_flags_and_rest(server: MailHost, user: User, mailbox: Mailbox, home: Path) -> None:
    offlineimap = need("offlineimap")
    sent = samples("offlineimap")
    mailbox.fill(sent)
    rc = write(
        home / "rc",
        f"""\
[general]
accounts = account
metadata = {home}/metadata
ui = basic
[Account account]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = {home}/mail
[Repository far]
type = IMAP
remotehost = localhost
remoteport = {server.imaps}
remoteuser = {user.address}
remotepass = {user.password}
ssl = yes
sslcacertfile = {server.authority}
""",
    )
    command = [offlineimap, "-c", str(rc), "-o", "-u", "basic"]
    run(command, home, timeout_s=120)
    inbox = home / "mail/INBOX"
    files = [*(inbox / "cur").iterdir(), *(inbox / "new").iterdir()]
    contents = [path.read_bytes() for path in files]
    assert len(contents) == len(sent)
    for sample in sent:
        [content] = [content for content in contents if f"Subject: {sample.subject}\n".encode() in content]
        assert content.replace(b"\r\n", b"\n").endswith(with_lf(sample.octets))

    for path in files:
        flags = "S" if sent[0].subject.encode() + b"\n" not in path.read_bytes() else "FS"
        path.rename(inbox / "cur" / (path.name.partition(":")[0] + f":2,{flags}"))
    run(command, home, timeout_s=120)
    flags_there = mailbox.flags()
    assert all(b"\\Seen" in flags for flags in flags_there.values())
    assert [b"\\Flagged" in flags for flags in flags_there.values()].count(True) == 1

    names = sorted(path.name for path in (inbox / "cur").iterdir())
    run(command, home, timeout_s=120)
    assert mailbox.flags() == flags_there
    assert sorted(path.name for path in (inbox / "cur").iterdir()) == names
