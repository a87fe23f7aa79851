"""Verifiers for PLAIN and SCRAM. Source: RFC 7677 §3 (its example), RFC 4013 §3."""

import base64
import hashlib
import hmac

import pytest

from pillarbox.model.secret import make_secret, saslprep, secret_matches


def test_the_example_of_rfc_7677():
    secret = make_secret("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    said = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    signature = hmac.digest(secret.server_key, said, "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(a ^ b for a, b in zip(proof, hmac.digest(secret.stored_key, said, "sha256"), strict=True))
    assert hashlib.sha256(client_key).digest() == secret.stored_key


def test_the_right_password_and_only_that():
    secret = make_secret("p\u00e4ss", b"s" * 16, 100)
    assert secret_matches(secret, "p\u00e4ss")
    assert secret_matches(secret, "pa\u0308ss")  # NFKC makes them one
    assert not secret_matches(secret, "pass")
    assert not secret_matches(secret, "")


@pytest.mark.parametrize(
    ("text", "prepared"), [("I\u00adX", "IX"), ("user", "user"), ("\u00aa", "a"), ("\u2168", "IX")]
)
def test_saslprep_examples_of_rfc_4013(text, prepared):
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\x07", "\u0627\u0031"])
def test_saslprep_prohibits(text):
    with pytest.raises(ValueError):
        saslprep(text)


@pytest.mark.parametrize("password", ["", "x" * 1025, "ä" * 600, "a\0b"])
def test_case_185_refused_before_hashing(password):
    with pytest.raises(ValueError):
        make_secret(password, b"s" * 16, 10**9)
