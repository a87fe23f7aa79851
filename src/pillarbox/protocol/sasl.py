"""SASL exchanges, both sides, as small state machines: PLAIN, LOGIN, SCRAM-SHA-256.

SMTP, POP3 and IMAP frame the same exchanges differently (base64 lines; `=` for an empty initial response); that
stays with them, `decode_base64` is the shared strict decoder. A server exchange never looks anything up: it hands
out a question and is told the answer. Nothing a peer sends raises out of a server exchange.
Source: RFC 4422, RFC 4616 (PLAIN), RFC 5802 and 7677 (SCRAM), draft-murchison-sasl-login (LOGIN).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, TypeAlias

from pillarbox.model.errors import PeerError
from pillarbox.model.secret import MAX_PASSWORD_OCTETS, saslprep
from pillarbox.protocol.scram import (
    ScramVerifier,
    client_proof,
    proof_is_good,
    salted_password,
    server_signature,
)

MECHANISMS: Final = ("SCRAM-SHA-256", "PLAIN", "LOGIN")
"""In the order in which they are announced."""
MAX_NAME_OCTETS: Final = 1024

_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


class Reason(Enum):
    """Why an exchange ended without success."""

    MALFORMED = "malformed"
    """The response breaks the mechanism's grammar; nothing was checked. SMTP: 501 5.5.2."""
    CREDENTIALS = "credentials"
    """Wrong name or password, and no telling which. SMTP: 535 5.7.8."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send this to the client, then hand its answer to `receive`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CheckPassword:
    """Is this the password of `authcid`, and may it act as `authzid` (empty: as itself)? Answer with `checked`."""

    authcid: str
    authzid: str
    password: str


@dataclass(frozen=True, slots=True)
class GetVerifier:
    """Answer with `verifier`: that of the user, or `secret.fake_secret` if there is no such user."""

    username: str


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The client proved to be `authcid`. Whether it may act as `authzid` (empty: as itself) the caller decides."""

    authcid: str
    authzid: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The exchange is over, without success."""

    reason: Reason


Step: TypeAlias = Challenge | CheckPassword | GetVerifier | Authenticated | Rejected
"""What a server exchange says after each thing it is told."""

_MALFORMED: Final = Rejected(Reason.MALFORMED)
_CREDENTIALS: Final = Rejected(Reason.CREDENTIALS)


class Exchange:
    """One authentication exchange as the server sees it: `begin` once, then what each step asks for."""

    name = ""

    def begin(self, initial: bytes | None) -> Step:
        """Start, with the client's initial response (decoded) or None if it sent none."""
        return Challenge(b"") if initial is None else self.receive(initial)

    def receive(self, response: bytes) -> Step:
        """The client answered the last challenge."""
        return _MALFORMED

    def checked(self, good: bool) -> Step:
        """The answer to CheckPassword."""
        return _MALFORMED

    def verifier(self, verifier: ScramVerifier) -> Step:
        """The answer to GetVerifier."""
        return _MALFORMED


class _PasswordExchange(Exchange):
    """What PLAIN and LOGIN share: a question about a password, and its answer."""

    __slots__ = ("_question",)

    def __init__(self) -> None:
        self._question: CheckPassword | None = None

    def _ask(self, authcid: str, authzid: str, password: bytes) -> Step:
        if not authcid or not password:
            return _CREDENTIALS
        if len(password) > MAX_PASSWORD_OCTETS:
            return _CREDENTIALS
        try:
            self._question = CheckPassword(authcid, authzid, password.decode())
        except UnicodeDecodeError:
            return _CREDENTIALS
        return self._question

    def checked(self, good: bool) -> Step:
        question, self._question = self._question, None
        if question is None:
            return _MALFORMED
        return Authenticated(question.authcid, question.authzid) if good else _CREDENTIALS


class PlainExchange(_PasswordExchange):
    """authzid NUL authcid NUL password. Source: RFC 4616 §2."""

    __slots__ = ()
    name = "PLAIN"

    def receive(self, response: bytes) -> Step:
        parts = response.split(b"\0")
        if len(parts) != 3:
            return _MALFORMED
        authzid, authcid = _name(parts[0]), _name(parts[1])
        if authzid is None or authcid is None:
            return _MALFORMED
        return self._ask(authcid, authzid, parts[2])


