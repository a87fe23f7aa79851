"""Commands about the session: CAPABILITY, NOOP, LOGOUT, ID, ENABLE, STARTTLS, LOGIN, AUTHENTICATE.

Source: RFC 3501 §6.1, §6.2; RFC 2971 (ID), RFC 4959 (SASL-IR), RFC 5161 (ENABLE), RFC 5530 (response codes).
"""

from __future__ import annotations

import base64
import secrets
from typing import Final

from pillarbox.model.errors import Refused
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import MAX_PASSWORD_OCTETS
from pillarbox.model.status import Status
from pillarbox.net.imap_session import ImapSession, handles
from pillarbox.net.imap_sync import finish
from pillarbox.protocol.imap.commands import Authenticate, Capability, Enable, Id, Login, Logout, Noop, StartTls
from pillarbox.protocol.imap.responses import MECHANISMS, id_response
from pillarbox.protocol.imap.server import SaslAnswer
from pillarbox.protocol.sasl import (
    Authenticated,
    Challenge,
    CheckPassword,
    GetVerifier,
    Rejected,
    Step,
    decode_base64,
    new_exchange,
)

_PRIVACY: Final = b"Not without TLS."
_LOGGED_ID_OCTETS: Final = 64


@handles(Capability)
async def capability(session: ImapSession, tag: bytes, command: Capability) -> None:
    session.line.write(b"* CAPABILITY " + session.capabilities() + b"\r\n")
    await finish(session, tag)


@handles(Noop)
async def noop(session: ImapSession, tag: bytes, command: Noop) -> None:
    await finish(session, tag)


@handles(Logout)
async def logout(session: ImapSession, tag: bytes, command: Logout) -> None:
    session.line.write(b"* BYE Good bye.\r\n")
    session.ok(tag)
    session.core.close()
    session.line.close()


@handles(Id)
async def identify(session: ImapSession, tag: bytes, command: Id) -> None:
    """The client's words are logged escaped and cut (case 181)."""
    said = {_shown(name): _shown(value or b"") for name, value in command.fields[:10]}
    if said:
        session.service.log.debug("imap client", peer=session.policy.peer, **{"id": said})
    session.line.write(id_response([(b"name", b"pillarbox")]))
    await finish(session, tag)


def _shown(octets: bytes) -> str:
    return ascii(octets[:_LOGGED_ID_OCTETS].decode("latin-1"))[1:-1]


@handles(Enable)
async def enable(session: ImapSession, tag: bytes, command: Enable) -> None:
    """Nothing that we have must be enabled yet; unknown names are passed over. Source: RFC 5161 §3.1."""
    session.line.write(b"* ENABLED\r\n")
    await finish(session, tag)


@handles(StartTls)
async def starttls(session: ImapSession, tag: bytes, command: StartTls) -> None:
    """Source: RFC 3501 §6.2.1; nothing that came in the clear is carried over (case 52)."""
    context = session.service.tls
    if context is None or not session.may_starttls():
        session.say(tag, b"BAD", b"TLS is not to be had here.")
        return
    if not session.core.securing():
        session.say(tag, b"BAD", b"Something came after STARTTLS.")
        session.end(b"Start again.")
        return
    session.ok(tag, b"Begin TLS.")
    session.policy.tls = await session.line.secure(context)
    session.core.secured()
    session.line.secured()


# --- logins -----------------------------------------------------------------------------------------------------------


@handles(Login)
async def login(session: ImapSession, tag: bytes, command: Login) -> None:
    if not session.may_login():
        session.no(tag, _PRIVACY, b"PRIVACYREQUIRED")
        return
    try:
        username, password = command.username.decode(), command.password.decode()
    except UnicodeDecodeError:
        username, password = "", ""
    if not username or not password or len(command.password) > MAX_PASSWORD_OCTETS or "\0" in username + password:
        username, password = username.replace("\0", "")[:256], "\0"  # wrong in any case; counted and delayed as such
    try:
        account = await session.service.logins.password(session.policy, username, password)
    except Refused as refused:
        _refuse(session, tag, refused)
        return
    _welcome(session, tag, account)


