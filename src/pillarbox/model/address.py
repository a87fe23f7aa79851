"""A mailbox address as the envelope carries it, parsed: local part and domain.

Grammar is the business of whoever reads octets (`protocol/smtp/grammar`, `message/fields`); this is the value
they agree on. Source: RFC 5321 §4.1.2, RFC 6531 §3.3, RFC 5890 (A-labels).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_DOT_STRING = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+)*"
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Address:
    """`local` is the unquoted local part (case kept), `domain` is lower case: A-labels, or a literal "[127.0.0.1]".

    An empty domain stands for the bare `postmaster` of RFC 5321 §4.1.1.3.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return _format(self.local, self.domain)

    @property
    def needs_smtputf8(self) -> bool:
        """True if the address cannot travel without SMTPUTF8 (RFC 6531 §3.3)."""
        return not self.local.isascii()

    @property
    def key(self) -> str:
        """What two spellings of one address have in common here: local part case-folded. For look-ups only."""
        return f"{self.local.casefold()}@{self.domain}"

    def without_detail(self, separator: str = "+") -> Address:
        """`ada+list@x` → `ada@x` (RFC 5233 §1); the address itself where there is no detail."""
        base, found, _ = self.local.partition(separator)
        return Address(base, self.domain) if found and base else self


@lru_cache(maxsize=8192)
def _format(local: str, domain: str) -> str:
    if not _DOT_STRING.fullmatch(local):
        local = _quote(local)
    return f"{local}@{domain}" if domain else local


def _quote(local: str) -> str:
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@lru_cache(maxsize=4096)
def canonical_domain(text: str) -> str | None:
    """Lower-case A-labels of a domain name, without the trailing dot; None if it is not a host name.

    Source: RFC 1035 §2.3.4 (63 and 255 octets), RFC 5891 §4 (U-labels by IDNA).
    """
    text = text.removesuffix(".")
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    text = text.lower()
    if not text or len(text) > 253:
        return None
    return text if all(_LABEL.fullmatch(label) for label in text.split(".")) else None


def make_address(local: str, domain: str) -> Address | None:
    """An Address with its domain in canonical form, or None if the domain is not a host name."""
    canonical = canonical_domain(domain)
    return Address(local, canonical) if canonical else None


def parse_address(text: str) -> Address | None:
    """Parse an address that a person wrote (command line, configuration): `local@domain`, quoted local part allowed.

    None if it is not one. Bare `postmaster` is not accepted here. Local part at most 64 octets (RFC 5321 §4.5.3.1.1).
    """
    local, at, domain = text.strip(" \t\r\n").rpartition("@")
    if not at or not local:
        return None
    if local.startswith('"') and local.endswith('"') and len(local) > 2:
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    elif not _DOT_STRING.fullmatch(local):
        return None
    if len(local.encode()) > 64 or any(ord(c) < 32 or ord(c) == 127 for c in local):
        return None
    return make_address(local, domain)
