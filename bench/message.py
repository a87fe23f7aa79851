"""How fast messages are read, beside the standard library's parser, on the same messages in the same run.

    .venv/bin/python bench/message.py [--rounds N]

Each round times the three readers one after the other on every message, so that a busy machine slows all alike; the
best round of each counts. Prints microseconds a message and the ratio to `email.message_from_bytes` (compat32).
"""

from __future__ import annotations

import argparse
import base64
import email
import random
import sys
from collections.abc import Callable
from time import process_time_ns

from pillarbox.message.scan import scan
from pillarbox.message.wire import wire_forms

PROSE = (
    "mail is a promise once we answer that it is ours it will not be lost the store keeps what came in and readers "
    "get it back octet for octet whether or not the sender knew what he was doing when the message left"
)
WORDS = PROSE.split()


def prose(chance: random.Random, octets: int) -> bytes:
    """Lines of words, about as many octets as asked for."""
    lines: list[str] = []
    size = 0
    while size < octets:
        line = " ".join(chance.choices(WORDS, k=chance.randint(6, 12)))
        lines.append(line)
        size += len(line) + 2
    return "\r\n".join(lines).encode() + b"\r\n"


def head(chance: random.Random, content_type: str, number: int) -> bytes:
    """Eight header fields, as of a message that one person writes to another."""
    return (
        f'From: "Sender {number}" <sender{number}@example.org>\r\n'
        f"To: Ada Lovelace <ada{number % 50}@pillarbox.test>\r\n"
        f"Subject: Re: {' '.join(chance.choices(WORDS, k=5))}\r\n"
        f"Date: Mon, {chance.randint(1, 28)} Nov 2026 12:{chance.randint(10, 59)}:00 +0100\r\n"
        f"Message-ID: <{chance.getrandbits(64):x}@example.org>\r\n"
        f"References: <{chance.getrandbits(64):x}@pillarbox.test>\r\n"
        "MIME-Version: 1.0\r\n"
        f"Content-Type: {content_type}\r\n"
    ).encode()


def trace(chance: random.Random) -> bytes:
    """What a message carries that has crossed three hosts and a list."""
    hops = "".join(
        f"Received: from host{i}.example.org (host{i}.example.org [192.0.2.{i}])\r\n"
        f"\tby mx{i}.example.net (Postfix) with ESMTPS id {chance.getrandbits(40):X}\r\n"
        f"\tfor <list@example.net>; Mon, 23 Nov 2026 12:00:0{i} +0000 (UTC)\r\n"
        for i in range(3)
    )
    signature = base64.b64encode(chance.randbytes(256)).decode()
    folded = "\r\n\t ".join(signature[i : i + 70] for i in range(0, len(signature), 70))
    return (
        f"{hops}DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=s1;\r\n\tb={folded}\r\n"
        "X-Mailer: Example Mail 3.1\r\nList-Id: <list.example.net>\r\n"
        "List-Unsubscribe: <mailto:list-request@example.net?subject=unsubscribe>\r\nPrecedence: list\r\n"
    ).encode()


def plain(chance: random.Random, number: int) -> bytes:
    return head(chance, "text/plain; charset=utf-8", number) + b"\r\n" + prose(chance, 3600)


def listed(chance: random.Random, number: int) -> bytes:
    return trace(chance) + plain(chance, number)


def alternative(chance: random.Random, number: int) -> bytes:
    boundary = f"=_{chance.getrandbits(64):x}"
    html = b"<html><body>" + b"".join(b"<p>" + prose(chance, 200) + b"</p>" for _ in range(10)) + b"</body></html>\r\n"
    return (
        trace(chance)
        + head(chance, f'multipart/alternative; boundary="{boundary}"', number)
        + f"\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n".encode()
        + prose(chance, 2000)
        + f"\r\n--{boundary}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n".encode()
        + html
        + f"\r\n--{boundary}--\r\n".encode()
    )


def attachment(chance: random.Random, number: int) -> bytes:
    boundary = f"------------{chance.getrandbits(64):x}"
    return (
        trace(chance)
        + head(chance, f'multipart/mixed; boundary="{boundary}"', number)
        + f"\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n".encode()
        + prose(chance, 500)
        + f"\r\n--{boundary}\r\nContent-Type: application/pdf; name=x.pdf\r\n"
        f'Content-Disposition: attachment; filename="x.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'.encode()
        + base64.encodebytes(chance.randbytes(60_000)).replace(b"\n", b"\r\n")
        + f"--{boundary}--\r\n".encode()
    )


def forwarded(chance: random.Random, number: int) -> bytes:
    boundary = f"fwd{chance.getrandbits(32):x}"
    return (
        head(chance, f"multipart/mixed; boundary={boundary}", number)
        + f"\r\n--{boundary}\r\n\r\nsee below\r\n--{boundary}\r\nContent-Type: message/rfc822\r\n\r\n".encode()
        + alternative(chance, number)
        + f"\r\n--{boundary}--\r\n".encode()
    )


KINDS: tuple[Callable[[random.Random, int], bytes], ...] = (plain, listed, alternative, attachment, forwarded)


def timed(read: Callable[[bytes], object], messages: list[bytes]) -> float:
    """Microseconds of CPU a message."""
    start = process_time_ns()
    for message in messages:
        read(message)
    return (process_time_ns() - start) / 1000 / len(messages)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=200, help="of each kind")
    options = parser.parse_args()
    chance = random.Random(5322)
    print(f"{'kind':<14}{'octets':>8}{'stdlib µs':>11}{'scan µs':>9}{'wire µs':>9}{'scan ratio':>12}{'wire ratio':>12}")
    totals = [0.0, 0.0, 0.0]
    for kind in KINDS:
        messages = [kind(chance, number) for number in range(options.messages)]
        rounds = [
            [timed(read, messages) for read in (email.message_from_bytes, scan, wire_forms)]
            for _ in range(options.rounds)
        ]
        best = [min(column) for column in zip(*rounds, strict=True)]
        totals = [total + value for total, value in zip(totals, best, strict=True)]
        row(kind.__name__, sum(map(len, messages)) // len(messages), best)
    row("all", 0, totals)
    return 0


def row(name: str, octets: int, times: list[float]) -> None:
    stdlib, scanned, wire = times
    ratios = f"{scanned / stdlib:>12.2f}{wire / stdlib:>12.2f}"
    print(f"{name:<14}{octets:>8}{stdlib:>11.1f}{scanned:>9.1f}{wire:>9.1f}{ratios}")


if __name__ == "__main__":
    sys.exit(main())
