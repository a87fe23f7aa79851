"""Proofs of SCRAM: the right password's alone is good, and no server makes a client raise anything but PeerError."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.model.errors import PeerError
from pillarbox.model.secret import make_secret, prepare_password
from pillarbox.protocol.sasl import LoginClient, PlainClient, SaslClient, ScramClient
from pillarbox.protocol.scram import client_proof, proof_is_good, salted_password, server_signature

PASSWORDS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F, exclude_categories=["Cc"]), max_size=12)
SALT = b"0123456789abcdef"
KNOWN = [make_secret(password, SALT, 4096) for password in ("pencil", "other")]
PROOFS = [salted_password(password, SALT, 4096) for password in ("pencil", "other")]


@settings(max_examples=200, deadline=None)
@given(message=st.binary(max_size=100), other=st.binary(max_size=100), flips=st.integers(1, (1 << 256) - 1))
def test_a_proof_is_good_for_one_password_and_one_conversation(message: bytes, other: bytes, flips: int) -> None:
    proof, signature = client_proof(PROOFS[0], message)
    assert proof_is_good(KNOWN[0], message, proof) and server_signature(KNOWN[0], message) == signature
    assert not proof_is_good(KNOWN[1], message, proof)
    assert proof_is_good(KNOWN[0], other, proof) == (message == other)
    assert not proof_is_good(KNOWN[0], message, (int.from_bytes(proof, "big") ^ flips).to_bytes(32, "big"))


@settings(max_examples=100, deadline=None)
@given(octets=st.binary(max_size=80))
def test_any_octets_are_a_proof_or_not(octets: bytes) -> None:
    assert not proof_is_good(KNOWN[0], b"message", octets)


@settings(max_examples=40, deadline=None)
@given(right=PASSWORDS, tried=PASSWORDS)
def test_passwords_that_are_prepared_alike_are_one(right: str, tried: str) -> None:
    try:
        wanted, given_ = prepare_password(right), prepare_password(tried)
        salted = salted_password(tried, SALT, 4096)
    except (ValueError, PeerError):
        return
    proof, _ = client_proof(salted, b"message")
    assert proof_is_good(make_secret(right, SALT, 4096), b"message", proof) == (wanted == given_)


NONCES = st.sampled_from(["abc", "abcdef", "abc,", "x", ""])
SERVER_WORDS = st.binary(max_size=60) | st.builds(
    lambda nonce, salt, count, more: b"r=%s,s=%s,i=%s%s" % (nonce.encode(), salt, count, more),
    NONCES,
    st.binary(max_size=12).map(base64.b64encode) | st.binary(max_size=6),
    st.sampled_from([b"4096", b"0", b"-1", b"4095", b"999999999999", b"1e3", b"", b"\xb2"]),
    st.sampled_from([b"", b",m=x", b",v=AAAA"]),
)


@settings(max_examples=200, deadline=None)
@given(challenges=st.lists(SERVER_WORDS | st.binary(max_size=20).map(lambda octets: b"v=" + octets), max_size=4))
def test_no_server_makes_a_client_raise_anything_else(challenges: list[bytes]) -> None:
    clients: list[SaslClient] = [PlainClient("ada", "x"), LoginClient("ada", "x"), ScramClient("ada", "x", "abc")]
    for client in clients:
        client.begin()
        try:
            for challenge in challenges:
                client.receive(challenge)
        except PeerError:
            continue
        if isinstance(client, ScramClient):
            assert not client.is_satisfied()  # nobody proved to know the verifier


@pytest.mark.parametrize("count", [0, 1, 4095, 5_000_001, 10**9])
def test_case_188_iterations_out_of_bounds(count: int) -> None:
    with pytest.raises(PeerError):
        salted_password("x", SALT, count)
