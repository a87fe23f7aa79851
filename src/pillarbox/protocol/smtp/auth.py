"""AUTH as SMTP frames it: base64 lines around a SASL exchange, with the replies that its steps lead to.

Whether a client may log in now, and what becomes of the session, is `commands.py` and `progress.py`; what the
mechanisms say is `protocol/sasl.py`. Source: RFC 4954 §4, §6; RFC 4422 §3; cases 54-57.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from pillarbox.protocol.sasl import Challenge, Exchange, Reason, Rejected, Step, decode_base64, new_exchange
from pillarbox.protocol.scram import ScramVerifier
from pillarbox.protocol.smtp.events import Answered, Auth
from pillarbox.protocol.smtp.replies import Reply
from pillarbox.protocol.smtp.rules import AUTH_BAD, AUTH_CANCELLED, AUTH_UNKNOWN


class Login:
    """One AUTH command and the lines that follow it.

    Each line leads to an event: a question (Auth), a challenge (Answered with 334, and one more line is due), or the
    end without success (Answered with another code).
    """

    __slots__ = ("_challenge", "_exchange")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._challenge: bytes | None = None

    def begin(self, initial: bytes | None) -> Answered | Auth:
        """Start with the initial response, None if there was none."""
        return _event(self._exchange.begin(initial))

    def respond(self, line: bytes) -> Answered | Auth:
        """The client's answer to a challenge; `*` cancels. Source: RFC 4954 §4."""
        if line == b"*":
            return Answered(AUTH_CANCELLED)
        response = decode_base64(line)
        return _event(self._exchange.receive(response)) if response is not None else Answered(AUTH_BAD)

    def supply_verifier(self, verifier: ScramVerifier) -> None:
        """Answer the question for a verifier; `take_challenge` has what comes of it."""
        step = self._exchange.verifier(verifier)
        assert isinstance(step, Challenge)
        self._challenge = step.data

    def take_challenge(self) -> Answered | None:
        """The challenge that a verifier led to, once."""
        challenge, self._challenge = self._challenge, None
        return Answered(_challenge_reply(challenge)) if challenge is not None else None


def begin_login(
    argument: bytes, mechanisms: Sequence[str], make_nonce: Callable[[], str]
) -> tuple[Login, Answered | Auth] | Reply:
    """`AUTH mechanism [initial response]`: the login and its first event, or the reply to what is wrong."""
    words = argument.split(b" ")
    if not argument or len(words) > 2:
        return AUTH_BAD
    mechanism = words[0].decode("ascii").upper()
    exchange = new_exchange(mechanism, make_nonce()) if mechanism in mechanisms else None
    if exchange is None:
        return AUTH_UNKNOWN
    initial = None
    if len(words) == 2:
        initial = b"" if words[1] == b"=" else decode_base64(words[1])
        if initial is None:
            return AUTH_BAD
    login = Login(exchange)
    return login, login.begin(initial)


def _event(step: Step) -> Answered | Auth:
    if isinstance(step, Challenge):
        return Answered(_challenge_reply(step.data))
    if isinstance(step, Rejected) and step.reason is Reason.MALFORMED:
        return Answered(AUTH_BAD)
    return Auth(step)


def _challenge_reply(challenge: bytes) -> Reply:
    return Reply(334, None, base64.b64encode(challenge).decode())
