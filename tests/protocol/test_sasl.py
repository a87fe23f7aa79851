"""SASL exchanges and SCRAM arithmetic, against the examples of the standards and against each other."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.model.errors import PeerError
from pillarbox.model.secret import fake_secret, make_secret, saslprep, secret_matches
from pillarbox.protocol.sasl import (
    Authenticated,
    Challenge,
    CheckPassword,
    GetVerifier,
    LoginClient,
    LoginExchange,
    PlainClient,
    PlainExchange,
    Reason,
    Rejected,
    SaslClient,
    ScramClient,
    ScramExchange,
    Step,
    decode_base64,
    new_exchange,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = make_secret("pencil", SALT, 4096)
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"


def test_scram_example_of_rfc_7677_server_side() -> None:
    exchange = ScramExchange(SERVER_NONCE)
    assert exchange.begin(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == GetVerifier("user")
    assert exchange.verifier(PENCIL) == Challenge(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert exchange.receive(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    ) == Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert exchange.receive(b"") == Authenticated("user", "")


def test_scram_example_of_rfc_7677_client_side() -> None:
    client = ScramClient("user", "pencil", CLIENT_NONCE)
    assert client.begin() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    answer = client.receive(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert answer.endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert not client.is_satisfied()
    assert client.receive(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    assert client.is_satisfied()


def test_plain_example_of_rfc_4616() -> None:
    assert PlainExchange().begin(b"\0tim\0tanstaaftanstaaf") == CheckPassword("tim", "", "tanstaaftanstaaf")
    assert PlainExchange().begin(b"Ursel\0Kurt\0xipj3plmq") == CheckPassword("Kurt", "Ursel", "xipj3plmq")


def test_plain_without_initial_response_asks_with_an_empty_challenge() -> None:
    exchange = PlainExchange()
    assert exchange.begin(None) == Challenge(b"")
    assert exchange.receive(b"\0tim\0secret") == CheckPassword("tim", "", "secret")
    assert exchange.checked(True) == Authenticated("tim", "")


@pytest.mark.parametrize("response", [b"", b"tim", b"\0tim", b"\0tim\0a\0b", b"\0\xff\0a", b"\0a\x01b\0x"])
def test_malformed_plain_responses(response: bytes) -> None:
    assert PlainExchange().begin(response) == Rejected(Reason.MALFORMED)


def test_case_185_huge_and_strange_passwords_are_never_handed_on() -> None:
    for password in (b"", b"x" * 1025, b"x" * 1_000_000, b"\xff"):
        assert PlainExchange().begin(b"\0ada\0" + password) == Rejected(Reason.CREDENTIALS)
    with pytest.raises(ValueError):
        make_secret("x" * 1025, SALT, 4096)
    assert not secret_matches(PENCIL, "x" * 1_000_000)
    assert not secret_matches(PENCIL, "")


def test_login_asks_twice() -> None:
    exchange = LoginExchange()
    assert exchange.begin(None) == Challenge(b"Username:")
    assert exchange.receive(b"ada") == Challenge(b"Password:")
    assert exchange.receive(b"secret") == CheckPassword("ada", "", "secret")
    assert exchange.checked(False) == Rejected(Reason.CREDENTIALS)


def test_login_takes_the_name_as_initial_response() -> None:
    assert LoginExchange().begin(b"ada") == Challenge(b"Password:")


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"p=tls-unique,,n=user,r=abc",
        b"n,,m=ext,n=user,r=abc",
        b"n,,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=us=er,r=abc",
        b"n,b=x,n=user,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=user,r=a\x00b",
    ],
)
def test_malformed_scram_first_messages(first: bytes) -> None:
    assert ScramExchange("nonce").begin(first) == Rejected(Reason.MALFORMED)


def test_scram_refuses_changed_binding_nonce_and_proof() -> None:
    def after_first() -> ScramExchange:
        exchange = ScramExchange("server")
        exchange.begin(b"n,,n=user,r=client")
        exchange.verifier(PENCIL)
        return exchange

    proof = base64.b64encode(bytes(32))
    assert after_first().receive(b"c=eSws,r=clientserver,p=" + proof) == Rejected(Reason.MALFORMED)
    assert after_first().receive(b"c=biws,r=client,p=" + proof) == Rejected(Reason.MALFORMED)
    assert after_first().receive(b"c=biws,r=clientserver,p=!!") == Rejected(Reason.MALFORMED)
    assert after_first().receive(b"c=biws,r=clientserver,p=AAAA") == Rejected(Reason.CREDENTIALS)
    assert after_first().receive(b"c=biws,r=clientserver,p=" + proof) == Rejected(Reason.CREDENTIALS)


def test_case_188_a_replayed_scram_proof_fails_and_iterations_are_capped() -> None:
    exchange = ScramExchange("another")
    exchange.begin(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    exchange.verifier(PENCIL)
    recorded = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert exchange.receive(recorded) == Rejected(Reason.MALFORMED)
    client = ScramClient("user", "pencil", "abc")
    with pytest.raises(PeerError):
        client.receive(b"r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=999999999")
    with pytest.raises(PeerError):  # a weak count would let a false server guess the password (RFC 7677 §4)
        client.receive(b"r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1")


def test_scram_client_refuses_a_server_that_does_not_know_us() -> None:
    client = ScramClient("user", "pencil", "abc")
    client.receive(b"r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    with pytest.raises(PeerError):
        client.receive(b"v=AAAA")
    assert not client.is_satisfied()


def test_case_184_a_fake_secret_is_steady_fits_no_password_and_looks_real() -> None:
    fake = fake_secret("nobody", b"secret of this installation", 4096)
    assert fake == fake_secret("nobody", b"secret of this installation", 4096)
    assert fake != fake_secret("nobody2", b"secret of this installation", 4096)
    assert (len(fake.salt), fake.iterations, len(fake.stored_key)) == (len(SALT), 4096, 32)
    assert not secret_matches(fake, "pencil")


def test_a_verifier_serves_plain_passwords_too() -> None:
    assert secret_matches(PENCIL, "pencil")
    assert not secret_matches(PENCIL, "Pencil")


@pytest.mark.parametrize(
    ("text", "prepared"),
    [  # RFC 4013 §3
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("schlüssel", "schlüssel"),
    ],
)
def test_saslprep(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "a\u0000b", "\ud800"])
def test_saslprep_prohibits(text: str) -> None:
    with pytest.raises(ValueError):
        saslprep(text)


@pytest.mark.parametrize("text", [b"a", b"ab==cd==", b"a b=", b"YQ", b"YQ=", b"\xff\xff\xff\xff", b"YWI=\n"])
def test_broken_base64(text: bytes) -> None:
    assert decode_base64(text) is None


def converse(client: SaslClient, name: str, password: str) -> Step:
    """Run a client against the server's side; the server knows `ada` with `password`."""
    exchange = new_exchange(client.name, "srvnonce")
    assert exchange is not None
    step = exchange.begin(client.begin())
    for _ in range(8):
        match step:
            case Challenge(data):
                try:
                    step = exchange.receive(client.receive(data))
                except PeerError:
                    return Rejected(Reason.CREDENTIALS)
            case CheckPassword(authcid, _, given_password):
                step = exchange.checked(authcid == name and given_password == password)
            case GetVerifier(username):
                known = make_secret(password, SALT, 4096) if username == name else fake_secret(username, b"s", 4096)
                step = exchange.verifier(known)
            case _:
                return step
    raise AssertionError("the exchange does not end")


