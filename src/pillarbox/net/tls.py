"""TLS contexts for both sides, self-signed certificates, and what a certificate file says of itself.

TLS 1.2 or later with ephemeral keys, no renegotiation, no compression, no early data (OpenSSL gives none unless
asked). One certificate whatever name the client sends, so that names cost no memory (cases 91, 92).
Source: RFC 8996 (no TLS 1.0, 1.1), RFC 9325 (recommendations), RFC 8314 §7 (mail).
"""

from __future__ import annotations

import asyncio.sslproto
import contextlib
import datetime
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pillarbox.model.errors import Trouble
from pillarbox.net.supervisor import user_name

SERVER_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!eNULL:!MD5:!3DES:!DSS:!PSK"
"""For TLS 1.2. CBC suites stay, with ephemeral keys: to old senders the alternative would be clear text."""
SELF_SIGNED_DAYS: Final = 825
ASYNCIO_BUFFER_OCTETS: Final = 16 * 1024


class TlsTrouble(Trouble):
    """Certificate or key cannot be read, or do not belong together."""


class ServerTls:
    """The context that listeners hold for good; `reload` changes the certificate that new handshakes get.

    A reload builds a whole new context and switches to it, so that a bad file leaves the old certificate in use, and
    sessions in progress notice nothing (case 243).
    """

    def __init__(self, certificate: Path, key: Path, min_version: str = "1.2") -> None:
        """Raises TlsTrouble."""
        self._min_version = min_version
        self.context = _server_context(certificate, key, min_version)
        self._current = self.context

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            if self._current is not context:
                connection.context = self._current

        self.context.sni_callback = choose

    def reload(self, certificate: Path, key: Path) -> None:
        """Use these files from now on. Raises TlsTrouble, and then nothing has changed."""
        self._current = _server_context(certificate, key, self._min_version)


def _server_context(certificate: Path, key: Path, min_version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_SINGLE_ECDH_USE
    context.set_ciphers(SERVER_CIPHERS)
    context.num_tickets = 1
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise TlsTrouble(
            _what_is_wrong(certificate, key) or f"cannot use certificate {certificate} with key {key}: {error}"
        ) from error
    return context


def _what_is_wrong(certificate: Path, key: Path) -> str:
    """The setting, the file, and what is wanted; empty where both files are good by themselves and fit."""
    about_key = f"tls.key: {key}" if key != certificate else f"tls.certificate: {certificate} (there is no tls.key)"
    octets = []
    for about, path in ((f"tls.certificate: {certificate}", certificate), (about_key, key)):
        try:
            octets.append(path.read_bytes())
        except PermissionError:
            return f"{about} must be readable by {user_name(os.geteuid())}"
        except OSError as error:
            return f"{about}: {error.strerror}"
    try:
        first = x509.load_pem_x509_certificates(octets[0])[0]
    except ValueError:
        return f"tls.certificate: {certificate} is no PEM certificate"
    try:
        private = serialization.load_pem_private_key(octets[1], None)
    except TypeError:
        return f"{about_key} is encrypted; a private key without a password is wanted"
    except (ValueError, UnsupportedAlgorithm):
        return f"{about_key} is no PEM private key"
    if private.public_key() != first.public_key():
        return f"{about_key} does not belong to the certificate {certificate}"
    return ""


def _no_password() -> str:
    """An encrypted key must fail instead of asking on the terminal."""
    raise ValueError("the key file is encrypted")


def client_context(verify: bool, ca_file: Path | None = None) -> ssl.SSLContext:
    """For connections to other servers: certificates checked with host name, or taken as they are (opportunistic).

    Source: RFC 7435 (opportunistic security), RFC 6125 (host names).
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def describe(connection: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    """ "TLSv1.3 TLS_AES_256_GCM_SHA384" for logs and Received fields; empty in the clear."""
    cipher = connection.cipher() if connection else None
    return f"{connection.version()} {cipher[0]}" if connection and cipher else ""


def shrink_asyncio_buffers() -> None:
    """Make stock asyncio's TLS read in 16 KiB instead of holding 256 KiB for each session; uvloop needs nothing."""
    asyncio.sslproto.SSLProtocol.max_size = ASYNCIO_BUFFER_OCTETS


# --- certificates ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says: `names` are DNS names and IP addresses of subjectAltName."""

    names: tuple[str, ...]
    subject: str
    issuer: str
    not_before_s: float
    not_after_s: float

    @property
    def is_self_signed(self) -> bool:
        return self.subject == self.issuer

    def covers(self, host: str) -> bool:
        """True if the certificate is for this host name; one `*` label is honoured. Source: RFC 6125 §6.4.3."""
        host = host.lower()
        return any(
            name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:])
            for name in map(str.lower, self.names)
        )


def read_certificate(path: Path) -> Certificate:
    """The first certificate of a PEM file. Raises TlsTrouble."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = _alternative_names(certificate)
    except (OSError, ValueError) as error:
        raise TlsTrouble(f"cannot read certificate {path}: {error}") from error
    return Certificate(
        names,
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))


def ensure_self_signed(certificate: Path, key: Path, names: Iterable[str], now_s: float) -> bool:
    """Make both files unless they are there, belong together and are good for another 30 days; True if made.

    The key has mode 600 from its first moment. Raises OSError.
    """
    wanted = list(dict.fromkeys((*names, "localhost", "127.0.0.1", "::1")))
    with contextlib.suppress(TlsTrouble):
        _server_context(certificate, key, "1.2")
        found = read_certificate(certificate)
        if found.not_after_s > now_s + 30 * 86400 and set(found.names) >= set(wanted):
            return False
    chain_pem, key_pem = make_self_signed(wanted, now_s)
    _write_whole(key, key_pem, 0o600)
    _write_whole(certificate, chain_pem, 0o644)
    return True


def make_self_signed(names: Sequence[str], now_s: float, days: int = SELF_SIGNED_DAYS) -> tuple[bytes, bytes]:
    """(certificate, private key) as PEM for these host names and IP addresses: ECDSA with P-256."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    start = datetime.datetime.fromtimestamp(now_s, datetime.UTC) - datetime.timedelta(hours=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    made = builder.sign(private, hashes.SHA256())
    key_pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), key_pem


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode() if not name.isascii() else name)


def _write_whole(path: Path, octets: bytes, mode: int) -> None:
    """Write a file so that others see the old one or the new one, on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
