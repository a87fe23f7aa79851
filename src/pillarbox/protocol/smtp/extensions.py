"""What an SMTP server offers in its answer to EHLO, and what that makes of MAIL and RCPT.

Order and answers are the client's (`client.py`). Source: RFC 5321 §4.1.1.1 (keywords), RFC 1870 §6 (SIZE), 3461 §4
(DSN), 6152 §3 (8BITMIME), 6531 §3.4 (SMTPUTF8), 6533 §3 (utf-8 addresses), 9422 §4 (LIMITS).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.outcome import Failed, Outcome
from pillarbox.model.status import Status
from pillarbox.protocol.smtp.grammar import encode_xtext

TOO_BIG: Final = Status(5, 3, 4)
NEEDS_SMTPUTF8: Final = Status(5, 6, 7)

Extensions: TypeAlias = Mapping[str, str]
"""Keywords in capitals to what follows them."""


def parse_extensions(lines: Iterable[str]) -> dict[str, str]:
    """From the lines of a positive answer to EHLO; the first is the greeting. Source: RFC 5321 §4.1.1.1."""
    extensions: dict[str, str] = {}
    for line in list(lines)[1:]:
        keyword, _, value = line.strip().partition(" ")
        extensions[keyword.upper()] = value.strip()
    return extensions


def ruled_out(offers: Extensions, remote: str, size_octets: int, needs_smtputf8: bool) -> Outcome | None:
    """The outcome of a message that the server (`remote`) cannot take; None if it may try."""
    limit = offers.get("SIZE", "")
    if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < size_octets:
        return Failed(TOO_BIG, f"{remote} takes at most {int(limit[:20])} octets")
    if needs_smtputf8 and "SMTPUTF8" not in offers:
        return Failed(NEEDS_SMTPUTF8, f"{remote} does not offer SMTPUTF8")
    return None


def announced_limit(offers: Extensions, name: str, default: int) -> int:
    """A limit that the server announced ("RCPTMAX", "MAILMAX"), at least 1. Source: RFC 9422 §4."""
    for word in offers.get("LIMITS", "").upper().split():
        found, _, value = word.partition("=")
        if found == name and value.isascii() and value.isdigit() and len(value) < 7:
            return max(int(value), 1)
    return default


def mail_command(
    offers: Extensions, envelope: Envelope, size_octets: int, has_eight_bit: bool, needs_smtputf8: bool
) -> bytes:
    """MAIL with the parameters that the server understands, without CRLF."""
    path = str(envelope.reverse_path) if envelope.reverse_path else ""
    words = [f"MAIL FROM:<{path}>"]
    if "SIZE" in offers:
        words.append(f"SIZE={size_octets}")
    if has_eight_bit and "8BITMIME" in offers:
        words.append("BODY=8BITMIME")
    if needs_smtputf8:
        words.append("SMTPUTF8")
    if "DSN" in offers:
        if envelope.ret:
            words.append(f"RET={envelope.ret}")
        if envelope.envid:
            words.append(f"ENVID={encode_xtext(envelope.envid)}")
    return " ".join(words).encode()


def rcpt_command(offers: Extensions, recipient: Recipient) -> bytes:
    """RCPT with the parameters that the server understands, without CRLF."""
    words = [f"RCPT TO:<{recipient.address}>"]
    if "DSN" in offers:
        if recipient.notify:
            words.append(f"NOTIFY={','.join(sorted(recipient.notify))}")
        if recipient.orcpt:
            words.append(f"ORCPT={encode_orcpt(recipient.orcpt)}")
    return " ".join(words).encode()


def encode_orcpt(orcpt: str) -> str:
    """`type;address` for the wire. Source: RFC 3461 §4.2, RFC 6533 §3."""
    kind, _, address = orcpt.partition(";")
    if kind.lower() == "utf-8":
        plain = (c if 0x21 <= ord(c) <= 0x7E and c not in "+=\\" else f"\\x{{{ord(c):02X}}}" for c in address)
        return f"{kind};{''.join(plain)}"
    return f"{kind};{encode_xtext(address)}"
