"""The client core, against our server core and against peers that answer from a table. Cases 18, 19, 116, 118–121."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.model.settings import Limits
from pillarbox.model.status import Status
from pillarbox.protocol.sasl import LoginClient, PlainClient, SaslClient, ScramClient
from pillarbox.protocol.smtp.client import (
    Broken,
    ClientEvent,
    ContentDue,
    Finished,
    HandshakeDue,
    Ready,
    SmtpClient,
    TlsUse,
)

from .play import Conversation, config_for

ADA = Recipient(Address("ada", "us.example"))
BOB = Recipient(Address("bob", "us.example"))
NOBODY = Recipient(Address("nobody", "us.example"))
FULL = Recipient(Address("full", "us.example"))
SENDER = Address("sender", "x.example")
TEXT = b"Subject: x\r\n\r\n.hello\r\n"


def envelope(*recipients: Recipient, sender: Address | None = SENDER) -> Envelope:
    return Envelope(sender, recipients)


class Peer:
    """Answers from a list: for each piece of client output that holds a line starting so, these octets."""

    def __init__(self, greeting: bytes, answers: list[tuple[bytes, bytes]]) -> None:
        self.greeting = greeting
        self.answers = answers
        self.heard = b""

    def say(self, octets: bytes) -> bytes:
        self.heard += octets
        out = b""
        for line in octets.splitlines(True):
            if self.answers and line.startswith(self.answers[0][0]):
                out += self.answers.pop(0)[1]
        return out


def send(
    client: SmtpClient, peer: Peer | Conversation, mail: Envelope, text: bytes = TEXT, eight: bool = False
) -> list[ClientEvent]:
    """Let the two talk until nothing more comes; one transaction."""
    events: list[ClientEvent] = []
    client.receive(peer.greeting if isinstance(peer, Peer) else bytes(peer.sent))
    while True:
        while (event := client.next_event()) is not None:
            events.append(event)
            match event:
                case HandshakeDue():
                    client.secured()
                case Ready():
                    client.begin(mail, len(text), eight, False)
                case ContentDue():
                    client.content(text[:7])
                    client.content(text[7:])
                    client.end_content()
        octets = client.take_output()
        if not octets:
            return events
        client.receive(peer.say(octets))


def outcomes(events: list[ClientEvent]) -> tuple[Outcome, ...]:
    return next(event for event in events if isinstance(event, Finished)).outcomes


@pytest.mark.parametrize("mode", ["mx", "lmtp"])
def test_client_and_server_pass_a_message(mode: str) -> None:
    talk = Conversation(config_for(mode, has_starttls=True) if mode == "mx" else config_for(mode))
    client = SmtpClient("client.example", "us", is_lmtp=mode == "lmtp")
    done = outcomes(send(client, talk, envelope(ADA, NOBODY, FULL)))
    assert talk.messages == [TEXT]
    assert isinstance(done[0], Delivered)
    assert done[1] == Failed(Status(5, 1, 1), "550 5.1.1 no such user here", "us")
    assert isinstance(done[2], Deferred if mode == "lmtp" else Delivered)
    assert client.is_ready
    client.begin(envelope(BOB), 3, False, False)
    client.receive(talk.say(client.take_output()))
    assert client.next_event() == ContentDue()
    client.content(b"a\r\n")
    client.end_content()
    client.receive(talk.say(client.take_output()))
    assert isinstance(client.next_event(), Finished)
    assert talk.messages == [TEXT, b"a\r\n"]


def test_a_refused_transaction_is_reset_before_the_next() -> None:
    talk = Conversation()
    client = SmtpClient("client.example", "us")
    assert isinstance(outcomes(send(client, talk, envelope(NOBODY)))[0], Failed)
    client.begin(envelope(ADA), 3, False, False)
    assert client.take_output().startswith(b"RSET\r\nMAIL FROM:")


@pytest.mark.parametrize(
    "sasl",
    [PlainClient("ada", "s3cret"), LoginClient("ada", "s3cret"), ScramClient("ada", "s3cret", "abc")],
    ids=lambda sasl: sasl.name,
)
def test_client_logs_in(sasl: SaslClient) -> None:
    talk = Conversation(config_for("submission"), is_secure=True)
    client = SmtpClient("client.example", "us", TlsUse.MUST, [sasl], is_secure=True)
    assert isinstance(outcomes(send(client, talk, envelope(ADA)))[0], Delivered)
    assert talk.smtp.is_authenticated


def test_a_failed_login_defers() -> None:
    talk = Conversation(config_for("submission"), is_secure=True)
    client = SmtpClient("client.example", "us", TlsUse.MUST, [PlainClient("ada", "wrong")], is_secure=True)
    broken = send(client, talk, envelope(ADA))[-1]
    assert isinstance(broken, Broken)
    assert isinstance(broken.outcome, Deferred)


EHLO_PIPELINING = (b"EHLO", b"250-peer\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
EHLO_PLAIN = (b"EHLO", b"250 peer\r\n")


def test_helo_after_ehlo_is_refused_and_no_pipelining_then() -> None:
    peer = Peer(
        b"220 peer\r\n",
        [
            (b"EHLO", b"502 what\r\n"),
            (b"HELO", b"250 peer\r\n"),
            (b"MAIL FROM:<sender@x.example>\r\n", b"250 ok\r\n"),
            (b"RCPT TO:<ada@us.example>\r\n", b"250 ok\r\n"),
            (b"DATA", b"354 go\r\n"),
            (b".\r\n", b"250 done\r\n"),
        ],
    )
    done = outcomes(send(SmtpClient("c", "peer"), peer, envelope(ADA), eight=True))
    assert done == (Delivered(Status(2, 0, 0), "peer", "250 done"),)


def test_pipelined_data_when_all_recipients_were_refused_sends_an_empty_message() -> None:
    """RFC 2920 §3.1."""
    peer = Peer(
        b"220 peer\r\n",
        [EHLO_PIPELINING, (b"MAIL", b"250 ok\r\n"), (b"RCPT", b"550 no\r\n"), (b"DATA", b"354 go\r\n")]
        + [(b".", b"554 no recipients\r\n")],
    )
    client = SmtpClient("c", "peer")
    assert outcomes(send(client, peer, envelope(NOBODY))) == (Failed(Status(5, 0, 0), "550 no", "peer"),)
    assert peer.heard.endswith(b"DATA\r\n.\r\n")


def test_case_018_lost_after_the_final_dot_is_unknown() -> None:
    peer = Peer(
        b"220 peer\r\n",
        [EHLO_PIPELINING, (b"MAIL", b"250 ok\r\n"), (b"RCPT", b"250 ok\r\n"), (b"RCPT", b"550 no\r\n")]
        + [(b"DATA", b"354 go\r\n")],
    )
    client = SmtpClient("c", "peer")
    send(client, peer, envelope(ADA, NOBODY))
    client.lost("connection closed")
    event = client.next_event()
    assert event == Finished(
        (
            Deferred(Status(4, 4, 2), "peer: connection closed", unknown=True),
            Failed(Status(5, 0, 0), "550 no", "peer"),
        )
    )


def test_case_019_delivered_stays_delivered_when_the_peer_resets() -> None:
    talk = Conversation()
    client = SmtpClient("c", "us")
    events = send(client, talk, envelope(ADA))
    client.lost("reset")
    assert isinstance(outcomes(events)[0], Delivered)
    assert isinstance(client.next_event(), Broken)


def test_case_116_no_starttls_where_it_must_be() -> None:
    client = SmtpClient("c", "peer", TlsUse.MUST)
    assert send(client, Peer(b"220 peer\r\n", [EHLO_PLAIN]), envelope(ADA)) == [
        Broken(Deferred(Status(4, 7, 10), "peer: STARTTLS not offered"))
    ]


@pytest.mark.parametrize("tls", [TlsUse.MAY, TlsUse.MUST])
def test_case_118_injected_answers_abort(tls: TlsUse) -> None:
    peer = Peer(
        b"220 peer\r\n",
        [(b"EHLO", b"250-peer\r\n250 STARTTLS\r\n"), (b"STARTTLS", b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")],
    )
    events = send(SmtpClient("c", "peer", tls), peer, envelope(ADA))
    assert len(events) == 1
    assert isinstance(events[0], Broken)


@pytest.mark.parametrize(
    "greeting",
    [
        b"220 " + b"x" * 5000,
        b"220 " + b"x" * 5000 + b"\r\n",
        b"220-x\r\n" * 10_000,
        b"hello\r\n",
        b"999 x\r\n",
        b"\0\xff\r\n",
        b"22\r\n",
    ],
)
def test_case_119_endless_or_senseless_answers(greeting: bytes) -> None:
    client = SmtpClient("c", "peer")
    client.receive(greeting)
    event = client.next_event()
    assert isinstance(event, Broken)
    assert isinstance(event.outcome, Deferred)
    assert client.is_over


def test_case_120_bare_codes_and_bad_enhanced_codes() -> None:
    peer = Peer(
        b"220\r\n",
        [
            (b"EHLO", b"250-\r\n250-PIPELINING\r\n250\r\n"),
            (b"MAIL", b"250\r\n"),
            (b"RCPT", b"250 5.1.1 strange\r\n"),
            (b"RCPT", b"550 4.9999.1 strange\n"),
            (b"DATA", b"354\r\n"),
            (b".", b"250 2.\r\n"),
        ],
    )
    done = outcomes(send(SmtpClient("c", "peer"), peer, envelope(ADA, BOB), text=b"a\r\n"))
    assert done == (
        Delivered(Status(2, 0, 0), "peer", "250 2."),
        Failed(Status(5, 0, 0), "550 4.9999.1 strange", "peer"),
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"552 too many\r\n", Deferred(Status(4, 5, 3), "552 too many", "peer")),
        (b"552 5.5.3 too many\r\n", Deferred(Status(4, 5, 3), "552 5.5.3 too many", "peer")),
        (b"552 5.2.2 full\r\n", Failed(Status(5, 2, 2), "552 5.2.2 full", "peer")),
        (b"452 4.5.3 x\r\n", Deferred(Status(4, 5, 3), "452 4.5.3 x", "peer")),
        (b"421 4.3.2 closing\r\n", Deferred(Status(4, 3, 2), "421 4.3.2 closing", "peer")),
        (b"354 what\r\n", Deferred(Status(4, 5, 0), "354 what", "peer")),
    ],
)
def test_case_121_recipient_answers(answer: bytes, expected: Outcome) -> None:
    peer = Peer(b"220 peer\r\n", [EHLO_PLAIN, (b"MAIL", b"250 ok\r\n"), (b"RCPT", answer)])
    assert outcomes(send(SmtpClient("c", "peer"), peer, envelope(ADA))) == (expected,)


@pytest.mark.parametrize("answer", [b"250 ok\r\n", b"220 what\r\n"])
def test_case_121_positive_answer_to_data_is_no_leave(answer: bytes) -> None:
    peer = Peer(b"220 peer\r\n", [EHLO_PLAIN, (b"MAIL", b"250 x\r\n"), (b"RCPT", b"250 x\r\n"), (b"DATA", answer)])
    client = SmtpClient("c", "peer")
    assert isinstance(outcomes(send(client, peer, envelope(ADA)))[0], Deferred)
    assert client.is_over


@pytest.mark.parametrize(
    ("greeting", "kind"), [(b"554 no\r\n", Deferred), (b"421 x\r\n", Deferred), (b"521 x\r\n", Failed)]
)
def test_greetings_that_refuse(greeting: bytes, kind: type) -> None:
    client = SmtpClient("c", "peer")
    client.receive(greeting)
    event = client.next_event()
    assert isinstance(event, Broken)
    assert isinstance(event.outcome, kind)


def test_what_the_extensions_rule_out_is_known_without_asking() -> None:
    small = Peer(b"220 peer\r\n", [(b"EHLO", b"250-peer\r\n250 SIZE 10\r\n")])
    assert outcomes(send(SmtpClient("c", "p"), small, envelope(ADA)))[0].status == Status(5, 3, 4)
    client = SmtpClient("c", "p")
    client.receive(b"220 peer\r\n")
    client.next_event()
    client.receive(b"250 peer\r\n")
    assert client.next_event() == Ready()
    client.begin(envelope(ADA), 10, False, needs_smtputf8=True)
    event = client.next_event()
    assert isinstance(event, Finished)
    assert event.outcomes[0].status == Status(5, 6, 7)


def test_a_recipient_limit_is_kept() -> None:
    """RFC 9422 §4."""
    talk = Conversation(config_for(limits=Limits(recipients=1)))
    done = outcomes(send(SmtpClient("c", "us"), talk, envelope(ADA, BOB)))
    assert isinstance(done[0], Delivered)
    assert done[1].status == Status(4, 5, 3)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.sampled_from([b".", b"\r\n", b"\r", b"\n", b"a", b"..", b"\r\n.\r\n"]), max_size=12),
    chunking=st.booleans(),
)
def test_case_049_any_text_arrives_as_one_message(pieces: list[bytes], chunking: bool) -> None:
    talk = Conversation()
    client = SmtpClient("c", "us")
    client.receive(bytes(talk.sent))
    while (event := client.next_event()) is None:
        client.receive(talk.say(client.take_output()))
    assert event == Ready()
    if not chunking:
        del client.extensions["CHUNKING"]
    client.begin(envelope(ADA), 100, False, False)
    client.receive(talk.say(client.take_output()))
    assert client.next_event() == ContentDue()
    for piece in pieces:
        client.content(piece)
        client.receive(talk.say(client.take_output()))
        assert client.next_event() is None
    client.end_content()
    client.receive(talk.say(client.take_output()))
    event = client.next_event()
    assert isinstance(event, Finished)
    assert isinstance(event.outcomes[0], Delivered)
    text = b"".join(pieces).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert talk.messages == [text if not text or text.endswith(b"\n") else text + b"\r\n"]


def test_dsn_parameters_travel_where_dsn_is_offered() -> None:
    """RFC 3461 §4."""
    talk = Conversation(config_for(announces_dsn=True))
    mail = Envelope(
        SENDER,
        (Recipient(ADA.address, "rfc822;Ada+x@us.example", frozenset({"FAILURE", "DELAY"})),),
        ret="HDRS",
        envid="a b",
    )
    client = SmtpClient("c", "us")
    send(client, talk, mail)
    said = [event for event in talk.events if type(event).__name__ in ("Mail", "Rcpt")]
    assert said[0].envelope.envid == "a b"
    assert said[0].envelope.ret == "HDRS"
    assert said[1].recipient == mail.recipients[0]


@settings(max_examples=100, deadline=None)
@given(octets=st.lists(st.sampled_from([b"220 a\r\n", b"250-PIPELINING\r\n", b"250 CHUNKING\r\n", b"354 x\r\n", b"\r\n",
    b"550 5.1.1 x\r\n", b"250 x\r\n", b"421 x\r\n", b"334 AAAA\r\n", b"x", b"250", b"-"]), max_size=20).map(b"".join),
    cuts=st.lists(st.integers(1, 9), max_size=20))  # fmt: skip
def test_the_story_is_the_same_however_answers_are_cut(octets: bytes, cuts: list[int]) -> None:
    def story(pieces: list[bytes]) -> tuple[list[ClientEvent], bytes, bool]:
        client = SmtpClient("c", "peer")
        events: list[ClientEvent] = []
        out = b""
        for piece in pieces:
            client.receive(piece)
            while (event := client.next_event()) is not None:
                events.append(event)
                match event:
                    case Ready():
                        client.begin(envelope(ADA, BOB), 3, True, False)
                    case ContentDue():
                        client.content(b"a\r\n")
                        client.end_content()
            out += client.take_output()
        client.lost("end")
        while (event := client.next_event()) is not None:
            events.append(event)
        return events, out, client.is_over

    rest, pieces = octets, []
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert story([*pieces, rest]) == story([octets])