class LoginExchange(_PasswordExchange):
    """`Username:`, then `Password:`; the prompts are what clients in the wild look for."""

    __slots__ = ("_authcid",)
    name = "LOGIN"

    def __init__(self) -> None:
        super().__init__()
        self._authcid: str | None = None

    def begin(self, initial: bytes | None) -> Step:
        return Challenge(b"Username:") if initial is None else self.receive(initial)

    def receive(self, response: bytes) -> Step:
        if self._authcid is None:
            name = _name(response)
            if name is None or "\0" in name:
                return _MALFORMED
            self._authcid = name
            return Challenge(b"Password:")
        if b"\0" in response:
            return _MALFORMED
        return self._ask(self._authcid, "", response)


class ScramExchange(Exchange):
    """SCRAM-SHA-256 without channel binding; `nonce` is printable ASCII without commas, new for each exchange.

    The server's last message goes out as a challenge that the client answers with nothing, since none of our
    protocols carries data with success (RFC 4422 §4, RFC 5802 §5).
    """

    __slots__ = ("_auth_message", "_authzid", "_client_first", "_final", "_gs2", "_nonce", "_username", "_verifier")
    name = "SCRAM-SHA-256"

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()
        self._client_first = b""
        self._gs2 = b""
        self._authzid = ""
        self._username = ""
        self._verifier: ScramVerifier | None = None
        self._auth_message = b""
        self._final = False

    def receive(self, response: bytes) -> Step:
        if self._final:
            return Authenticated(self._username, self._authzid) if response == b"" else _MALFORMED
        return self._receive_final(response) if self._verifier else self._receive_first(response)

    def _receive_first(self, response: bytes) -> Step:
        """gs2-header, n=user, r=nonce. Source: RFC 5802 §7 (client-first-message)."""
        flag, _, rest = response.partition(b",")
        authzid_part, _, bare = rest.partition(b",")
        if flag not in (b"n", b"y") or self._client_first:  # "p=…" asks for a binding that was not offered
            return _MALFORMED
        parts = bare.split(b",")
        if len(parts) < 2 or not parts[0].startswith(b"n=") or not parts[1].startswith(b"r="):
            return _MALFORMED
        username, authzid = _unescape(parts[0][2:]), ""
        if authzid_part:
            decoded = _unescape(authzid_part[2:]) if authzid_part.startswith(b"a=") else None
            if decoded is None:
                return _MALFORMED
            authzid = decoded
        client_nonce = parts[1][2:]
        if not username or not client_nonce or len(client_nonce) > 512 or not _is_printable(client_nonce):
            return _MALFORMED
        self._gs2 = flag + b"," + authzid_part + b","
        self._client_first, self._nonce = bare, client_nonce + self._nonce
        self._username, self._authzid = username, authzid
        return GetVerifier(username)

    def verifier(self, verifier: ScramVerifier) -> Step:
        if not self._client_first or self._verifier:
            return _MALFORMED
        self._verifier = verifier
        salt = base64.b64encode(verifier.salt)
        server_first = b"r=%s,s=%s,i=%d" % (self._nonce, salt, verifier.iterations)
        self._auth_message = self._client_first + b"," + server_first
        return Challenge(server_first)

    def _receive_final(self, response: bytes) -> Step:
        """c=binding, r=nonce, extensions, p=proof. Source: RFC 5802 §7 (client-final-message)."""
        without_proof, comma, proof_text = response.rpartition(b",p=")
        parts = without_proof.split(b",")
        proof = decode_base64(proof_text)
        if not comma or proof is None or len(parts) < 2:
            return _MALFORMED
        if not parts[0].startswith(b"c=") or decode_base64(parts[0][2:]) != self._gs2:
            return _MALFORMED
        if not parts[1].startswith(b"r=") or not hmac.compare_digest(parts[1][2:], self._nonce):
            return _MALFORMED
        assert self._verifier is not None
        auth_message = self._auth_message + b"," + without_proof
        if not proof_is_good(self._verifier, auth_message, proof):
            return _CREDENTIALS
        self._final = True
        return Challenge(b"v=" + base64.b64encode(server_signature(self._verifier, auth_message)))


def new_exchange(mechanism: str, nonce: str) -> Exchange | None:
    """The server's side of this mechanism (upper case), or None. `nonce`: 18 or more fresh random octets in base64."""
    match mechanism:
        case "PLAIN":
            return PlainExchange()
        case "LOGIN":
            return LoginExchange()
        case "SCRAM-SHA-256":
            return ScramExchange(nonce)
    return None


