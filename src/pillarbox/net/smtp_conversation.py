"""What a client of SMTP, submission or LMTP says, put to the desk; what comes of it, as octets to send.

Here are the mail transaction with its content, the logins, and the one place where what went wrong becomes a reply.
When octets are read and written, when time is up and how TLS begins is `smtp_connection.py`; order and syntax is
`protocol/smtp`. Source: RFC 5321 §3.3 (transactions), RFC 4954 (AUTH), RFC 2033 §4.2 (replies per recipient); cases
2, 10, 53, 57.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import TYPE_CHECKING, Final

from pillarbox.mail.desk import Session, Transaction
from pillarbox.mail.metrics import count
from pillarbox.model.errors import Refused, Trouble
from pillarbox.model.mailbox import Account
from pillarbox.model.outcome import Delivered, Outcome
from pillarbox.model.status import Status
from pillarbox.protocol.sasl import Authenticated, CheckPassword, GetVerifier
from pillarbox.protocol.smtp.content import Defect
from pillarbox.protocol.smtp.events import (
    Answered,
    Auth,
    Content,
    ContentEnd,
    Data,
    Event,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reset,
)
from pillarbox.protocol.smtp.replies import Reply, Stage, reply_for
from pillarbox.protocol.smtp.rules import AUTH_OK, BYE, GO_AHEAD, MAIL_OK, OK, RCPT_OK, Mode
from pillarbox.protocol.smtp.server import SmtpServer
from pillarbox.store.api import ContentWriter

if TYPE_CHECKING:
    from pillarbox.net.smtpd import SmtpService

_TROUBLE: Final = Status(4, 3, 0)
_ACCEPTED: Final = Status(2, 0, 0)
_WRONG: Final = Status(5, 7, 8)
_MALFORMED: Final = Status(5, 6, 0)
_DEFECT_RULES: Final = {
    Defect.TOO_BIG: "message-size",
    Defect.NUL: "nul",
    Defect.LONG_LINE: "content-line",
    Defect.BARE_LF: "bare-newline",
    Defect.BARE_CR: "bare-newline",
}
"""What the log calls them; the first one counts."""
_STAGES: Final = {Auth: Stage.AUTH, Mail: Stage.MAIL, Rcpt: Stage.RCPT, Data: Stage.DATA, ContentEnd: Stage.CONTENT}


def make_nonce() -> str:
    """24 printable characters of randomness, for SCRAM."""
    return base64.b64encode(os.urandom(18)).decode()


class SmtpConversation:
    """One session: `answer` what can be answered now, `ask` for the rest.

    Where content comes in, `content_since_s` and `content_octets` tell its rate, `undrained` how much the store has
    not been waited for: `drain` now and then.
    """

    __slots__ = (
        "_content_failure",
        "_loop",
        "_scram_user",
        "_service",
        "_session",
        "_smtp",
        "_transaction",
        "_writer",
        "content_octets",
        "content_since_s",
        "is_accepting",
        "is_polite",
        "message_since_s",
        "undrained",
    )

    def __init__(
        self,
        service: SmtpService,
        session: Session,
        smtp: SmtpServer,
        loop: asyncio.AbstractEventLoop,
        now_s: float,
    ) -> None:
        self._service = service
        self._session = session
        self._smtp = smtp
        self._loop = loop
        self._transaction: Transaction | None = None
        self._writer: ContentWriter | None = None
        self._content_failure: Reply | None = None
        self._scram_user: tuple[str, Account | None] | None = None
        self.content_octets = self.undrained = 0
        self.content_since_s = 0.0
        self.message_since_s = now_s  # the last message was accepted, or the session began
        self.is_accepting = False  # a message is becoming ours, whether the client is still there or not
        self.is_polite = False  # it said QUIT

    def answer(self, event: Event) -> bytes | None:
        """Answer an event that nobody need be asked about; None for others."""
        smtp = self._smtp
        kind = type(event)
        if kind is Rcpt or kind is Mail:
            return None
        if kind is Content:
            assert isinstance(event, Content)
            self._take_content(event.octets)
            return b""
        if kind is Answered:
            assert isinstance(event, Answered)
            return smtp.reply(event.reply)
        if kind is Data:
            return smtp.reply(self._open_content())
        if kind is Hello:
            assert isinstance(event, Hello)
            self._session.helo = event.name
            self._session.esmtp = event.is_extended
            self.forget_transaction()
            return smtp.reply(event.reply)
        if kind is ContentEnd:
            assert isinstance(event, ContentEnd)
            refusal = event.refusal or self._content_failure
            if refusal is None:
                return None
            if event.refusal is not None and event.defects:  # otherwise it was said, and logged, before
                rule = next(rule for defect, rule in _DEFECT_RULES.items() if defect in event.defects)
                status = event.refusal.status or _MALFORMED
                log_refusal(self._service, self._session, Stage.CONTENT, Refused(status, rule))
            self.forget_transaction()
            return smtp.reply(refusal)
        if kind is Reset:
            self.forget_transaction()
            return smtp.reply(OK)
        if kind is Quit:
            self.is_polite = True
            return smtp.reply(BYE)
        return None

    async def ask(self, event: Event) -> bytes:
        """Put an event to the desk, and return the octets of the answer. What goes wrong becomes a reply."""
        session = self._session
        try:
            match event:
                case Rcpt(recipient):
                    assert self._transaction is not None
                    await self._service.desk.rcpt(session, self._transaction, recipient)
                    return self._smtp.reply(RCPT_OK)
                case Mail(envelope, size_octets):
                    self._transaction = await self._service.desk.mail(session, envelope, size_octets)
                    return self._smtp.reply(MAIL_OK)
                case ContentEnd():
                    return await self._accept()
                case Auth():
                    return await self._log_in(event)
            raise AssertionError(event)
        except Refused as refused:
            stage = _STAGES[type(event)]
            log_refusal(self._service, session, stage, refused)
            return self._smtp.reply(reply_for(stage, refused.status, refused.note))
        except Trouble as trouble:
            stage = _STAGES[type(event)]
            self._service.log.warning("trouble", stage=stage.value, peer=session.peer, error=str(trouble))
            return self._smtp.reply(reply_for(stage, trouble.status))
        except MemoryError:
            raise
        except Exception:
            stage = _STAGES[type(event)]
            self._service.log.error("unforeseen", stage=stage.value, peer=session.peer, exc_info=True)
            return self._smtp.reply(reply_for(stage, _TROUBLE))

    # --- messages -------------------------------------------------------------------------------------------------

    def _open_content(self) -> Reply:
        assert self._transaction is not None
        self.undrained = self.content_octets = 0
        self._content_failure = None
        self.content_since_s = self._loop.time()
        try:
            self._writer = self._service.desk.content(self._session, self._transaction)
        except Refused as refused:
            log_refusal(self._service, self._session, Stage.DATA, refused)
            return reply_for(Stage.DATA, refused.status, refused.note)
        except Trouble as trouble:
            return reply_for(Stage.DATA, trouble.status)
        return GO_AHEAD

    def _take_content(self, octets: bytes) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(octets)
        except Trouble as trouble:  # the rest is read and forgotten, then answered (case 10)
            self._fail_content(self._writer, trouble)
        self.undrained += len(octets)

    async def drain(self) -> None:
        """Let the store catch up; the time that takes is not held against the client."""
        self.undrained = 0
        if self._writer is None:
            return
        since_s = self._loop.time()
        try:
            await self._writer.drain()
        except Trouble as trouble:
            self._fail_content(self._writer, trouble)
        self.content_since_s += self._loop.time() - since_s

    def _fail_content(self, writer: ContentWriter, trouble: Trouble) -> None:
        self._content_failure = reply_for(Stage.CONTENT, trouble.status)
        writer.abort()
        self._writer = None

    async def _accept(self) -> bytes:
        """Make the message ours. It is seen through even if the client goes away meanwhile (case 2)."""
        transaction, writer = self._transaction, self._writer
        assert transaction is not None
        assert writer is not None
        recipients = list(transaction.recipients)
        self.is_accepting = True
        try:
            spool_id, outcomes = await self._service.desk.accept(self._session, transaction, writer)
        except BaseException:
            writer.abort()
            raise
        finally:
            self.is_accepting = False
            self._transaction = self._writer = None
        self.message_since_s = self._loop.time()
        self._service.know(self._session)
        if self._service.config.mode is not Mode.LMTP:
            return self._smtp.reply(Reply(250, _ACCEPTED, f"queued as {spool_id}"))
        return self._smtp.reply_each(
            [_lmtp_reply(outcome, str(r.address), spool_id) for outcome, r in zip(outcomes, recipients, strict=True)]
        )

    def forget_transaction(self) -> None:
        """What was said since MAIL is void."""
        self._transaction = None
        self._content_failure = None
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    # --- logins ---------------------------------------------------------------------------------------------------

    async def _log_in(self, event: Auth) -> bytes:
        """Raises Refused, Trouble. Source: RFC 4954 §4."""
        session, logins = self._session, self._service.logins
        match event.question:
            case CheckPassword(authcid, authzid, password):
                if authzid and authzid.casefold() != authcid.casefold():
                    session.auth_failures += 1
                    raise Refused(_WRONG, "authzid")
                return self._logged_in(await logins.password(session, authcid, password))
            case GetVerifier(username):
                verifier, account = await logins.verifier(session, username)
                self._scram_user = username, account
                self._smtp.supply_verifier(verifier)
                return b""
            case question:
                return await self._end_scram(question)

    def _logged_in(self, account: Account) -> bytes:
        self._session.account = account
        try:
            self._service.gate.login(self._session)
        except Refused:
            self._session.account = None
            raise
        session = self._session
        self._service.log.info(
            "login", protocol=session.protocol, peer=session.peer, account=str(account.id), tls=session.tls or "none"
        )
        return self._smtp.reply(AUTH_OK)

    async def _end_scram(self, question: object) -> bytes:
        """SCRAM has ended, well or not; or a password was refused unseen. Raises Refused."""
        user, self._scram_user = self._scram_user, None
        if user is None:
            self._session.auth_failures += 1
            raise Refused(_WRONG, "credentials")
        is_good = isinstance(question, Authenticated)
        if isinstance(question, Authenticated) and question.authzid:
            is_good = question.authzid.casefold() == user[0].casefold()
        account = await self._service.logins.scram_done(self._session, *user, is_good)
        return self._logged_in(account)


def log_refusal(service: SmtpService, session: Session, stage: Stage, refused: Refused) -> None:
    """Count and log that a rule said no."""
    if service.metrics is not None:
        count(service.metrics, "smtp_refused", stage=stage.value, status=str(refused.status))
    service.log.info(
        "refused",
        stage=stage.value,
        status=str(refused.status),
        rule=refused.rule,
        peer=session.peer,
        protocol=session.protocol,
        helo=session.helo,
    )


def _lmtp_reply(outcome: Outcome, address: str, spool_id: str) -> Reply:
    """Source: RFC 2033 §4.2."""
    if isinstance(outcome, Delivered):
        return Reply(250, Status(2, 1, 5), f"<{address}> queued as {spool_id}")
    return reply_for(Stage.CONTENT, outcome.status, f"<{address}> {outcome.text}")
