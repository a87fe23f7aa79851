"""Logs: one line for one thing that happened, as JSON or as text, at most 4 KiB, never a secret in it.

A line is one `write` to a descriptor that is opened for appending (or is a pipe): up to 4 KiB it is whole even where
several processes write. Control characters are escaped, values are shortened, what looks like a password is left out
(CASES 62, 234, 235). A reject storm cannot fill the disk: events about strangers are sampled by address, with a count
of what was left out; what touches credentials is never sampled (CASES 89).
Everybody logs by `structlog.get_logger()`; until `configure_logs` is called, structlog's own defaults hold.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

MAX_LINE_OCTETS: Final = 4096
"""The newline included: PIPE_BUF, so that lines of several processes do not mix (POSIX write())."""
MAX_VALUE_CHARACTERS: Final = 1024
MAX_KEY_CHARACTERS: Final = 64
REDACTED: Final = "[redacted]"
SECRET_KEYS: Final = frozenset(
    ["password", "passwd", "secret", "secrets", "token", "authorization", "credentials", "credential", "private_key"]
    + ["initial_response", "salted", "stored_key", "server_key", "client_key", "cookie", "line", "octets", "body"]
)
"""Fields whose value is never written: secrets, and what a peer said or sent word for word."""
SAMPLED: Final = frozenset(["refused", "session refused", "mistake", "disconnected", "connected", "tls failed"])
"""Events that strangers can cause at will: after SAMPLE_BURST lines of an address in a minute they are counted."""
SAMPLE_BURST: Final = 20
SAMPLE_ADDRESSES: Final = 4096
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Event = MutableMapping[str, Any]

# A credential in the words of SMTP, POP3 and IMAP; what follows it to the end of the line goes.
_SPOKEN_SECRET: Final = re.compile(
    r"(?i)\b(AUTH(?:ENTICATE)?\s+[A-Z0-9-]{3,20}\s+|PASS\s+|LOGIN\s+\S{1,255}\s+|password[=:]\s*|secret[=:]\s*)[^\r\n]+"
)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PLAIN: Final = re.compile(r"[A-Za-z0-9@._<>/+-]{0,256}").fullmatch
"""What needs no cleaning: most values."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class LineWriter:
    """A logger as structlog wants it at the end of its chain: takes whole lines as octets, one `write` for each.

    There is one in a process, which loggers keep: a new file is a new `descriptor` in it.
    """

    descriptor = 2

    def msg(self, line: bytes) -> None:
        """Write a line. What cannot be written is lost: a full disk must not stop the mail."""
        try:
            os.write(self.descriptor, line)
        except OSError:
            return

    debug = info = warning = warn = error = critical = exception = failure = fatal = log = msg


_writer: Final = LineWriter()


def configure_logs(
    level: str = "info", style: str = "json", file: str = "", process: str = "", now: Callable[[], float] = time.time
) -> None:
    """Set up structlog, and lead the standard library's `logging` into it. Call again to change it (after a fork, or
    to open a rotated file again).

    `style` is "json", "text" or "auto" (text on a terminal); `process` is written as field `proc`.
    Raises OSError if `file` cannot be opened.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640) if file else 2
    if style == "auto":
        style = "text" if not file and sys.stderr.isatty() else "json"
    if _writer.descriptor > 2:
        os.close(_writer.descriptor)
    _writer.descriptor = descriptor
    _renderer.configure(style, process, now)
    structlog.configure(
        processors=[_renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _writer,
        # Without this every call builds its logger anew (10 µs). The level of a logger that was used stays.
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(max(LEVELS[level], logging.INFO))


class _Bridge(logging.Handler):
    """What libraries log (asyncio above all) goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        log.log(record.levelno, record.getMessage(), **fields)


