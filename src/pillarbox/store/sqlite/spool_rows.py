"""Messages, jobs and trace events as rows of the spool, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import AccountId, JobId, SpoolId
from pillarbox.model.mailbox import Content
from pillarbox.model.outcome import Deferred, Failed
from pillarbox.store.api import Job, Spooled, Target, TraceEvent

QUEUED: Final = 0
HELD: Final = 1
_STATES: Final = {"queued": QUEUED, "held": HELD}
STATE_NAMES: Final = {number: name for name, number in _STATES.items()}

MESSAGE_COLUMNS: Final = "id, sha256, size, meta, prefix"
JOB_COLUMNS: Final = "spool_id, id, target, state, holder, token, next_s, attempts, delay_reported, last, meta"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def _address(address: Address | None) -> tuple[str, str] | None:
    return None if address is None else (address.local, address.domain)


def message_row(message: Spooled) -> tuple[Any, ...]:
    """For MESSAGE_COLUMNS and data."""
    envelope, content = message.envelope, message.content
    meta = (
        _address(envelope.reverse_path), envelope.smtputf8, envelope.body, envelope.ret, envelope.envid, envelope.extra,
        message.received_s, message.account, message.origin, message.message_id, message.hops,
    )  # fmt: skip
    return message.id, content.sha256, content.size, _encode(meta), message.prefix, content.data


def message_of(row: Iterable[Any], data: bytes | None = None) -> Spooled:
    """A row of MESSAGE_COLUMNS, with the content's data where it was asked for."""
    number, sha256, size, meta, prefix = row
    reverse, smtputf8, body, ret, envid, extra, received_s, account, origin, message_id, hops = _decode(meta)
    reverse_path = Address(*reverse) if reverse else None
    envelope = Envelope(reverse_path, (), smtputf8, body, ret, envid, extra)
    content = Content(sha256, size, data)
    account_id = AccountId(account) if account is not None else None
    return Spooled(SpoolId(number), envelope, content, prefix, received_s, account_id, origin, message_id, hops)


def target_text(target: Target) -> str:
    """ "local:…", "remote:…": what jobs are grouped by."""
    return f"{target.kind}:{target.name}"


def job_row(job: Job, holder: int, token: int) -> tuple[Any, ...]:
    """For JOB_COLUMNS."""
    recipient = job.recipient
    meta = (
        _address(recipient.address), recipient.orcpt, sorted(recipient.notify), _address(job.original), job.queued_s,
        job.expires_s,
    )  # fmt: skip
    return (
        job.spool_id, job.id, target_text(job.target), _STATES[job.state], holder, token, job.next_s, job.attempts,
        int(job.delay_reported), job.last, _encode(meta),
    )  # fmt: skip


def job_of(row: Iterable[Any]) -> tuple[Job, int, int]:
    """A row of JOB_COLUMNS: the job, its holder and token."""
    spool_id, number, target, state, holder, token, next_s, attempts, delay_reported, last, meta = row
    address, orcpt, notify, original, queued_s, expires_s = _decode(meta)
    kind, _, name = target.partition(":")
    job = Job(
        JobId(number), SpoolId(spool_id), Recipient(Address(*address), orcpt, frozenset(notify)), Target(kind, name),
        STATE_NAMES[state], attempts, queued_s, next_s, expires_s, bool(delay_reported), last,
        Address(*original) if original else None,
    )  # fmt: skip
    return job, holder, token


def last_words(outcome: Deferred | Failed) -> str:
    """What `Job.last` says of an outcome."""
    remote = f" ({outcome.remote})" if outcome.remote else ""
    return f"{outcome.status} {outcome.text}{remote}".rstrip()


def pack_events(events: Iterable[TraceEvent]) -> bytes:
    """Several trace events as one value."""
    return _encode([
        (e.at_s, e.spool_id, e.event, e.recipient, e.message_id, e.sender, e.fields) for e in events
    ])  # fmt: skip


def unpack_events(packed: bytes) -> list[TraceEvent]:
    """What `pack_events` made."""
    return [TraceEvent(at_s, SpoolId(sid), *rest) for at_s, sid, *rest in _decode(packed)]


def event_names(event: TraceEvent) -> tuple[str, ...]:
    """The texts that an event can be found by; some are empty. `original` is the address that led to the recipient."""
    return event.spool_id.hex(), event.recipient, event.message_id, event.sender, event.fields.get("original", "")


def event_keys(event: TraceEvent) -> set[int]:
    """Hashes of those texts."""
    return {text_key(text) for text in event_names(event) if text}


def text_key(text: str) -> int:
    """A hash of a text, case folded, as SQLite's integer. Collisions are sorted out by whoever reads."""
    digest = hashlib.blake2b(text.casefold().encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
