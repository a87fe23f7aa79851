"""SCRAM-SHA-256 without the conversation: verifiers, proofs, SASLprep. `sasl.py` holds the exchanges.

Source: RFC 5802, RFC 7677 (SHA-256), RFC 4013 (SASLprep). One verifier serves SCRAM and plain passwords alike.
Random salts and nonces are handed in. PBKDF2 takes milliseconds: callers run `make_verifier` and `check_password`
in a thread (hashlib releases the interpreter's lock).
"""

from __future__ import annotations

import hashlib
import hmac
import stringprep
import unicodedata
from dataclasses import dataclass
from typing import Final

from pillarbox.model.errors import PeerError

MAX_PASSWORD_OCTETS: Final = 1024
"""Longer passwords are refused before any hashing (case 185)."""
MIN_ITERATIONS: Final = 4096
"""RFC 7677 §4."""
MAX_ITERATIONS: Final = 1_000_000
"""More is refused, whether it comes from a peer or from the directory (case 188)."""

_DIGEST: Final = "sha256"


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What is stored instead of a password: `stored_key` and `server_key` are 32 octets. Source: RFC 5802 §3."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


class BadIterations(PeerError):
    """An iteration count outside of what we compute."""


def saslprep(text: str) -> str:
    """Prepare a user name or password for comparison; raises PeerError if a character in it is prohibited.

    Code points that Unicode 3.2 does not know are let through (as in a query string), so that new scripts and
    emoji work. Source: RFC 4013 §2.
    """
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if c == " " or not stringprep.in_table_b1(c)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    if any(_is_prohibited(c) for c in prepared):
        raise PeerError("SASLprep: prohibited character")
    if any(stringprep.in_table_d1(c) for c in prepared):  # RFC 3454 §6: right-to-left text
        if any(stringprep.in_table_d2(c) for c in prepared):
            raise PeerError("SASLprep: mixed direction")
        if not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])):
            raise PeerError("SASLprep: right-to-left text must begin and end so")
    return prepared


def _is_prohibited(c: str) -> bool:
    """RFC 4013 §2.3."""
    return (
        stringprep.in_table_c12(c)
        or stringprep.in_table_c21_c22(c)
        or stringprep.in_table_c3(c)
        or stringprep.in_table_c4(c)
        or stringprep.in_table_c5(c)
        or stringprep.in_table_c6(c)
        or stringprep.in_table_c7(c)
        or stringprep.in_table_c8(c)
        or stringprep.in_table_c9(c)
    )


def prepare_password(password: str) -> bytes:
    """The octets that are hashed. Raises PeerError if empty, longer than 1 KiB, or holding prohibited characters."""
    if len(password) > MAX_PASSWORD_OCTETS:
        raise PeerError("password too long")
    prepared = saslprep(password).encode("utf-8", "surrogatepass")
    if not 0 < len(prepared) <= MAX_PASSWORD_OCTETS:
        raise PeerError("password empty or too long")
    return prepared


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """Hi() of RFC 5802 §2.2: 32 octets. Raises PeerError for a password or count we do not take."""
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise BadIterations(f"{iterations} iterations")
    return hashlib.pbkdf2_hmac(_DIGEST, prepare_password(password), salt, iterations)


def make_verifier(password: str, salt: bytes, iterations: int) -> ScramVerifier:
    """The verifier to store for this password. Raises PeerError for a password that cannot be used."""
    salted = salted_password(password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", _DIGEST)
    return ScramVerifier(
        salt,
        iterations,
        stored_key=hashlib.sha256(client_key).digest(),
        server_key=hmac.digest(salted, b"Server Key", _DIGEST),
    )


def check_password(password: str, verifier: ScramVerifier) -> bool:
    """True if the password is the one this verifier was made from; compared in constant time, never raises."""
    try:
        salted = salted_password(password, verifier.salt, verifier.iterations)
    except PeerError:
        return False
    client_key = hmac.digest(salted, b"Client Key", _DIGEST)
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)


def fake_verifier(
    username: str, secret: bytes, iterations: int = MIN_ITERATIONS, salt_octets: int = 16
) -> ScramVerifier:
    """A verifier for a user who does not exist: the same on every try, and no password fits it (case 184).

    `secret` belongs to this installation, so that nobody else can tell the salt from a real one. `iterations` and
    `salt_octets` must be those of real verifiers. Source: RFC 5802 §9, on leaking which users exist.
    """
    name = username.encode("utf-8", "surrogatepass")
    return ScramVerifier(
        hmac.digest(secret, b"salt\0" + name, "sha512")[:salt_octets],
        iterations,
        stored_key=hmac.digest(secret, b"stored\0" + name, _DIGEST),
        server_key=hmac.digest(secret, b"server\0" + name, _DIGEST),
    )


def client_proof(salted: bytes, auth_message: bytes) -> tuple[bytes, bytes]:
    """(proof to send, server signature to expect), 32 octets each. Source: RFC 5802 §3."""
    client_key = hmac.digest(salted, b"Client Key", _DIGEST)
    signature = hmac.digest(hashlib.sha256(client_key).digest(), auth_message, _DIGEST)
    server_key = hmac.digest(salted, b"Server Key", _DIGEST)
    return _xor(client_key, signature), hmac.digest(server_key, auth_message, _DIGEST)


def proof_is_good(verifier: ScramVerifier, auth_message: bytes, proof: bytes) -> bool:
    """Check a client's proof against a verifier, in constant time. Source: RFC 5802 §3."""
    if len(proof) != len(verifier.stored_key):
        return False
    signature = hmac.digest(verifier.stored_key, auth_message, _DIGEST)
    return hmac.compare_digest(hashlib.sha256(_xor(proof, signature)).digest(), verifier.stored_key)


def server_signature(verifier: ScramVerifier, auth_message: bytes) -> bytes:
    """What proves to the client that we know its verifier. Source: RFC 5802 §3."""
    return hmac.digest(verifier.server_key, auth_message, _DIGEST)


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")
