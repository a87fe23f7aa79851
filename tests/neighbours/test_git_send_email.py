"""git send-email: a patch made in a new repository, by submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Mailbox
from .mailhost import MailHost, User
from .programs import need, run


@pytest.mark.parametrize("encryption", ["tls", "ssl"])
def test_a_patch_is_sent_and_applies_again(
    server: MailHost, user: User, other: User, mailbox: Mailbox, home: Path, encryption: str
) -> None:
    git = need("git")
    if not Path("/usr/lib/git-core/git-send-email").exists():
        need("git-send-email")
    repository = home / "repository"
    who = ["-c", f"user.name=Ünal Tester {encryption}", "-c", f"user.email={other.address}"]
    run([git, "init", "-q", "-b", "main", str(repository)], home)
    for number, text in enumerate(["one\n", "one\ntwo ü\n.\nFrom here\n"]):
        (repository / "file").write_text(text)
        run([git, "add", "file"], home, cwd=repository)
        run([git, *who, "commit", "-q", "-m", f"step {number} {encryption}"], home, cwd=repository)
    run([git, "format-patch", "-q", "-1", "-o", str(home / "patches")], home, cwd=repository)
    [patch] = (home / "patches").glob("*.patch")
    port = server.submission if encryption == "tls" else server.submissions
    command = [git, "send-email", f"--from={other.address}", f"--to={user.address}", "--confirm=never"]
    command += ["--smtp-server=localhost", f"--smtp-server-port={port}", f"--smtp-encryption={encryption}"]
    command += [f"--smtp-user={other.address}", f"--smtp-pass={other.password}", "--suppress-cc=all"]
    command += [f"--smtp-ssl-cert-path={server.authority}", "--smtp-auth=PLAIN", "--8bit-encoding=UTF-8", str(patch)]
    run(command, home, cwd=repository)
    message = mailbox.wait_for(f"[PATCH] step 1 {encryption}")
    run([git, "checkout", "-q", "-b", "again", "HEAD~1"], home, cwd=repository)
    run([git, *who, "am", "-q"], home, stdin=message.replace(b"\r\n", b"\n"), cwd=repository)
    assert (repository / "file").read_text() == "one\ntwo ü\n.\nFrom here\n"