def decode_base64(text: bytes) -> bytes | None:
    """Strict base64 (no spaces, right padding), or None. Source: RFC 4648 §3.3, §4."""
    if len(text) % 4 or not _BASE64.fullmatch(text):
        return None
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        return None


class SaslClient(Protocol):
    """The client's side of an exchange."""

    name: str

    def begin(self) -> bytes | None:
        """The initial response, or None if the server speaks first."""

    def receive(self, challenge: bytes) -> bytes:
        """Answer a challenge. Raises PeerError if the server breaks the mechanism or is not who it should be."""

    def is_satisfied(self) -> bool:
        """True if the server may now say that we are in: with SCRAM, only after it has proved itself."""


class PlainClient:
    """Source: RFC 4616."""

    name = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._message = b"\0" + username.encode() + b"\0" + password.encode()

    def begin(self) -> bytes | None:
        return self._message

    def receive(self, challenge: bytes) -> bytes:
        if challenge:
            raise PeerError("PLAIN: unexpected challenge")
        return self._message

    def is_satisfied(self) -> bool:
        return True


class LoginClient:
    """Name, then password, whatever the prompts say."""

    name = "LOGIN"

    def __init__(self, username: str, password: str) -> None:
        self._answers = [password.encode(), username.encode()]

    def begin(self) -> bytes | None:
        return None

    def receive(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise PeerError("LOGIN: a third challenge")
        return self._answers.pop()

    def is_satisfied(self) -> bool:
        return not self._answers


class ScramClient:
    """SCRAM-SHA-256; verifies the server too. `nonce` as in `new_exchange`. Source: RFC 5802 §5, §7.

    `receive` salts the password, which may take a second: it belongs into a thread.
    """

    name = "SCRAM-SHA-256"

    def __init__(self, username: str, password: str, nonce: str) -> None:
        escaped = saslprep(username).replace("=", "=3D").replace(",", "=2C")
        self._nonce = nonce.encode()
        self._first = b"n=%s,r=%s" % (escaped.encode(), self._nonce)
        self._password = password
        self._expected: bytes | None = None
        self._satisfied = False

    def begin(self) -> bytes | None:
        return b"n,," + self._first

    def receive(self, challenge: bytes) -> bytes:
        if self._expected is not None:
            signature = decode_base64(challenge[2:]) if challenge.startswith(b"v=") else None
            if signature is None or not hmac.compare_digest(signature, self._expected):
                raise PeerError("SCRAM: the server does not know our verifier")
            self._satisfied = True
            return b""
        if not challenge and not self._satisfied:  # a server that ignored our initial response asks for it
            return b"n,," + self._first
        fields = challenge.split(b",")
        if len(fields) < 3 or [f[:2] for f in fields[:3]] != [b"r=", b"s=", b"i="]:
            raise PeerError("SCRAM: malformed server-first-message")
        nonce, salt, count = fields[0][2:], decode_base64(fields[1][2:]), fields[2][2:]
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or not salt:
            raise PeerError("SCRAM: bad nonce or salt")
        if not count.isdigit() or len(count) > 9:
            raise PeerError("SCRAM: bad iteration count")
        without_proof = b"c=biws,r=" + nonce  # biws: base64 of "n,,"
        auth_message = self._first + b"," + challenge + b"," + without_proof
        salted = salted_password(self._password, salt, int(count))
        proof, self._expected = client_proof(salted, auth_message)
        return without_proof + b",p=" + base64.b64encode(proof)

    def is_satisfied(self) -> bool:
        return self._satisfied


def _name(octets: bytes) -> str | None:
    """A user name as prepared text; None if it is not UTF-8, too long, or holds prohibited characters."""
    if len(octets) > MAX_NAME_OCTETS:
        return None
    try:
        return saslprep(octets.decode())
    except ValueError:  # not UTF-8, or prohibited
        return None


def _unescape(octets: bytes) -> str | None:
    """saslname: `=2C` is a comma, `=3D` an equals sign, any other `=` an error. Source: RFC 5802 §5.1."""
    if octets.count(b"=") != octets.count(b"=2C") + octets.count(b"=3D"):
        return None
    return _name(octets.replace(b"=2C", b",").replace(b"=3D", b"="))


def _is_printable(octets: bytes) -> bool:
    return octets.isascii() and octets.decode("ascii").isprintable()