@handles(Authenticate)
async def authenticate(session: ImapSession, tag: bytes, command: Authenticate) -> None:
    if not session.may_login():
        session.no(tag, _PRIVACY, b"PRIVACYREQUIRED")
        return
    exchange = None
    if command.mechanism in MECHANISMS:
        exchange = new_exchange(command.mechanism, base64.b64encode(secrets.token_bytes(18)).decode("ascii"))
    if exchange is None:
        session.no(tag, b"No such mechanism.", b"CANNOT")
        return
    initial = None
    if command.initial is not None:
        initial = b"" if command.initial == b"=" else decode_base64(command.initial)
        if initial is None:
            session.say(tag, b"BAD", b"Not base64.")
            return
    session.exchange, session.sasl_tag, session.sasl_user = exchange, tag, None
    await _go_on(session, tag, exchange.begin(initial))


@handles(SaslAnswer)
async def answer_challenge(session: ImapSession, tag: bytes, answer: SaslAnswer) -> None:
    exchange = session.exchange
    if exchange is None:
        return
    if answer.data is None:
        session.exchange = None
        session.say(tag, b"BAD", b"Taken back." if answer.cancelled else b"Not base64.")
        return
    await _go_on(session, tag, exchange.receive(answer.data))


async def _go_on(session: ImapSession, tag: bytes, step: Step) -> None:
    """Do what the exchange asks for, until it waits for the client or is over."""
    logins, policy, exchange = session.service.logins, session.policy, session.exchange
    account: Account | None = None
    assert exchange is not None
    try:
        while True:
            match step:
                case Challenge(data):
                    session.line.write(b"+ " + base64.b64encode(data) + b"\r\n")
                    session.core.challenge()
                    return
                case CheckPassword(authcid, _, password):
                    account = await logins.password(policy, authcid, password)
                    step = exchange.checked(True)
                case GetVerifier(username):
                    secret, found = await logins.verifier(policy, username)
                    session.sasl_user = (username, found)
                    step = exchange.verifier(secret)
                case Authenticated(authcid, authzid):
                    if session.sasl_user is not None:
                        account = await logins.scram_done(policy, *session.sasl_user, True)
                    session.exchange = None
                    _admit(session, tag, account, authcid, authzid)
                    return
                case Rejected():
                    session.exchange = None
                    if session.sasl_user is not None:
                        await logins.scram_done(policy, *session.sasl_user, False)
                    session.no(tag, b"That did not work.", b"AUTHENTICATIONFAILED")
                    return
    except Refused as refused:
        session.exchange = None
        _refuse(session, tag, refused)


def _admit(session: ImapSession, tag: bytes, account: Account | None, authcid: str, authzid: str) -> None:
    """One may act as oneself only. Source: RFC 4422 §3.4.1."""
    if account is None:
        session.no(tag, b"That did not work.", b"AUTHENTICATIONFAILED")
    elif authzid and authzid != authcid and authzid.casefold() != str(account.address).casefold():
        session.no(tag, b"Not as someone else.", b"AUTHORIZATIONFAILED")
    else:
        _welcome(session, tag, account)


def _welcome(session: ImapSession, tag: bytes, account: Account) -> None:
    session.policy.account = account
    try:
        session.service.gate.login(session.policy)
    except Refused:
        session.policy.account = None
        session.no(tag, b"Too many sessions of this account.", b"LIMIT")
        session.end(b"Too many sessions.", b"LIMIT")
        return
    session.account = account
    session.core.logged_in()
    session.service.log.info(
        "login",
        protocol="imap",
        peer=session.policy.peer,
        account=str(account.id),
        tls=session.policy.tls or "none",
    )
    session.ok(tag, b"Welcome.", b"CAPABILITY " + session.capabilities())


def _refuse(session: ImapSession, tag: bytes, refused: Refused) -> None:
    """Wrong: 5.7.8. Too busy: 4.3.2. Too many failures: 4.7.0, and that was it (case 183)."""
    if refused.status == Status(5, 7, 8):
        session.no(tag, b"Name or password is wrong.", b"AUTHENTICATIONFAILED")
    elif refused.status == Status(4, 3, 2):
        session.no(tag, b"Too busy; try again.", b"UNAVAILABLE")
    else:
        session.no(tag, b"Too many failures.", b"AUTHENTICATIONFAILED")
        session.end(b"Too many failed logins.")
