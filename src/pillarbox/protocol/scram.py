"""SCRAM-SHA-256 without the conversation: proofs and signatures.

`sasl.py` holds the exchanges, `model/secret.py` the verifier. Nonces are handed in. Salting a password takes up to a
second at the counts that are usual now: callers do it in a thread (hashlib releases the interpreter's lock).
Source: RFC 5802, RFC 7677 (SHA-256).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, TypeAlias

from pillarbox.model.errors import PeerError
from pillarbox.model.secret import MAX_ITERATIONS, Secret, prepare_password

ScramVerifier: TypeAlias = Secret
"""What is stored instead of a password. Source: RFC 5802 §3."""
MIN_ITERATIONS: Final = 4096
"""RFC 7677 §4."""

_DIGEST: Final = "sha256"


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """Hi() of RFC 5802 §2.2: 32 octets. Raises PeerError for a password or count we do not take (case 188)."""
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise PeerError(f"{iterations} iterations")
    try:
        prepared = prepare_password(password)
    except ValueError as error:
        raise PeerError(f"password: {error}") from error
    return hashlib.pbkdf2_hmac(_DIGEST, prepared, salt, iterations)


def client_proof(salted: bytes, auth_message: bytes) -> tuple[bytes, bytes]:
    """(proof to send, server signature to expect), 32 octets each. Source: RFC 5802 §3."""
    client_key = hmac.digest(salted, b"Client Key", _DIGEST)
    signature = hmac.digest(hashlib.sha256(client_key).digest(), auth_message, _DIGEST)
    server_key = hmac.digest(salted, b"Server Key", _DIGEST)
    return _xor(client_key, signature), hmac.digest(server_key, auth_message, _DIGEST)


def proof_is_good(verifier: Secret, auth_message: bytes, proof: bytes) -> bool:
    """Check a client's proof against a verifier, in constant time. Source: RFC 5802 §3."""
    if len(proof) != len(verifier.stored_key):
        return False
    signature = hmac.digest(verifier.stored_key, auth_message, _DIGEST)
    return hmac.compare_digest(hashlib.sha256(_xor(proof, signature)).digest(), verifier.stored_key)


def server_signature(verifier: Secret, auth_message: bytes) -> bytes:
    """What proves to the client that we know its verifier. Source: RFC 5802 §3."""
    return hmac.digest(verifier.server_key, auth_message, _DIGEST)


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")
