"""`pillarbox queue` and `trace`: what waits, why, and what happened to a message."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from pillarbox.cli.output import format_age, format_size, format_time, json_time, printable, table
from pillarbox.cli.program import DATA, NO_USER, Answer, CommandError, Opened, Program
from pillarbox.cli.session import with_store
from pillarbox.model.ids import JobId, SpoolId
from pillarbox.store.api import Job, Selection, Spooled, TraceEvent

_ID: Final = re.compile(r"[0-9a-f]{32}")


def queue_list(program: Program, args: argparse.Namespace) -> Answer:
    async def work(opened: Opened) -> tuple[list[tuple[Job, Spooled]], dict[str, int]]:
        selection = await _selection(opened, args)
        return await opened.store.spool.peek(replace(selection, limit=args.limit)), await opened.store.spool.counts()

    found, counts = with_store(program, args, work)
    now = time.time()
    rows = [
        (
            job.id.hex(),
            job.state,
            format_age(now - job.queued_s),
            format_size(message.content.size),
            _sender(message),
            str(job.recipient.address),
            str(job.attempts),
            format_time(job.next_s) if job.state == "queued" else "-",
            job.last[:100],
        )
        for job, message in found
    ]
    heads = ("ID", "STATE", "AGE", "SIZE", "SENDER", "RECIPIENT", "TRIES", "NEXT TRY", "LAST ANSWER")
    total = f"{counts.get('queued', 0)} queued, {counts.get('held', 0)} held, {counts.get('messages', 0)} messages"
    if rows:
        lines = (*table(heads, rows), total)
    else:
        others = counts.get("queued", 0) + counts.get("held", 0)
        lines = (f"nothing of that waits ({others} others do)" if others else "nothing waits",)
    return Answer(lines, {"jobs": [_as_value(job, message) for job, message in found], "counts": counts})


def queue_show(program: Program, args: argparse.Namespace) -> Answer:
    async def work(opened: Opened) -> tuple[list[tuple[Job, Spooled]], dict[bytes, list[TraceEvent]]]:
        found = await opened.store.spool.peek(await _by_ids(opened, args.id))
        ids = dict.fromkeys(message.id for _, message in found)
        return found, {spool_id: await opened.store.spool.trace(spool_id.hex()) for spool_id in ids}

    found, events = with_store(program, args, work)
    lines: list[str] = []
    values: list[dict[str, Any]] = []
    for job, message in found:
        value = _as_value(job, message)
        lines += [f"{key:>14}  {printable(str(item))}" for key, item in value.items() if item not in (None, "")]
        lines += [*_event_lines(events[message.id]), ""]
        values.append({**value, "events": [_event_value(event) for event in events[message.id]]})
    return Answer(tuple(lines[:-1]), values)


def queue_retry(program: Program, args: argparse.Namespace) -> Answer:
    held: list[str] = []

    async def retry(opened: Opened, chosen: Selection) -> int:
        if chosen.state != "queued":
            held.extend(job.id.hex() for job, _ in await opened.store.spool.peek(replace(chosen, state="held")))
        return await opened.store.spool.retry(chosen, time.time())

    answer = _change(program, args, "due now", retry)
    if not held:
        return answer
    line = f"{len(held)} held, and not tried: `pillarbox queue release` lets them go"
    return replace(answer, lines=(*answer.lines, line), value={**answer.value, "held": len(held)})


def queue_hold(program: Program, args: argparse.Namespace) -> Answer:
    async def hold(opened: Opened, chosen: Selection) -> int:
        return await opened.store.spool.hold(chosen, await _events(opened, chosen, "held"))

    return _change(program, args, "held", hold)


def queue_release(program: Program, args: argparse.Namespace) -> Answer:
    async def release(opened: Opened, chosen: Selection) -> int:
        if chosen.state == "queued":
            return 0
        held = replace(chosen, state="held")
        return await opened.store.spool.release(held, time.time(), await _events(opened, held, "released"))

    return _change(program, args, "released", release)


def queue_drop(program: Program, args: argparse.Namespace) -> Answer:
    async def drop(opened: Opened, chosen: Selection) -> int:
        return await opened.store.spool.drop(chosen, time.time(), await _events(opened, chosen, "dropped"))

    return _change(program, args, "dropped", drop)


def _change(
    program: Program, args: argparse.Namespace, done: str, change: Callable[[Opened, Selection], Awaitable[int]]
) -> Answer:
    chosen = (args.id, args.domain, args.sender, args.recipient, args.state)
    if not args.all and not any(chosen):
        raise CommandError("which? Give ids, --domain, --sender, --recipient, --state or --all.")
    if args.all and any(chosen):
        raise CommandError("--all does not go with a choice; give one or the other")

    async def work(opened: Opened) -> int:
        count = await change(opened, await _selection(opened, args))
        opened.signals.publish("spool")
        return count

    count = with_store(program, args, work)
    return Answer((f"{count} {done}",), {"count": count})


async def _events(opened: Opened, chosen: Selection, event: str) -> list[TraceEvent]:
    now = time.time()
    found = await opened.store.spool.peek(chosen)
    return [TraceEvent(now, message.id, event, str(job.recipient.address)) for job, message in found]


async def _selection(opened: Opened, args: argparse.Namespace) -> Selection:
    chosen = await _by_ids(opened, args.id) if args.id else Selection()
    return replace(
        chosen,
        domain=args.domain.lower(),
        sender=args.sender,
        recipient=args.recipient,
        state=args.state,
    )


async def _by_ids(opened: Opened, texts: list[str]) -> Selection:
    """The jobs that these ids mean: of a recipient, or of a message (all its recipients). Raises CommandError."""
    jobs: list[JobId] = []
    for text in texts:
        if not _ID.fullmatch(text.lower()):
            raise CommandError(f"{text!r} is not an id: 32 hexadecimal digits, as `pillarbox queue list` shows", DATA)
        octets = bytes.fromhex(text)
        found = await opened.store.spool.peek(Selection(jobs=(JobId(octets),)))
        found = found or await opened.store.spool.peek(Selection(spool_ids=(SpoolId(octets),)))
        if not found:
            raise CommandError(
                f"nothing in the queue has the id {text}. What became of it: pillarbox trace {text}", NO_USER
            )
        jobs += [job.id for job, _ in found]
    return Selection(jobs=tuple(dict.fromkeys(jobs)))


def _sender(message: Spooled) -> str:
    return str(message.envelope.reverse_path) if message.envelope.reverse_path else "<>"


def _as_value(job: Job, message: Spooled) -> dict[str, Any]:
    return {
        "id": job.id.hex(),
        "message": message.id.hex(),
        "message_id": message.message_id,
        "sender": _sender(message),
        "recipient": str(job.recipient.address),
        "original": str(job.original) if job.original else None,
        "to": f"{job.target.kind} {job.target.name}",
        "state": job.state,
        "size_octets": message.content.size,
        "origin": message.origin,
        "queued": json_time(job.queued_s),
        "next_try": json_time(job.next_s) if job.state == "queued" else None,
        "expires": json_time(job.expires_s),
        "attempts": job.attempts,
        "last_answer": job.last,
    }


# --- trace ----------------------------------------------------------------------------------------------------------


def run_trace(program: Program, args: argparse.Namespace) -> Answer:
    async def work(opened: Opened) -> tuple[list[TraceEvent], float]:
        return await _traced(opened, args), opened.settings.queue.trace_days

    events, days = with_store(program, args, work)
    if not events:
        raise CommandError(
            f"nothing is known of {printable(args.text)}; events are kept for {days:g} days (queue.trace_days)", NO_USER
        )
    return Answer(tuple(_event_lines(events)), [_event_value(event) for event in events])


async def _traced(opened: Opened, args: argparse.Namespace) -> list[TraceEvent]:
    text = args.text.strip()
    bare = text.removeprefix("<").removesuffix(">")
    for form in dict.fromkeys((text, bare, f"<{bare}>")):  # Message-IDs are kept as they came, mostly without <>
        if found := await opened.store.spool.trace(form, args.limit):
            return found
    if not _ID.fullmatch(bare.lower()):
        return []
    queued = await opened.store.spool.peek(Selection(jobs=(JobId(bytes.fromhex(bare)),)))
    return await opened.store.spool.trace(queued[0][1].id.hex(), args.limit) if queued else []


def _event_lines(events: list[TraceEvent]) -> list[str]:
    return [
        f"{format_time(event.at_s)}  {event.spool_id.hex()}  {event.event:<9}  "
        + printable(
            " ".join(
                part
                for part in (
                    f"<{event.sender}> " if event.sender else "",
                    f"→ {event.recipient}" if event.recipient else "",
                    *(f"{key}={value}" for key, value in event.fields.items()),
                )
                if part
            )
        )
        for event in events
    ]


def _event_value(event: TraceEvent) -> dict[str, Any]:
    return {
        "at": json_time(event.at_s),
        "message": event.spool_id.hex(),
        "event": event.event,
        "sender": event.sender,
        "recipient": event.recipient,
        "message_id": event.message_id,
        **{f"field_{key}": value for key, value in event.fields.items()},
    }
