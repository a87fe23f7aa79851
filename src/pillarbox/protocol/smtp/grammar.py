"""What SMTP commands are made of: host names, paths, parameters. Octets to values; what is wrong is raised as Mistaken.

Source: RFC 5321 §4.1.2 (grammar), §4.1.1.3 and appendix C (source routes), §4.5.3.1 (sizes), RFC 6531 §3.3 (UTF-8),
RFC 3461 §4, §5 (DSN parameters), RFC 1870 (SIZE), RFC 6152 (BODY), RFC 4954 §5 (AUTH=).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from pillarbox.model.address import Address, make_address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import PeerError
from pillarbox.model.status import Status
from pillarbox.protocol.smtp.events import Mail
from pillarbox.protocol.smtp.replies import Reply

MAX_LOCAL_OCTETS: Final = 64
MAX_PATH_OCTETS: Final = 256
MAX_HELLO_OCTETS: Final = 255
MAX_ENVID_CHARS: Final = 100
MAX_ORCPT_CHARS: Final = 500
NO_USER: Final = Status(5, 1, 1)
BAD_RECIPIENT: Final = Status(5, 1, 3)
BAD_SENDER: Final = Status(5, 1, 7)
BAD_PARAMETER: Final = Status(5, 5, 4)
SYNTAX: Final = Status(5, 5, 2)
NEEDS_SMTPUTF8: Final = Status(5, 6, 7)
RELAY_DENIED: Final = Status(5, 7, 1)
TOO_BIG: Final = Status(5, 3, 4)

_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]"
_COMMON_PATH: Final = re.compile(r"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64})@([A-Za-z0-9.-]{1,190})>(?: |\Z)")
"""What nearly every path looks like; dots and labels are checked after it."""
_ROUTE: Final = re.compile(r"@[^@,:<>\s]+(?:,@[^@,:<>\s]+)*:")
_DOT_STRING: Final = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_LENIENT_LOCAL: Final = re.compile(rf"(?:{_ATEXT}|:)+(?:\.(?:{_ATEXT}|:)+)*")
"""For recipients: what is no dot-string but cannot mean anything else either is an unknown user (case 78)."""
_QUOTED: Final = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*)"')
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\u0080-\U0010ffff]+))?")
_XTEXT: Final = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_XTEXT_CODE: Final = re.compile(r"\+([0-9A-F]{2})")
_UNITEXT_CODE: Final = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_NOTIFY: Final = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})


class Mistaken(PeerError):
    """The command is wrong; carries the reply to give."""

    def __init__(self, code: int, status: Status, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, status, text)


def parse_hello(argument: bytes) -> str:
    """The name after HELO, EHLO or LHLO: anything printable of at most 255 octets, as policy does not depend on it.

    Raises Mistaken. Source: RFC 5321 §4.1.1.1, §4.1.4 (a name that does not verify is no reason to refuse); case 79.
    """
    name = argument.strip()
    if not 0 < len(name) <= MAX_HELLO_OCTETS or not name.isascii():
        raise Mistaken(501, BAD_PARAMETER, "a host name is needed")
    text = name.decode("ascii")
    if not text.isprintable() or " " in text:
        raise Mistaken(501, BAD_PARAMETER, "a host name is needed")
    return text


def parse_mail(argument: bytes, size_limit: int, allows_binary: bool = False) -> Mail:
    """What follows `MAIL`: `FROM:<path> parameters`. Raises Mistaken. Source: RFC 5321 §4.1.1.2."""
    text = _take_keyword(argument, b"FROM:", BAD_SENDER)
    if (common := _COMMON_PATH.match(text)) and (address := _common_address(common[1], common[2])):
        path: Address | None = address
        rest = text[common.end() :]
    else:
        path, rest = _parse_path(text, BAD_SENDER, may_be_null=True)
    if not rest and (path is None or path.local.isascii()):
        return Mail(Envelope(path), 0)
    size, body, utf8, ret, envid = 0, "7BIT", False, "", ""
    for name, value in _parameters(rest).items():
        match name:
            case "SIZE":
                size = _parse_size(value, size_limit)
            case "BODY":
                body = value.upper()
                if body not in ("7BIT", "8BITMIME") and not (allows_binary and body == "BINARYMIME"):
                    raise Mistaken(501, BAD_PARAMETER, "BODY not supported")
            case "SMTPUTF8" if not value:
                utf8 = True
            case "RET" if value.upper() in ("FULL", "HDRS"):
                ret = value.upper()
            case "ENVID" if 0 < len(value) <= MAX_ENVID_CHARS:
                envid = _decode_xtext(value)
            case "AUTH" if value and _XTEXT.fullmatch(value):
                pass  # RFC 4954 §5: we trust nobody's word here, so it counts as AUTH=<>
            case "SMTPUTF8" | "RET" | "ENVID" | "AUTH":
                raise Mistaken(501, BAD_PARAMETER, f"bad value of {name}")
            case _:
                raise Mistaken(555, BAD_PARAMETER, "parameter not supported")
    if not utf8 and not (text.isascii()):
        raise Mistaken(553, NEEDS_SMTPUTF8, "address needs SMTPUTF8")
    return Mail(Envelope(path, smtputf8=utf8, body=body, ret=ret, envid=envid), size)


def parse_rcpt(argument: bytes, smtputf8: bool) -> Recipient:
    """What follows `RCPT`: `TO:<path> parameters`. Raises Mistaken. Source: RFC 5321 §4.1.1.3."""
    text = _take_keyword(argument, b"TO:", BAD_RECIPIENT)
    if (common := _COMMON_PATH.match(text)) and (address := _common_address(common[1], common[2])):
        path: Address | None = address
        rest = text[common.end() :]
    else:
        path, rest = _parse_path(text, BAD_RECIPIENT, may_be_null=False)
        if not smtputf8 and not text.isascii():
            raise Mistaken(553, NEEDS_SMTPUTF8, "address needs SMTPUTF8")
    assert path is not None
    if not rest:
        return Recipient(path)
    orcpt, notify = "", frozenset[str]()
    for name, value in _parameters(rest).items():
        match name:
            case "NOTIFY":
                notify = frozenset(value.upper().split(","))
                if not notify <= _NOTIFY or ("NEVER" in notify and len(notify) > 1):
                    raise Mistaken(501, BAD_PARAMETER, "bad value of NOTIFY")
            case "ORCPT" if 0 < len(value) <= MAX_ORCPT_CHARS:
                orcpt = _parse_orcpt(value)
            case "ORCPT":
                raise Mistaken(501, BAD_PARAMETER, "bad value of ORCPT")
            case _:
                raise Mistaken(555, BAD_PARAMETER, "parameter not supported")
    return Recipient(path, orcpt, notify)


@lru_cache(maxsize=4096)
def _common_address(local: str, domain: str) -> Address | None:
    """An address whose characters are right: are its dots?"""
    if local.startswith(".") or local.endswith(".") or ".." in local:
        return None
    return make_address(local, domain)


def _take_keyword(argument: bytes, keyword: bytes, status: Status) -> str:
    """The text after `FROM:` or `TO:`. A space after the colon is let through, as some clients send one."""
    if argument[: len(keyword)].upper() != keyword:
        raise Mistaken(501, BAD_PARAMETER, f"{keyword.decode()}<address> is needed")
    try:
        return argument[len(keyword) :].strip(b" ").decode()
    except UnicodeDecodeError:
        raise Mistaken(553, NEEDS_SMTPUTF8, "address is not UTF-8") from None


def _parse_path(text: str, status: Status, may_be_null: bool) -> tuple[Address | None, str]:
    """`<path>` and what follows the space after it. Source: RFC 5321 §4.1.2."""

    def wrong(what: str) -> Mistaken:
        return Mistaken(501, status, what)

    if not text.startswith("<"):
        raise wrong("address must be in <>")
    if text.startswith("<>"):
        if not may_be_null:
            raise wrong("null address is no recipient")
        return None, _rest_after(text, 2, status)
    at = 1
    if route := _ROUTE.match(text, 1):
        if may_be_null:  # a reverse-path with a route: nobody sends them, except to deceive (case 133)
            raise wrong("source routes are not supported")
        at = route.end()  # RFC 5321 §4.1.1.3: ignored
    if quoted := _QUOTED.match(text, at):
        local, at = _QUOTED_PAIR.sub(r"\1", quoted[1]), quoted.end()
    else:
        end = _local_end(text, at)
        local, at = text[at:end], end
        if not _DOT_STRING.fullmatch(local) and (may_be_null or not _LENIENT_LOCAL.fullmatch(local)):
            raise wrong("bad local part")
    if not 0 < len(local.encode()) <= MAX_LOCAL_OCTETS:
        raise wrong("local part too short or too long")
    end = text.find(">", at)
    if end < 0 or end > MAX_PATH_OCTETS * 2:
        raise wrong("address must be in <>")
    domain = text[at:end]
    rest = _rest_after(text, end + 1, status)
    if not domain:
        if local.lower() == "postmaster" and not may_be_null:  # RFC 5321 §4.1.1.3
            return Address("postmaster", ""), rest
        raise wrong("domain missing") if may_be_null else Mistaken(550, RELAY_DENIED, "domain missing")
    address = _address(local, domain.removeprefix("@")) if domain.startswith("@") else None
    if address is None:
        if not may_be_null and domain.count("@") > 1:  # a@b@c: asks us to relay (case 71)
            raise Mistaken(550, RELAY_DENIED, "relay denied")
        raise wrong("bad domain")
    return address, rest


def _local_end(text: str, at: int) -> int:
    """Where an unquoted local part ends: before the first "@", or before ">" where there is none."""
    bracket = text.find(">", at)
    end = text.find("@", at)
    if end < 0 or (0 <= bracket < end):
        end = bracket if bracket >= 0 else len(text)
    return end


def _rest_after(text: str, at: int, status: Status) -> str:
    """What follows a path: nothing, or a space and parameters."""
    if at == len(text):
        return ""
    if text[at] != " ":
        raise Mistaken(501, status, "address must be followed by a space")
    return text[at + 1 :]


def _address(local: str, domain: str) -> Address | None:
    """With a domain or an address literal; None if it is neither. Source: RFC 5321 §4.1.3, §4.5.3.1.3."""
    if domain.startswith("[") and domain.endswith("]"):
        literal = _parse_literal(domain[1:-1])
        return Address(local, literal) if literal else None
    address = make_address(local, domain)
    return address if address and len(str(address).encode()) + 2 <= MAX_PATH_OCTETS else None


def _parse_literal(text: str) -> str | None:
    """An address literal in canonical form, with its brackets. Source: RFC 5321 §4.1.3."""
    try:
        if text[:5].upper() == "IPV6:":
            return None if "%" in text else f"[ipv6:{IPv6Address(text[5:])}]"
        return f"[{IPv4Address(text)}]"
    except AddressValueError:
        return None


def _parameters(text: str) -> dict[str, str]:
    """Names in capitals to values ("" if none). Raises Mistaken. Source: RFC 5321 §4.1.2 (esmtp-param)."""
    found: dict[str, str] = {}
    for word in text.split(" "):
        if not word:
            continue
        parsed = _PARAMETER.fullmatch(word)
        if not parsed:
            raise Mistaken(501, BAD_PARAMETER, "bad parameter")
        name = parsed[1].upper()
        if name in found or len(found) == 16:
            raise Mistaken(501, BAD_PARAMETER, "parameter given twice")
        found[name] = parsed[2] or ""
    return found


def _parse_size(value: str, size_limit: int) -> int:
    """Source: RFC 1870 §6 (up to 20 digits); case 63."""
    if not value.isascii() or not value.isdigit() or len(value) > 20:
        raise Mistaken(501, BAD_PARAMETER, "bad value of SIZE")
    size = int(value)
    if size > size_limit:
        raise Mistaken(552, TOO_BIG, "message too big")
    return size


def _decode_xtext(value: str) -> str:
    """xtext to printable ASCII; what decodes to anything else is refused (case 81). Source: RFC 3461 §4."""
    decoded = _XTEXT_CODE.sub(lambda m: chr(int(m[1], 16)), value) if _XTEXT.fullmatch(value) else "\0"
    if not decoded.isascii() or not decoded.isprintable():
        raise Mistaken(501, BAD_PARAMETER, "bad xtext")
    return decoded


def _parse_orcpt(value: str) -> str:
    """`type;address`, decoded. Source: RFC 3461 §4.2, RFC 6533 §3 (utf-8 type)."""
    kind, semicolon, text = value.partition(";")
    if not semicolon or not _DOT_STRING.fullmatch(kind) or not kind.isascii():
        raise Mistaken(501, BAD_PARAMETER, "bad value of ORCPT")
    if kind.lower() != "utf-8":
        return f"{kind};{_decode_xtext(text)}"
    try:
        decoded = _UNITEXT_CODE.sub(lambda m: chr(int(m[1], 16)), text)
    except (ValueError, OverflowError):
        decoded = "\0"
    if not decoded.isprintable():
        raise Mistaken(501, BAD_PARAMETER, "bad value of ORCPT")
    return f"{kind};{decoded}"


def encode_xtext(text: str) -> str:
    """The inverse of `_decode_xtext`, for what we send. Source: RFC 3461 §4."""
    return "".join(c if 0x21 <= ord(c) <= 0x7E and c not in "+=" else f"+{ord(c):02X}" for c in text)
