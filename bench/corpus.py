"""Messages for the benches: varied headers, plain texts, alternatives, attachments, forwarded mail. Seeded."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

WORDS = [
    "harbour", "lantern", "meadow", "copper", "violin", "orchard", "granite", "whistle",
    "ember", "saddle", "thimble", "walnut", "compass", "feather", "barrel", "cinder",
    "hollow", "marble", "needle", "ribbon", "spindle", "timber", "velvet", "willow",
    "anchor", "basket", "candle", "dragon", "engine",
]  # fmt: skip
NAMES = (
    "Ada Lovelace", "Bob Marlow", "Jörg Müller", "Zoë Díaz", "Chen Wei", "O'Brien, Pat", "山田太郎", "Ünal Çelik"
)  # fmt: skip
BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)


def corpus(count: int, seed: int = 2) -> Iterator[bytes]:
    """Yield `count` messages in wire form, about 2–6 KB each; the same for the same seed."""
    chance = random.Random(seed)
    for number in range(count):
        yield _message(chance, number)


def _message(chance: random.Random, number: int) -> bytes:
    sender, to = _address(chance), [_address(chance) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
    fields = [
        f"Return-Path: <{WORDS[number % 29]}@sender.test>",
        f"Received: from mx{number % 7}.sender.test (mx{number % 7}.sender.test [192.0.2.{number % 250}])\r\n"
        f"\tby mx.pillarbox.test with ESMTPS id {number:x} for <someone@pillarbox.test>;\r\n"
        f"\t{format_datetime(BEGINNING + timedelta(minutes=number))}",
        f"Date: {format_datetime(BEGINNING + timedelta(minutes=number))}",
        f"From: {sender}",
        f"To: {', '.join(to)}",
        f"Subject: {_subject(chance, number)}",
        f"Message-ID: <{number}.{chance.randrange(1 << 40):x}@sender.test>",
        "MIME-Version: 1.0",
    ]
    if number % 3 == 0:
        fields.append(f"Cc: {_address(chance)},\r\n {_address(chance)}")
    if number % 2:
        ids = " ".join(f"<{number - back}.x@sender.test>" for back in range(1, chance.randrange(2, 6)))
        fields += [f"In-Reply-To: {ids.split()[0]}", f"References: {ids}"]
    if number % 5 == 0:
        fields += ["List-Id: <list.sender.test>", "List-Unsubscribe: <mailto:leave@sender.test>", "Precedence: list"]
    fields.append(f"X-Spam-Score: {chance.random():.2f}")
    content_type, body = _body(chance, number)
    return ("\r\n".join([*fields, content_type]) + "\r\n\r\n" + body).encode()


def _address(chance: random.Random) -> str:
    name = chance.choice(NAMES)
    if not name.isascii():
        name = f"=?utf-8?B?{base64.b64encode(name.encode()).decode()}?="
    elif "," in name or "'" in name:
        name = f'"{name}"'
    return f"{name} <{chance.choice(WORDS)}.{chance.randrange(500)}@{chance.choice(WORDS)}.test>"


def _subject(chance: random.Random, number: int) -> str:
    text = " ".join(chance.choices(WORDS, k=chance.randrange(2, 9)))
    if number % 7 == 0:
        return f"=?utf-8?Q?Gr=C3=BC=C3=9Fe:_{text.replace(' ', '_')[:40]}?="
    return f"{'Re: ' if number % 2 else ''}{text}"


def _lines(chance: random.Random, count: int) -> str:
    return "\r\n".join(" ".join(chance.choices(WORDS, k=10)) for _ in range(count)) + "\r\n"


def _body(chance: random.Random, number: int) -> tuple[str, str]:
    """Return the Content-Type field and the body: one in two is plain text."""
    plain = "Content-Type: text/plain; charset=utf-8"
    kind = number % 6
    if kind < 3:
        return f"{plain}; format=flowed\r\nContent-Transfer-Encoding: 8bit", _lines(chance, chance.randrange(10, 60))
    inner = f"b{number}"
    alternative = (
        f"--{inner}\r\n{plain}\r\n\r\n{_lines(chance, 12)}--{inner}\r\nContent-Type: text/html; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>{_lines(chance, 12)}</p>\r\n--{inner}--\r\n"
    )
    if kind == 3:
        return f'Content-Type: multipart/alternative;\r\n boundary="{inner}"', alternative
    if kind == 4:
        data = base64.encodebytes(chance.randbytes(1500)).decode().replace("\n", "\r\n")
        attached = (
            f"--out\r\nContent-Type: multipart/alternative; boundary={inner}\r\n\r\n{alternative}--out\r\n"
            f'Content-Type: application/pdf; name="{chance.choice(WORDS)}.pdf"\r\nContent-Transfer-Encoding: base64\r\n'
            f'Content-Disposition: attachment; filename="{chance.choice(WORDS)}.pdf"\r\n\r\n{data}--out--\r\n'
        )
        return 'Content-Type: multipart/mixed; boundary="out"', attached
    forwarded = (
        f"--fw\r\n{plain}\r\n\r\n{_lines(chance, 4)}--fw\r\nContent-Type: message/rfc822\r\n\r\n"
        f"From: {_address(chance)}\r\nTo: {_address(chance)}\r\nSubject: {_subject(chance, 1)}\r\n"
        f"Date: {format_datetime(BEGINNING)}\r\nMessage-ID: <f{number}@sender.test>\r\n{plain}\r\n\r\n"
        f"{_lines(chance, 8)}--fw--\r\n"
    )
    return 'Content-Type: multipart/mixed; boundary="fw"', forwarded
