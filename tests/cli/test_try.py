"""`pillarbox try`: two users with mail, printed passwords, and a second start that keeps everything."""

from __future__ import annotations

import imaplib
import re
import signal
import socket
import ssl
from pathlib import Path

import pytest

from pillarbox.cli.samples import samples
from pillarbox.cli.trial import PORTS
from pillarbox.message.scan import scan
from pillarbox.model.address import Address

from .server import started


def free_offset() -> int:
    """Added to the usual ports, it gives ports of which none is taken."""
    for offset in range(20_000, 50_000, 1_000):
        try:
            for _, _, port in PORTS:
                socket.create_server(("127.0.0.1", port + offset)).close()
        except OSError:
            continue
        return offset
    raise AssertionError("no free ports")


def subjects(port: int, password: str) -> list[str]:
    imap = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=ssl._create_unverified_context())
    imap.login("ada@pillarbox.test", password)
    imap.select()
    _, found = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    imap.logout()
    return [item[1].decode().strip() for item in found if isinstance(item, tuple)]


def test_a_second_start_keeps_mail_and_password(tmp_path: Path) -> None:
    offset = free_offset()
    words = ("--home", str(tmp_path / "try"), "try", "--port-offset", str(offset))
    with started(*words) as server:
        said = server.until("Ctrl-C stops it.")
        password = re.findall(r"password +(\S+)", said)[0]
        first = subjects(2993 + offset, password)
        assert len(first) == 5
        with started(*words, "--password", "another") as second:
            second.until("serves")  # and neither password nor configuration are touched
        assert server.stop(signal.SIGINT) == 0
    with started(*words) as server:
        said = server.until("Ctrl-C stops it.")
        assert re.findall(r"password +(\S+)", said) == [password]
        assert subjects(2993 + offset, password) == first
        assert server.stop(signal.SIGINT) == 0
    with started(*words, "--password", "a new one") as server:
        server.until("Ctrl-C stops it.")
        assert subjects(2993 + offset, "a new one") == first
        assert server.stop(signal.SIGINT) == 0


def test_a_port_that_is_taken_leads_to_the_offset(tmp_path: Path) -> None:
    offset = free_offset()
    words = ("--home", str(tmp_path / "try"), "try", "--port-offset", str(offset))
    with socket.create_server(("127.0.0.1", 2110 + offset)), started(*words) as server:
        said = server.until("--port-offset N")
        assert "cannot listen on" in said and str(2110 + offset) in said


@pytest.mark.parametrize("user", ["ada", "bob"])
def test_samples_are_mail_without_defects(user: str) -> None:
    for sample in samples(Address(user, "pillarbox.test"), 1_800_000_000.0):
        assert b"\n" not in sample.octets.replace(b"\r\n", b"") and b"\r" not in sample.octets.replace(b"\r\n", b"")
        assert not scan(sample.octets).defects
