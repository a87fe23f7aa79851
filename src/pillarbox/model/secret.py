"""The one verifier an account has: the SCRAM-SHA-256 stored and server key, which PLAIN is checked against too.

An argon2 hash beside a weak SCRAM verifier would protect nobody, so there is one slow verifier for both
(docs/decisions/credentials.md). Source: RFC 5802 §3, RFC 7677 §4, RFC 4013 (SASLprep).
"""

from __future__ import annotations

import hashlib
import hmac
import stringprep
import unicodedata
from dataclasses import dataclass
from typing import Final

DEFAULT_ITERATIONS: Final = 600_000
MAX_ITERATIONS: Final = 5_000_000
"""More than this from a database is refused (case 188)."""
SALT_OCTETS: Final = 16
MAX_PASSWORD_OCTETS: Final = 1024
"""Longer passwords are refused before any hashing (case 185)."""


@dataclass(frozen=True, slots=True)
class Secret:
    """`stored_key` and `server_key` are 32 octets each; `salt` 16."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


def make_secret(password: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> Secret:
    """The verifier for a password. Slow on purpose. Raises ValueError for a password that is not allowed."""
    return _secret_from(hashlib.pbkdf2_hmac("sha256", prepare_password(password), salt, iterations), salt, iterations)


def secret_matches(secret: Secret, password: str) -> bool:
    """Is this the password? Slow on purpose (releases the GIL); equal time for right and wrong."""
    try:
        prepared = prepare_password(password)
    except ValueError:
        return False
    salted = hashlib.pbkdf2_hmac("sha256", prepared, secret.salt, min(secret.iterations, MAX_ITERATIONS))
    made = _secret_from(salted, secret.salt, secret.iterations)
    return hmac.compare_digest(made.stored_key, secret.stored_key)


def fake_secret(username: str, key: bytes, iterations: int) -> Secret:
    """The verifier of a user who does not exist: the same on every try, and no password fits it (case 184).

    `key` belongs to this installation, so that nobody else can tell the salt from a real one; `iterations` are those of
    real verifiers. Source: RFC 5802 §9, on leaking which users exist.
    """
    name = username.encode("utf-8", "surrogatepass")
    salt, stored, server = (hmac.digest(key, label + name, "sha256") for label in (b"salt:", b"stored:", b"server:"))
    return Secret(salt[:SALT_OCTETS], iterations, stored, server)


def prepare_password(password: str) -> bytes:
    """SASLprep of a password, as UTF-8. Raises ValueError: empty, over 1,024 octets, or prohibited characters."""
    if len(password) > MAX_PASSWORD_OCTETS:
        raise ValueError("a password has at most 1,024 octets")
    prepared = saslprep(password).encode()
    if not prepared or len(prepared) > MAX_PASSWORD_OCTETS:
        raise ValueError("a password has 1 to 1,024 octets")
    return prepared


def saslprep(text: str) -> str:
    """The stringprep profile for names and passwords. Raises ValueError. Source: RFC 4013 §2."""
    if text.isascii():
        if not text.isprintable():
            raise ValueError("control characters are not allowed")
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    for char in normal:
        if _is_prohibited(char):
            raise ValueError(f"the character U+{ord(char):04X} is not allowed")
    if any(stringprep.in_table_d1(c) for c in normal) and (
        any(stringprep.in_table_d2(c) for c in normal)
        or not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1]))
    ):
        raise ValueError("left-to-right and right-to-left characters are mixed")
    return normal


def _is_prohibited(char: str) -> bool:
    return (
        stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
        or stringprep.in_table_a1(char)
    )


def _secret_from(salted: bytes, salt: bytes, iterations: int) -> Secret:
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return Secret(salt, iterations, hashlib.sha256(client_key).digest(), server_key)
