"""One POP3 session as the server sees it, without I/O: octets in, events out; answers in, octets out.

Source: RFC 1939; RFC 2449 (CAPA, PIPELINING, EXPIRE, RESP-CODES), 2595 (STLS), 3206 (SYS and AUTH codes), 5034
(SASL), 6856 (UTF8, LANG). There is no APOP: its secret would have to be kept in the clear (case 195).
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

from pillarbox.protocol.pop3.content import END
from pillarbox.protocol.pop3.events import (
    AskVerifier,
    Close,
    Event,
    Listing,
    Login,
    Retrieve,
    Say,
    ScramDone,
    StartTls,
    Update,
)
from pillarbox.protocol.pop3.lines import LineError, Lines
from pillarbox.protocol.pop3.maildrop import Maildrop
from pillarbox.protocol.sasl import (
    Authenticated,
    Challenge,
    CheckPassword,
    Exchange,
    GetVerifier,
    Reason,
    Rejected,
    Step,
    decode_base64,
    new_exchange,
)
from pillarbox.protocol.scram import ScramVerifier

LINE_OCTETS: Final = 255
AUTH_LINE_OCTETS: Final = 12_288
MAX_ERRORS_BEFORE_LOGIN: Final = 3
MAX_ERRORS: Final = 20
MAX_LONG_LINES: Final = 2
MECHANISMS: Final = ("SCRAM-SHA-256", "PLAIN")
LANGUAGES: Final = {"en": "English", "i-default": "Default language"}

_NUMBER: Final = re.compile(rb"[0-9]{1,10}")
_TWO_NUMBERS: Final = re.compile(rb"([0-9]{1,10}) +([0-9]{1,10})")
_RETRIEVE: Final = re.compile(rb"(RETR|TOP) ([0-9]{1,10})(?: ([0-9]{1,10}))?\r?\n", re.IGNORECASE)
"""What most lines are, as most clients write them."""
_HTTP: Final = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS"))

_GONE: Final = b"-ERR message expunged meanwhile\r\n"
_NO_MESSAGE: Final = b"-ERR no such message\r\n"
_NEEDS_TLS: Final = b"-ERR no login in the clear: say STLS first\r\n"
_SYNTAX: Final = b"-ERR syntax error\r\n"


class State(Enum):
    """Source: RFC 1939 §3. SECURING: deaf until the TLS handshake is over."""

    AUTHORIZATION = 1
    SECURING = 2
    TRANSACTION = 3
    UPDATE = 4


_DEAF: Final = (State.SECURING, State.UPDATE)


class Pop3Server:
    """A session. Nothing a client sends makes it raise, and it keeps one line of theirs beside what was just read.

    `next_event` returns None while more octets, or the answer to the last event, are waited for.
    """

    def __init__(
        self,
        hostname: str,
        nonce: Callable[[], str],
        *,
        offers_tls: bool = True,
        is_secure: bool = False,
        cleartext_login: bool = False,
        auth_failures: int = 3,
        auth_line_octets: int = AUTH_LINE_OCTETS,
    ) -> None:
        """`nonce` gives fresh random text for each SCRAM exchange (see `sasl.new_exchange`)."""
        self.state = State.AUTHORIZATION
        self.utf8 = False
        """The client said UTF8 (RFC 6856 §2)."""
        self._hostname = hostname
        self._nonce = nonce
        self._offers_tls = offers_tls
        self._is_secure = is_secure
        self._cleartext_login = cleartext_login
        self._max_failures = auth_failures
        self._auth_line_octets = auth_line_octets
        self._lines = Lines()
        self._pending: Event | None = None
        self._queued: deque[Event] = deque()
        self._user: str | None = None
        self._exchange: Exchange | None = None
        self._scram_name: str | None = None
        self._maildrop: Maildrop | None = None
        self._errors = 0
        self._failures = 0
        self._long_lines = 0

    # --- octets in, events out ---------------------------------------------------------------------------------------

    def greeting(self) -> bytes:
        return b"+OK %s POP3 ready\r\n" % self._hostname.encode()

    @property
    def buffered(self) -> int:
        """Octets received and not yet looked at."""
        return len(self._lines)

    @property
    def maildrop(self) -> Maildrop | None:
        return self._maildrop

    def receive(self, octets: bytes) -> None:
        """Take what has arrived. Nothing is kept after the end, nor before a TLS handshake."""
        if self.state not in _DEAF:
            self._lines.receive(octets)

    def next_event(self) -> Event | None:
        """What is to be done next, in the order of the client's commands."""
        if self._queued:
            event = self._queued.popleft()
        elif not self._lines or self._pending is not None or self.state in _DEAF:
            return None
        elif self._maildrop is not None and (retrieve := self._take_retrieve(self._maildrop)):
            self._pending = retrieve
            return retrieve
        else:
            line = self._take_line()
            if line is None:
                return None
            if line is LineError.TOO_LONG:
                event = self._line_too_long()
            else:
                event = self._continue_exchange(line) if self._exchange else self._obey(line)
        if isinstance(event, Close):
            self.state = State.UPDATE
            self._lines.clear()
        elif not isinstance(event, (Say, Listing)):
            self._pending = event
        return event

    def upcoming(self, limit: int) -> list[int]:
        """Indices of the messages that RETR and TOP ask for in the lines already here, up to the first that is
        something else. Only a hint, for reading many at once."""
        if self._maildrop is None:
            return []
        found = [self._maildrop.find(int(match[2])) for match in self._lines.matches(_RETRIEVE, limit)]
        return [index for index in found if index is not None]

    # --- answers in, octets out --------------------------------------------------------------------------------------

    def welcome(self, maildrop: Maildrop) -> bytes:
        """The login was right and the mailbox is ours."""
        assert isinstance(self._pending, (Login, ScramDone))
        self._pending = None
        self._exchange = self._scram_name = self._user = None
        self._maildrop = maildrop
        self._errors = 0
        self.state = State.TRANSACTION
        return b"+OK %d messages (%d octets)\r\n" % (maildrop.count, maildrop.octets)

    def refuse(self, code: str, text: str) -> bytes:
        """No to what is pending. `code`: "AUTH", "IN-USE", "SYS/TEMP", "SYS/PERM" or none. RFC 2449 §8, RFC 3206."""
        said, self._pending = self._pending, None
        if isinstance(said, (Login, AskVerifier, ScramDone)):
            self._exchange = self._scram_name = self._user = None
            if code == "AUTH":
                self._failures += 1
                if self._failures >= self._max_failures:
                    self._queued.append(Close(b"-ERR too many failed logins\r\n"))
        return b"-ERR [%s] %s\r\n" % (code.encode(), text.encode()) if code else b"-ERR %s\r\n" % text.encode()

    def verifier(self, verifier: ScramVerifier) -> None:
        """The answer to AskVerifier; what to say now is the next event."""
        assert isinstance(self._pending, AskVerifier) and self._exchange
        self._pending = None
        self._queued.append(self._follow(self._exchange.verifier(verifier)))

    def secured(self) -> None:
        """Begin again inside TLS; what came in the clear is forgotten. Source: RFC 2595 §4."""
        self._pending = None
        self._lines.clear()
        self._is_secure, self._user, self.utf8 = True, None, False
        self.state = State.AUTHORIZATION

    def retrieved(self) -> bytes:
        """The message is there; say this, then the message, dots doubled, and its `ending`."""
        said, self._pending = self._pending, None
        assert isinstance(said, Retrieve) and self._maildrop
        return b"+OK %d octets\r\n" % self._maildrop.size(said.index) if said.lines is None else b"+OK\r\n"

    def updated(self, ok: bool) -> bytes:
        """The last word, after QUIT. Source: RFC 1939 §6."""
        self._pending = None
        self.state = State.UPDATE
        return b"+OK bye\r\n" if ok else b"-ERR [SYS/TEMP] deleted messages were not removed\r\n"

    # --- lines -------------------------------------------------------------------------------------------------------

    def receive_retrieve(self, octets: bytes) -> Retrieve | None:
        """Take what has arrived if it is RETR or TOP of a message that is here, and nothing but that: then this is
        the event. Else nothing is taken. For clients that wait for each answer: most do."""
        if self._maildrop is None or self._pending or self._queued or self._lines or self.state in _DEAF:
            return None
        match = _RETRIEVE.fullmatch(octets)
        asked = self._retrieve(match, self._maildrop) if match else None
        self._pending = asked
        return asked

    def _take_retrieve(self, maildrop: Maildrop) -> Retrieve | None:
        """The short way for RETR and TOP of a message that is here; all else goes the long way."""
        match = self._lines.take_match(_RETRIEVE)
        if match is None:
            return None
        asked = self._retrieve(match, maildrop)
        if asked is None:
            self._lines.take_back(match)
        return asked

    def _retrieve(self, match: re.Match[bytes], maildrop: Maildrop) -> Retrieve | None:
        verb, number, lines = match.groups()
        index = maildrop.find(int(number))
        if index is None or (len(verb) == 3) != (lines is not None):
            return None
        return Retrieve(index, None if lines is None else int(lines))

    def _take_line(self) -> bytes | LineError | None:
        in_auth = self._exchange is not None or self._lines.starts_with(b"AUTH ")
        return self._lines.take(self._auth_line_octets if in_auth else LINE_OCTETS)

    def _line_too_long(self) -> Event:
        self._exchange = self._scram_name = None
        self._long_lines += 1
        if self._long_lines >= MAX_LONG_LINES:
            return Close(b"-ERR line too long\r\n")
        return Say(b"-ERR line too long\r\n")

    def _mistake(self, octets: bytes) -> Event:
        """An answer that counts as an error; too many end the session."""
        self._errors += 1
        before_login = self.state is State.AUTHORIZATION
        if self._errors >= (MAX_ERRORS_BEFORE_LOGIN if before_login else MAX_ERRORS):
            return Close(octets.replace(b"\r\n", b"; too many errors\r\n"))
        return Say(octets)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _obey(self, line: bytes) -> Event:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        if b"\0" in line or b"\r" in line:
            return self._mistake(_SYNTAX)
        handler = _HANDLERS[self.state].get(verb)
        if handler:
            return handler(self, argument if verb == b"PASS" else argument.strip(b" "))
        if verb in _HTTP:
            return Close(b"-ERR this is POP3\r\n")
        if any(verb in handlers for handlers in _HANDLERS.values()):
            return self._mistake(b"-ERR not in this state\r\n")
        return self._mistake(b"-ERR unknown command\r\n")

    def _capa(self, argument: bytes) -> Event:
        lines = [
            "+OK",
            "TOP",
            "UIDL",
            "RESP-CODES",
            "AUTH-RESP-CODE",
            "PIPELINING",
            "EXPIRE NEVER",
            "UTF8 USER",
            "LANG",
        ]
        if self._may_login:
            lines += ["USER", "SASL " + " ".join(MECHANISMS)]
        if self._may_start_tls:
            lines.append("STLS")
        lines += ["IMPLEMENTATION pillarbox", ".", ""]
        return Say("\r\n".join(lines).encode())

    @property
    def _may_login(self) -> bool:
        return self._is_secure or self._cleartext_login

    @property
    def _may_start_tls(self) -> bool:
        return self._offers_tls and not self._is_secure and self.state is State.AUTHORIZATION

    def _lang(self, argument: bytes) -> Event:
        """Source: RFC 6856 §3."""
        if not argument:
            listed = "".join(f"{tag} {name}\r\n" for tag, name in LANGUAGES.items())
            return Say(f"+OK languages follow\r\n{listed}.\r\n".encode())
        tag = argument.decode("ascii", "replace").lower()
        tag = "i-default" if tag == "*" else tag
        if tag.partition("-")[0] == "en":
            tag = "en"
        if tag not in LANGUAGES:
            return Say(b"-ERR no such language\r\n")
        return Say(f"+OK {tag} {LANGUAGES[tag]}\r\n".encode())

    def _utf8(self, argument: bytes) -> Event:
        self.utf8 = True
        return Say(b"+OK UTF-8 it is\r\n")

    def _stls(self, argument: bytes) -> Event:
        if not self._may_start_tls:
            return self._mistake(b"-ERR TLS is active already\r\n" if self._is_secure else b"-ERR no TLS here\r\n")
        if self.buffered:  # case 52: what was slipped in before the handshake is never obeyed
            return Close(b"-ERR octets after STLS\r\n")
        self.state = State.SECURING
        return StartTls(b"+OK begin TLS\r\n")

    def _name(self, argument: bytes) -> Event:
        """USER: the same answer for every name (case 184)."""
        if not self._may_login:
            return self._mistake(_NEEDS_TLS)
        try:
            self._user = argument.decode()
        except UnicodeDecodeError:
            return self._mistake(_SYNTAX)
        return Say(b"+OK\r\n") if argument else self._mistake(_SYNTAX)

    def _password(self, argument: bytes) -> Event:
        if not self._may_login:
            return self._mistake(_NEEDS_TLS)
        if not self._user:
            return self._mistake(b"-ERR USER first\r\n")
        name, self._user = self._user, None
        return Login(name, argument.decode("utf-8", "surrogateescape"))

    def _auth(self, argument: bytes) -> Event:
        """Source: RFC 5034 §4. Without a name: the list that some old clients ask for."""
        if not self._may_login:
            return self._mistake(_NEEDS_TLS)
        if not argument:
            return Say("\r\n".join(("+OK", *MECHANISMS, ".", "")).encode())
        name, _, initial = argument.partition(b" ")
        mechanism = name.decode("ascii", "replace").upper()
        exchange = new_exchange(mechanism, self._nonce()) if mechanism in MECHANISMS else None
        if exchange is None:
            return self._mistake(b"-ERR no such mechanism\r\n")
        response: bytes | None = None
        if initial:
            response = b"" if initial == b"=" else decode_base64(initial)
            if response is None:
                return self._mistake(b"-ERR bad base64\r\n")
        self._exchange = exchange
        return self._follow(exchange.begin(response))

    def _continue_exchange(self, line: bytes) -> Event:
        assert self._exchange
        if line == b"*":
            self._exchange = self._scram_name = None
            return self._mistake(b"-ERR authentication cancelled\r\n")
        response = decode_base64(line)
        if response is None:
            self._exchange = self._scram_name = None
            return self._mistake(b"-ERR bad base64\r\n")
        return self._follow(self._exchange.receive(response))

    def _follow(self, step: Step) -> Event:
        """What a step of the exchange means for us."""
        match step:
            case Challenge(data):
                return Say(b"+ " + base64.b64encode(data) + b"\r\n")
            case GetVerifier(username):
                self._scram_name = username
                return AskVerifier(username)
            case CheckPassword(authcid, authzid, password) if authzid in ("", authcid):
                return Login(authcid, password)
            case Authenticated(authcid, authzid):
                return ScramDone(authcid, authzid in ("", authcid))
            case Rejected(Reason.MALFORMED):
                self._exchange = self._scram_name = None
                return self._mistake(b"-ERR malformed response\r\n")
        if self._scram_name is not None:
            return ScramDone(self._scram_name, False)
        self._exchange = None
        self._failures += 1
        said = b"-ERR [AUTH] authentication failed\r\n"
        return Close(said) if self._failures >= self._max_failures else Say(said)

    def _stat(self, argument: bytes) -> Event:
        assert self._maildrop
        return Say(b"+OK %d %d\r\n" % (self._maildrop.count, self._maildrop.octets))

    def _list(self, argument: bytes) -> Event:
        assert self._maildrop
        if not argument:
            opening = b"+OK %d messages (%d octets)\r\n" % (self._maildrop.count, self._maildrop.octets)
            return Listing(_framed(opening, self._maildrop.sizes_listing()))
        index = self._index(argument)
        if index is None:
            return self._no_message(argument)
        return Say(b"+OK %d %d\r\n" % (index + 1, self._maildrop.size(index)))

    def _uidl(self, argument: bytes) -> Event:
        assert self._maildrop
        if not argument:
            return Listing(_framed(b"+OK\r\n", self._maildrop.unique_ids_listing()))
        index = self._index(argument)
        if index is None:
            return self._no_message(argument)
        return Say(b"+OK %d %s\r\n" % (index + 1, self._maildrop.unique_id(index)))

    def _retr(self, argument: bytes) -> Event:
        assert self._maildrop
        index = self._index(argument)
        if index is None:
            return self._no_message(argument)
        return Retrieve(index)

    def _top(self, argument: bytes) -> Event:
        assert self._maildrop
        match = _TWO_NUMBERS.fullmatch(argument)
        if match is None:
            return self._mistake(_SYNTAX)
        index = self._index(match[1])
        if index is None:
            return self._no_message(match[1])
        return Retrieve(index, int(match[2]))

    def _dele(self, argument: bytes) -> Event:
        assert self._maildrop
        index = self._index(argument)
        if index is None:
            return self._no_message(argument)
        self._maildrop.delete(index)
        return Say(b"+OK message %d will be deleted\r\n" % (index + 1))

    def _rset(self, argument: bytes) -> Event:
        assert self._maildrop
        self._maildrop.restore()
        return Say(b"+OK %d messages (%d octets)\r\n" % (self._maildrop.count, self._maildrop.octets))

    def _noop(self, argument: bytes) -> Event:
        return Say(b"+OK\r\n")

    def _quit(self, argument: bytes) -> Event:
        if self._maildrop is None:
            return Close(b"+OK bye\r\n")
        return Update(tuple(self._maildrop.deleted()))

    def _index(self, argument: bytes) -> int | None:
        """Case 193: what is no number of a message that is here."""
        assert self._maildrop
        return self._maildrop.find(int(argument)) if _NUMBER.fullmatch(argument) else None

    def _no_message(self, argument: bytes) -> Event:
        assert self._maildrop
        if not _NUMBER.fullmatch(argument):
            return self._mistake(_SYNTAX)
        return Say(_GONE if self._maildrop.is_gone(int(argument)) else _NO_MESSAGE)


def _framed(opening: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield opening
    yield from pieces
    yield END


Handler = Callable[[Pop3Server, bytes], Event]

_ALWAYS: Final[dict[bytes, Handler]] = {
    b"CAPA": Pop3Server._capa,
    b"LANG": Pop3Server._lang,
    b"QUIT": Pop3Server._quit,
}
_HANDLERS: Final[dict[State, dict[bytes, Handler]]] = {
    State.AUTHORIZATION: {
        **_ALWAYS,
        b"USER": Pop3Server._name,
        b"PASS": Pop3Server._password,
        b"AUTH": Pop3Server._auth,
        b"STLS": Pop3Server._stls,
        b"UTF8": Pop3Server._utf8,
    },
    State.TRANSACTION: {
        **_ALWAYS,
        b"STAT": Pop3Server._stat,
        b"LIST": Pop3Server._list,
        b"UIDL": Pop3Server._uidl,
        b"RETR": Pop3Server._retr,
        b"TOP": Pop3Server._top,
        b"DELE": Pop3Server._dele,
        b"RSET": Pop3Server._rset,
        b"NOOP": Pop3Server._noop,
    },
}
"""What may be said when. Source: RFC 1939 §4 to §7."""
