"""mbsync (isync): pull, push flags and messages, and a second run that changes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .messages import samples, simple, with_lf
from .programs import need, run, write

TUID = re.compile(rb"^X-TUID: .*\n", re.M)  # its own mark, in the files it writes
NOTHING = re.compile(rb"(Far|F): \+0 \*0 #0 +(Near|N): \+0 \*0 #0")


def _configuration(server: MailHost, user: User, home: Path, mechanism: str, tls: str) -> str:
    port = server.imaps if tls == "IMAPS" else server.imap
    return f"""\
IMAPAccount account
Host localhost
Port {port}
User {user.address}
Pass {user.password}
SSLType {tls}
CertificateFile {server.authority}
AuthMechs {mechanism}

IMAPStore far
Account account

MaildirStore near
Path {home}/mail/
Inbox {home}/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
CopyArrivalDate yes
SyncState {home}/state/
"""


@pytest.mark.parametrize(("mechanism", "tls"), [("PLAIN", "IMAPS"), ("SCRAM-SHA-256", "STARTTLS"), ("LOGIN", "IMAPS")])
def test_both_sides_become_the_same(
    server: MailHost, user: User, mailbox: Mailbox, home: Path, mechanism: str, tls: str
) -> None:
    mbsync = need("mbsync")
    sent = samples(f"mbsync {mechanism}")
    mailbox.fill(sent)
    before = mailbox.messages()
    (home / "mail").mkdir()
    (home / "state").mkdir()
    command = [
        mbsync,
        "-V",
        "-c",
        str(write(home / "mbsyncrc", _configuration(server, user, home, mechanism, tls))),
        "-a",
    ]

    run(command, home)
    files = _files(home)
    contents = sorted(TUID.sub(b"", path.read_bytes(), count=1) for path in files)
    for content, octets in zip(contents, sorted(with_lf(octets) for octets in before.values()), strict=True):
        assert content == octets

    # flags set here, a message written here, one deleted there
    first = files[0]
    content = TUID.sub(b"", first.read_bytes(), count=1)
    first.rename(home / "mail/INBOX/cur" / (first.name.partition(":")[0] + ":2,FS"))
    (home / "mail/INBOX/new/1.local.host").write_bytes(with_lf(simple("written here")))
    run(command, home)
    after, flags = mailbox.messages(), mailbox.flags()
    [uid] = [uid for uid, octets in after.items() if with_lf(octets) == content]
    assert flags[uid] >= {b"\\Flagged", b"\\Seen"}
    assert len(after) == len(before) + 1
    assert any(octets.endswith(b"Subject: written here\r\n") or b"written here" in octets for octets in after.values())

    tree = _tree(home)
    run(command, home)
    assert _tree(home) == tree
    assert mailbox.flags() == flags
    assert mailbox.messages() == after


def _files(home: Path) -> list[Path]:
    inbox = home / "mail/INBOX"
    return sorted([*(inbox / "cur").iterdir(), *(inbox / "new").iterdir()])


def _tree(home: Path) -> dict[str, bytes]:
    """Every file of the local side and of mbsync's own state."""
    files = [path for name in ("mail", "state") for path in (home / name).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}