@pytest.mark.parametrize("kind", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    ("name", "password", "good"),
    [("ada", "s3cret", True), ("ada", "wrong", False), ("eve", "s3cret", False), ("a,d=a", "s3cret", False)],
)
def test_client_and_server_agree(kind: str, name: str, password: str, good: bool) -> None:
    clients: dict[str, SaslClient] = {
        "PLAIN": PlainClient(name, password),
        "LOGIN": LoginClient(name, password),
        "SCRAM-SHA-256": ScramClient(name, password, "clinonce"),
    }
    end = converse(clients[kind], "ada", "s3cret")
    assert end == (Authenticated("ada", "") if good else Rejected(Reason.CREDENTIALS))


@settings(max_examples=100, deadline=None)
@given(mechanism=st.sampled_from(["PLAIN", "LOGIN", "SCRAM-SHA-256"]), responses=st.lists(st.binary(max_size=60)))
def test_nothing_a_client_says_raises(mechanism: str, responses: list[bytes]) -> None:
    exchange = new_exchange(mechanism, "nonce")
    assert exchange is not None
    exchange.begin(None)
    for response in responses:
        if isinstance(exchange.receive(response), GetVerifier):
            exchange.verifier(PENCIL)


@settings(max_examples=100, deadline=None)
@given(name=st.text(min_size=1, max_size=40))
def test_any_name_that_can_be_prepared_survives_scram_escaping(name: str) -> None:
    try:
        prepared = saslprep(name)
    except ValueError:
        return
    first = ScramClient(name, "x", "abc").begin()
    assert first is not None
    step = ScramExchange("def").begin(first)
    assert step == (GetVerifier(saslprep(prepared)) if prepared else Rejected(Reason.MALFORMED))
