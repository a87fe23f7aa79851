"""The configuration file: strict TOML into `Settings`, and what is said when it is wrong.

Every table and key is a field of `model/settings.py`; a key that is not there, a value of the wrong type or out of
its range is a `ConfigError` that names the file, the line, the setting and the nearest right name. The file that
`pillarbox init` writes and the manual page pillarbox.toml(5) are made from the same fields (`settings_text.py`).
Source: TOML 1.0 (tomllib reads it); file modes: CASES 230.
"""

from __future__ import annotations

import ipaddress
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from pillarbox.model.address import canonical_domain, parse_address
from pillarbox.model.errors import PillarboxError
from pillarbox.model.settings import Limits, Listener, Logging, Outbound, Queue, Route, Settings, Tls
from pillarbox.toml_lines import line_of

PROTOCOLS: Final = ("smtp", "submission", "lmtp", "imap", "pop3", "metrics")
DEFAULT_PORTS: Final = {
    ("smtp", False): 25,
    ("submission", False): 587,
    ("submission", True): 465,
    ("lmtp", False): 24,
    ("imap", False): 143,
    ("imap", True): 993,
    ("pop3", False): 110,
    ("pop3", True): 995,
    ("metrics", False): 9625,
}
"""(protocol, implicit TLS) → TCP port."""

_CLOSE: Final = 0.7
"""How alike a word must be (difflib) to be what was meant."""

T = TypeVar("T")


class ConfigError(PillarboxError):
    """The configuration cannot be used. `path` is the file, `line` counts from 1 (0: the file as a whole)."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


class _Bad(Exception):
    """A value at a key path is wrong: found while walking, made a ConfigError where the text is known."""

    def __init__(self, key: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


def read_settings(path: Path) -> Settings:
    """Read and check a configuration file. Raises ConfigError, also for a file that others may write or read.

    Modes: others must not be able to write it; nor to read it where it holds a password (CASES 230).
    """
    try:
        octets = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise ConfigError(path, 0, "there is no such file; `pillarbox init` writes one") from None
    except OSError as error:
        raise ConfigError(path, 0, f"cannot be read: {error.strerror}") from error
    if mode & 0o022:
        raise ConfigError(path, 0, f"mode {mode:04o}: others may change it; chmod 640 {path}")
    settings = parse_settings(octets, path)
    if mode & 0o004 and any(route.password for route in settings.outbound.routes):
        raise ConfigError(path, 0, f"mode {mode:04o}: everyone may read the passwords in it; chmod 640 {path}")
    return settings


def parse_settings(octets: bytes, path: Path) -> Settings:
    """Settings from the octets of a TOML file; `path` is for errors. Raises ConfigError."""
    try:
        text = octets.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, line, "this is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).rpartition(" (at ")
        line_text = place.removeprefix("line ").split(",")[0]
        line = int(line_text) if line_text.isdigit() else text.count("\n") + 1
        raise ConfigError(path, line, _declared_twice(text, line, message) or f"not TOML: {message or error}") from None
    try:
        return _table(Settings, table, ())
    except _Bad as bad:
        raise ConfigError(path, line_of(text, bad.key), f"{_dotted(bad.key)}: {bad.problem}") from None


def _declared_twice(text: str, line: int, message: str) -> str:
    """Where the table is that this line begins once more; empty if it is another mistake."""
    header = text.split("\n")[line - 1].partition("#")[0].strip()
    first = line_of(text, tuple(part.strip() for part in header.strip("[]").split(".")))
    if not message.startswith("Cannot declare") or not 0 < first < line:
        return ""
    return f"{header} is in line {first} already: a table stands once, with all its keys"


def effective_listeners(settings: Settings) -> tuple[Listener, ...]:
    """The listeners with their ports filled in; the standard ones on all addresses where none is configured."""
    listeners = settings.listeners or tuple(
        Listener(protocol, address, tls=tls)
        for address in ("0.0.0.0", "::")
        for protocol, tls in (
            ("smtp", "starttls"),
            ("submission", "starttls"),
            ("submission", "implicit"),
            ("imap", "starttls"),
            ("imap", "implicit"),
            ("pop3", "starttls"),
            ("pop3", "implicit"),
        )
    )
    return tuple(
        item
        if item.port or item.address.startswith("/")
        else replace(item, port=DEFAULT_PORTS[item.protocol, item.tls == "implicit"])
        for item in listeners
    )


# --- the walk -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _table(kind: type[T], table: Mapping[str, Any], key: tuple[str | int, ...]) -> T:
    """A dataclass from a TOML table. Raises _Bad."""
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in hints:
            raise _Bad((*key, name), _unknown(name, list(hints), key))
        values[name] = _value(hints[name], value, (*key, name))
        if check := _CHECKS.get((kind, name)):
            problem = check(values[name])
            if problem:
                raise _Bad((*key, name), problem)
    required = [f.name for f in fields(kind) if f.default is f.default_factory]  # type: ignore[arg-type]
    for name in required:
        if name not in values:
            raise _Bad(key, f"`{name}` is missing")
    made = kind(**values)
    if isinstance(made, Listener) and (problem := _listener_problem(made)):
        raise _Bad(key, problem)
    return made


def _value(hint: Any, value: Any, key: tuple[str | int, ...]) -> Any:
    """One value of the type that the field has. Raises _Bad."""
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise _Bad(key, f"a table [{_dotted(key)}] is wanted, not {_kind(value)}")
        return _table(hint, value, key)
    if get_origin(hint) is tuple:
        item_hint = get_args(hint)[0]
        if isinstance(value, dict) and is_dataclass(item_hint):
            raise _Bad(key, f"there can be several of these: write [[{_dotted(key)}]]")
        if not isinstance(value, list):
            raise _Bad(key, f"a list is wanted, not {_kind(value)}")
        return tuple(_value(item_hint, item, (*key, index)) for index, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is int and type(value) is float:
        raise _Bad(key, f"a whole number is wanted, not {value!r}")
    if type(value) is not hint:
        raise _Bad(key, f"{_NAMES[hint]} is wanted, not {_kind(value)}")
    if hint in (int, float) and not 0 <= value < 1 << 53:
        raise _Bad(key, "a number that is not negative is wanted")
    if hint is str and any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise _Bad(key, "control characters are not allowed")
    return value


_NAMES: Final = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(value: object) -> str:
    """What a TOML value is, in words."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return _NAMES.get(type(value), "a date") + f" ({value!r:.40})"


