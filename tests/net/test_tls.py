"""Contexts by handshakes in memory; certificates by reading them back."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pillarbox.net.supervisor import user_name
from pillarbox.net.tls import (
    ServerTls,
    TlsTrouble,
    client_context,
    describe,
    ensure_self_signed,
    make_self_signed,
    read_certificate,
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem"
    assert ensure_self_signed(certificate, key, ["mail.pillarbox.test"], time.time())
    return certificate, key


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake over memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    done = [False, False]
    while not all(done):
        for i, side in enumerate((theirs, ours)):
            try:
                side.do_handshake()
                done[i] = True
            except ssl.SSLWantReadError:
                continue
    return ours, theirs


def test_self_signed_is_for_its_names_and_loopback_and_the_key_is_private(files: tuple[Path, Path]) -> None:
    certificate, key = files
    read = read_certificate(certificate)
    assert read.names == ("mail.pillarbox.test", "localhost", "127.0.0.1", "::1")
    assert read.not_after_s - time.time() > 397 * 86400
    assert read.is_self_signed and read.covers("MAIL.pillarbox.test") and not read.covers("pillarbox.test")
    assert os.stat(key).st_mode & 0o777 == 0o600
    shake_hands(ServerTls(*files).context, client_context(True, certificate), "mail.pillarbox.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ServerTls(*files).context, client_context(True, certificate), "other.test")


def test_certificates_are_made_again_only_when_needed(files: tuple[Path, Path]) -> None:
    before = files[1].read_bytes()
    assert not ensure_self_signed(*files, ["mail.pillarbox.test"], time.time())
    assert files[1].read_bytes() == before
    assert ensure_self_signed(*files, ["mail.pillarbox.test"], time.time() + 800 * 86400)  # it ends soon
    assert ensure_self_signed(*files, ["mail.pillarbox.test", "new.test"], time.time())
    files[1].write_bytes(before)  # of another certificate: as after a crash between the two files
    assert ensure_self_signed(*files, ["new.test"], time.time())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_case_091_old_versions_are_refused(files: tuple[Path, Path]) -> None:
    server = ServerTls(*files).context
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        client = client_context(False)
        client.set_ciphers("ALL:@SECLEVEL=0")
        client.minimum_version = client.maximum_version = version
        with pytest.raises(ssl.SSLError):
            shake_hands(server, client, "x.test")
    weak = client_context(False)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("RSA:!ECDHE")  # no forward secrecy
    with pytest.raises(ssl.SSLError):
        shake_hands(server, weak, "x.test")
    assert server.options & ssl.OP_NO_RENEGOTIATION and server.options & ssl.OP_NO_COMPRESSION
    ours, _ = shake_hands(server, client_context(False), "x.test")
    assert ours.version() == "TLSv1.3" and describe(ours).startswith("TLSv1.3 TLS_")
    old = client_context(False)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(ServerTls(*files, min_version="1.3").context, old, "x.test")


def test_case_092_any_server_name_gets_the_same_certificate(files: tuple[Path, Path]) -> None:
    server = ServerTls(*files).context
    seen = {
        shake_hands(server, client_context(False), name)[1].getpeercert(binary_form=True)
        for name in (None, "mail.pillarbox.test", *(f"n{i}.test" for i in range(20)))
    }
    assert len(seen) == 1


def test_reload_changes_new_handshakes_and_a_bad_file_changes_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    tls = ServerTls(*files)
    client = client_context(False)
    first = shake_hands(tls.context, client, "a.test")[1].getpeercert(binary_form=True)
    certificate, key = tmp_path / "new.pem", tmp_path / "new.key"
    made, private = make_self_signed(["new.test"], time.time())
    certificate.write_bytes(made)
    key.write_bytes(b"garbage")
    with pytest.raises(TlsTrouble):
        tls.reload(certificate, key)
    assert shake_hands(tls.context, client, "a.test")[1].getpeercert(binary_form=True) == first
    key.write_bytes(private)
    tls.reload(certificate, key)
    now = shake_hands(tls.context, client, None)[1].getpeercert(binary_form=True)
    assert now and ssl.DER_cert_to_PEM_cert(now).encode() == made


def test_unusable_files_are_trouble(tmp_path: Path) -> None:
    with pytest.raises(TlsTrouble):
        read_certificate(tmp_path / "none")
    with pytest.raises(TlsTrouble):
        ServerTls(tmp_path / "none", tmp_path / "none")


def test_what_is_wrong_with_the_files_is_told_with_the_setting(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other, garbage, none, locked = (tmp_path / name for name in ("other.key", "garbage", "none", "locked.key"))
    other.write_bytes(make_self_signed(["other.test"], time.time())[1])
    garbage.write_bytes(b"garbage")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"password")
    locked.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    for first, second, words in (
        (none, key, f"tls.certificate: {none}: No such file or directory"),
        (garbage, key, f"tls.certificate: {garbage} is no PEM certificate"),
        (certificate, none, f"tls.key: {none}: No such file or directory"),
        (certificate, garbage, f"tls.key: {garbage} is no PEM private key"),
        (certificate, certificate, f"tls.certificate: {certificate} (there is no tls.key) is no PEM private key"),
        (certificate, locked, f"tls.key: {locked} is encrypted; a private key without a password is wanted"),
        (certificate, other, f"tls.key: {other} does not belong to the certificate {certificate}"),
    ):
        with pytest.raises(TlsTrouble) as caught:
            ServerTls(first, second)
        assert str(caught.value) == words


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_key_that_the_server_may_not_read_is_told_with_the_user() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        os.chmod(name, 0o755)
        certificate, key = Path(name) / "cert.pem", Path(name) / "key.pem"
        ensure_self_signed(certificate, key, ["mail.pillarbox.test"], time.time())
        os.seteuid(65534)
        try:
            with pytest.raises(TlsTrouble, match=rf"tls\.key: {key} must be readable by {user_name(65534)}"):
                ServerTls(certificate, key)
        finally:
            os.seteuid(0)
