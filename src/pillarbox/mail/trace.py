"""What is remembered of a message's way, for `pillarbox trace`: events, written with the spool's own commits."""

from __future__ import annotations

from pillarbox.mail.desk import Session
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.store.api import Claim, Job, Spooled, TraceEvent


def describe_session(session: Session) -> str:
    """One line for operators: how and whence a message came."""
    tls = f" {session.tls}" if session.tls else ""
    return f"{session.protocol} [{session.peer}] {session.helo}{tls}"


def sender_of(message: Spooled) -> str:
    """The reverse-path as text, empty for the null sender."""
    return str(message.envelope.reverse_path) if message.envelope.reverse_path is not None else ""


def received_event(message: Spooled, recipients: int) -> TraceEvent:
    """The message is ours."""
    return TraceEvent(
        message.received_s,
        message.id,
        "received",
        "",
        message.message_id,
        sender_of(message),
        {"from": message.origin, "size": str(message.content.size), "recipients": str(recipients)},
    )


def queued_event(message: Spooled, job: Job) -> TraceEvent:
    """A recipient waits to be sent on."""
    fields = {"to": job.target.name}
    if job.original is not None:
        fields["original"] = str(job.original)
    return TraceEvent(message.received_s, message.id, "queued", str(job.recipient.address), fields=fields)


def outcome_event(claim: Claim, outcome: Outcome, now_s: float) -> TraceEvent:
    """What an attempt came to."""
    job = claim.job
    match outcome:
        case Delivered(status, remote, text):
            name = "delivered"
        case Deferred(status, text, remote):
            name = "deferred"
        case Failed(status, text, remote):
            name = "failed"
    fields = {"status": str(status)}
    if text:
        fields["text"] = text
    if remote:
        fields["remote"] = remote
    if isinstance(outcome, Deferred) and outcome.unknown:
        fields["unknown"] = "yes"
    if job.original is not None:
        fields["original"] = str(job.original)
    return TraceEvent(now_s, job.spool_id, name, str(job.recipient.address), fields=fields)


def report_event(report: Spooled, about: Spooled, kind: str) -> TraceEvent:
    """A report about a message went to its sender."""
    return TraceEvent(
        report.received_s, about.id, "report", sender_of(about), fields={"kind": kind, "as": report.id.hex()}
    )