def _dotted(key: tuple[str | int, ...]) -> str:
    """("listeners", 1, "port") → "listeners[2].port": people count from one."""
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "the configuration"


def _unknown(name: str, known: list[str], key: tuple[str | int, ...]) -> str:
    """What is said of a key that is not in its table."""
    of_top = _hints(Settings).get(name)
    if key and of_top is not None and not is_dataclass(of_top) and name != "listeners":
        return f"`{name}` belongs to no table: write it above the first [table]"
    return "there is no such setting" + _nearest(name, known)


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1, cutoff=_CLOSE)
    return f"; did you mean `{found[0]}`?" if found else f"; there are: {', '.join(known)}"


# --- what values may be ---------------------------------------------------------------------------------------------

_Check = Callable[[Any], str]


def _one_of(*choices: str) -> _Check:
    def check(value: str) -> str:
        if value in choices:
            return ""
        quoted = ", ".join(f'"{choice}"' for choice in choices)
        from difflib import get_close_matches

        found = get_close_matches(value, choices, n=1, cutoff=_CLOSE)
        return f"one of {quoted} is wanted" + (f'; did you mean "{found[0]}"?' if found else "")

    return check


def _networks(values: tuple[str, ...]) -> str:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            return f'"{value}" is not a network such as "192.0.2.0/24" or "2001:db8::/32" ({error})'
    return ""


def _port(value: int) -> str:
    return "" if value < 65536 else "a port is at most 65535"


def _own_address(value: str) -> str:
    if value.startswith("/"):
        return "" if len(value.encode()) < 108 else "the path of a socket has at most 107 octets"
    return "" if _is_ip(value) else f'"{value}" is neither an IP address nor a path that starts with "/"'


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _host_name(value: str) -> str:
    return "" if not value or canonical_domain(value) else f'"{value}" is not a host name'


def _mail_address(value: str) -> str:
    return "" if not value or parse_address(value) else f'"{value}" is not a mail address'


def _name_servers(values: tuple[str, ...]) -> str:
    for value in values:
        host, colon, port = value.rpartition(":")
        if _is_ip(value):
            continue
        if not (colon and port.isdigit() and 0 < int(port) < 65536 and _is_ip(host.strip("[]"))):
            return f'"{value}" is not "address" or "address:port" (IPv6 with a port: "[address]:port")'
    return ""