class Renderer:
    """structlog's only processor: fields in, one line of octets out. Raises DropEvent for what is sampled away."""

    def __init__(self) -> None:
        self._sampler = Sampler()
        self._second = -1
        self._stamp = ""
        self.configure("json", "", time.time)

    def configure(self, style: str, process: str, now: Callable[[], float]) -> None:
        """`style` is "json" or "text", `process` a field of every line, `now` the wall clock."""
        self._format = _as_text if style == "text" else _as_json
        self._process = process
        self._now = now

    def __call__(self, _logger: object, method: str, event: Event) -> bytes:
        now = self._now()
        name = str(event.pop("event", ""))
        if name in SAMPLED:
            left_out = self._sampler.left_out(str(event.get("peer", "")), now)
            if left_out < 0:
                raise structlog.DropEvent
            if left_out:
                event["left_out"] = left_out
        line: dict[str, Any] = {"at": self._time(now), "level": method, "event": _clean(name)}
        if self._process:
            line["proc"] = self._process
        trouble = event.pop("exc_info", None)
        for key, value in event.items():
            name, is_secret = _names.get(key) or _name(key)
            kind = type(value)
            if is_secret:
                value = REDACTED
            elif kind is str:
                if not _PLAIN(value):
                    value = _clean(value)
            elif kind is not int and kind is not float and kind is not bool and value is not None:
                value = _clean(_text(value))
            line[name if name not in line else name + "_"] = value
        if trouble:
            line["trouble"] = _traceback(trouble)
        return self._format(line)

    def _time(self, now: float) -> str:
        """RFC 3339, UTC, milliseconds."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int((now - second) * 1000):03d}Z"


class Sampler:
    """Counts lines by address, in minutes; bounded to SAMPLE_ADDRESSES addresses."""

    def __init__(self) -> None:
        self._minute = -1
        self._counts: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def left_out(self, peer: str, now: float) -> int:
        """-1: leave this line out. Otherwise write it: how many were left out of this address before it."""
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self._left = {key: n - SAMPLE_BURST for key, n in self._counts.items() if n > SAMPLE_BURST}
            self._counts = {}
        if peer not in self._counts and len(self._counts) >= SAMPLE_ADDRESSES:
            peer = ""
        count = self._counts[peer] = self._counts.get(peer, 0) + 1
        return -1 if count > SAMPLE_BURST else self._left.pop(peer, 0)


_names: Final[dict[str, tuple[str, bool]]] = {}
"""Field name as it came → as it is written, and whether its value must not be."""


def _name(key: str) -> tuple[str, bool]:
    name = key if key.isidentifier() else _clean(key)
    found = name[:MAX_KEY_CHARACTERS], key in SECRET_KEYS or key.endswith(("password", "secret", "_token"))
    if len(_names) < 1024:
        _names[key] = found
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[: MAX_VALUE_CHARACTERS + 1]).decode("latin-1")
    return str(value)


def _clean(text: str) -> str:
    """Shortened, control characters escaped, spoken secrets left out."""
    if len(text) > MAX_VALUE_CHARACTERS:
        text = text[:MAX_VALUE_CHARACTERS] + "…"
    if " " in text or "=" in text or ":" in text:
        text = _SPOKEN_SECRET.sub(r"\1" + REDACTED, text)
    if not text.isprintable():
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text


def _traceback(trouble: Any) -> str:
    """The traceback in one line, its end kept where it is too long. Local variables are never written."""
    if isinstance(trouble, BaseException):
        trouble = (type(trouble), trouble, trouble.__traceback__)
    elif not isinstance(trouble, tuple):
        trouble = sys.exc_info()
    text = "".join(traceback.format_exception(*trouble))
    text = _SPOKEN_SECRET.sub(r"\1" + REDACTED, text).strip()
    text = " | ".join(part.strip() for part in text.split("\n"))
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text if len(text) <= 2400 else "…" + text[-2400:]


def _as_json(line: dict[str, Any]) -> bytes:
    octets: bytes = _encode(line)
    while len(octets) >= MAX_LINE_OCTETS:
        _shorten(line)
        octets = _encode(line)
    return octets + b"\n"


def _shorten(line: dict[str, Any]) -> None:
    """Halve the longest text of the line; where all are short already, drop the last field."""
    key = max((key for key in line if isinstance(line[key], str)), key=lambda key: len(line[key]), default="")
    if key and len(line[key]) > 16:
        line[key] = line[key][: len(line[key]) // 2] + "…"
    else:
        line.popitem()


def _as_text(line: dict[str, Any]) -> bytes:
    """For people at a terminal: time of day, level, event, then fields."""
    at, level, event = line.pop("at"), line.pop("level"), line.pop("event")
    parts = [at[11:19], f"{level:<7}", event]
    for key, value in line.items():
        text = str(value)
        parts.append(f"{key}={text}" if text and " " not in text else f'{key}="{text}"')
    octets = " ".join(parts).encode()
    if len(octets) >= MAX_LINE_OCTETS:
        octets = octets[: MAX_LINE_OCTETS - 4].decode("utf-8", "ignore").encode() + "…".encode()
    return octets + b"\n"


_renderer: Final = Renderer()