def _route_domain(value: str) -> str:
    if value == "*" or canonical_domain(value.removeprefix("*.")):
        return ""
    return f'"{value}" is not a domain, "*.domain" or "*"'


def _at_least(bound: float) -> _Check:
    return lambda value: "" if value >= bound else f"at least {bound:g} is wanted"


def _same_twice(listeners: tuple[Listener, ...]) -> str:
    """No two listeners may have one address and port: connections would come to either."""
    seen: set[tuple[str, int]] = set()
    for item in listeners:
        port = item.port or DEFAULT_PORTS.get((item.protocol, item.tls == "implicit"), 0)
        where = (item.address, 0 if item.address.startswith("/") else port)
        if where in seen:
            return f"{item.address}{f' port {port}' if where[1] else ''} is there twice"
        seen.add(where)
    return ""


def _listener_problem(listener: Listener) -> str:
    """What does not fit together in one listener."""
    if listener.address.startswith("/"):
        return "" if listener.protocol == "lmtp" else "only lmtp may listen on a path"
    if listener.protocol == "metrics" and not ipaddress.ip_address(listener.address).is_loopback:
        return "metrics are served on a loopback address only"
    if listener.protocol == "metrics" and listener.tls == "implicit":
        return 'metrics are served in the clear: tls = "none"'
    if listener.tls == "implicit" and (listener.protocol, True) not in DEFAULT_PORTS and not listener.port:
        return f"{listener.protocol} with implicit TLS has no port of its own: give `port`"
    return ""


_CHECKS: Final[dict[tuple[type, str], _Check]] = {
    (Settings, "hostname"): _host_name,
    (Settings, "postmaster"): _mail_address,
    (Settings, "workers"): lambda value: "" if value <= 256 else "at most 256 is wanted",
    (Settings, "detail_separator"): lambda value: "" if len(value) <= 1 else "one character, or none, is wanted",
    (Settings, "trusted_networks"): _networks,
    (Settings, "relay_networks"): _networks,
    (Settings, "scram_iterations"): lambda value: (
        "" if 4096 <= value <= 5_000_000 else "from 4,096 (RFC 7677 §4) to 5,000,000 is wanted"
    ),
    (Settings, "listeners"): _same_twice,
    (Listener, "protocol"): _one_of(*PROTOCOLS),
    (Listener, "address"): _own_address,
    (Listener, "port"): _port,
    (Listener, "tls"): _one_of("starttls", "implicit", "none"),
    (Limits, "imap_idle_s"): _at_least(1800),
    (Limits, "pop3_idle_s"): _at_least(600),
    (Limits, "login_workers"): _at_least(1),
    (Limits, "recipients"): _at_least(100),
    (Limits, "received_hops"): _at_least(1),
    (Limits, "messages_per_session"): _at_least(1),
    # RFC 5321 §4.5.3.1: what every server takes. RFC 4954 §4: responses of 12,288 octets.
    (Limits, "message_octets"): _at_least(65_536),
    (Limits, "smtp_line_octets"): _at_least(512),
    (Limits, "auth_line_octets"): _at_least(12_288),
    (Limits, "content_line_octets"): _at_least(1000),
    (Limits, "write_buffer_octets"): _at_least(32_768),
    (Limits, "open_accounts"): _at_least(4),
    (Queue, "first_retry_s"): _at_least(1),
    (Queue, "max_retry_s"): _at_least(1),
    (Queue, "per_destination"): _at_least(1),
    (Queue, "concurrency"): _at_least(1),
    (Route, "domain"): _route_domain,
    (Route, "host"): lambda value: "" if _is_ip(value) else _host_name(value) or ("" if value else "a host is wanted"),
    (Route, "port"): _port,
    (Route, "tls"): _one_of("opportunistic", "verify", "implicit", "none"),
    (Route, "protocol"): _one_of("smtp", "lmtp"),
    (Outbound, "port"): _port,
    (Outbound, "allow_networks"): _networks,
    (Outbound, "name_servers"): _name_servers,
    (Outbound, "source_address"): lambda value: "" if not value or _is_ip(value) else f'"{value}" is not an IP address',
    (Tls, "min_version"): _one_of("1.2", "1.3"),
    (Logging, "level"): _one_of("debug", "info", "warning", "error"),
    (Logging, "format"): _one_of("auto", "json", "text"),
}
