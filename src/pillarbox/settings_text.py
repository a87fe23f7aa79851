"""The settings in words: the commented file that `pillarbox init` writes, and the manual page pillarbox.toml(5).

Both are made from `model/settings.py`: a field's name, type and default, and the text below it.
"""

from __future__ import annotations

import ast
import importlib.util
import textwrap
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from pillarbox.model import settings as settings_module
from pillarbox.model.settings import Settings

LISTS: Final = {"listeners": "Listener", "outbound.routes": "Route"}
"""Settings that are lists of tables."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting: its key in its table, the type and default as TOML text ("" where one must be given), and what it
    means."""

    key: str
    kind: str
    default: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """One table: `name` is "" for the top, "limits", or "listeners" with `is_list`."""

    name: str
    text: str
    entries: tuple[Entry, ...]
    is_list: bool = False


def toml_value(value: Any) -> str:
    """A value as TOML writes it. Texts, whole numbers, numbers, booleans, and lists of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)


def sections() -> list[Section]:
    """All settings, in the order in which they stand in the source; lists of tables after the tables."""
    texts = _field_texts()
    return list(_sections(Settings, "", texts))


def _sections(kind: type, name: str, texts: dict[tuple[str, str], str], is_list: bool = False) -> list[Section]:
    hints = get_type_hints(kind)
    entries: list[Entry] = []
    inner: list[Section] = []
    for field in fields(kind):
        hint = hints[field.name]
        path = f"{name}.{field.name}".lstrip(".")
        if is_dataclass(hint):
            inner += _sections(hint, path, texts)  # type: ignore[arg-type]
        elif path in LISTS:
            inner += _sections(get_args(hint)[0], path, texts, is_list=True)
        else:
            default = "" if field.default is MISSING else toml_value(field.default)
            entries.append(Entry(field.name, _kind(hint), default, texts[kind.__name__, field.name]))
    text = textwrap.dedent(kind.__doc__ or "").strip()
    if is_list:
        parent, _, last = name.rpartition(".")
        text += " " + texts["Settings" if not parent else parent.title(), last]
    return [Section(name, text, tuple(entries), is_list), *inner]


def _kind(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return "list of texts"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]


def _field_texts() -> dict[tuple[str, str], str]:
    """(class, field) → the text below the field in the source."""
    spec = importlib.util.find_spec(settings_module.__name__)
    assert spec is not None and spec.origin is not None
    texts: dict[tuple[str, str], str] = {}
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                texts[node.name, item.target.id] = " ".join(str(after.value.value).split())
    return texts


# --- the file of `pillarbox init` -----------------------------------------------------------------------------------


def configuration_text(given: dict[str, str | int | bool | list[str]], listeners: list[dict[str, Any]]) -> str:
    """A whole configuration: every setting with its text and default, commented out, but for those `given`
    (dotted key → value) and the `listeners`."""
    lines = [
        "# Configuration of pillarbox. Every setting is here; a line that starts with # shows the default.",
        "# pillarbox check: is it right?   pillarbox reload: take it over.   Manual: pillarbox.toml(5)",
    ]
    for section in sections():
        lines += ["", ""]
        lines += _comment(section.text)
        if section.is_list:
            chosen = listeners if section.name == "listeners" else []
            lines += _list_of_tables(section, chosen)
            continue
        if section.name:
            lines.append(f"[{section.name}]")
        for entry in section.entries:
            value = given.get(f"{section.name}.{entry.key}".lstrip("."))
            lines += ["", *_comment(entry.text)]
            lines.append(f"# {entry.key} = {entry.default}" if value is None else f"{entry.key} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _list_of_tables(section: Section, chosen: list[dict[str, Any]]) -> list[str]:
    lines = ["#"]
    for entry in section.entries:
        lines += _comment(f"{entry.key}: {entry.text}" + (f" Default: {entry.default}" if entry.default else ""))
    for table in chosen:
        lines += ["", f"[[{section.name}]]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in table.items()]
    if not chosen:
        lines += ["#", f"# [[{section.name}]]"]
        lines += [f"# {entry.key} = {entry.default or '...'}" for entry in section.entries]
    return lines


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 110)]


# --- the manual page ------------------------------------------------------------------------------------------------


def manual_page() -> str:
    """pillarbox.toml(5) as roff."""
    lines = [
        '.TH PILLARBOX.TOML 5 "" pillarbox "File formats"',
        ".SH NAME",
        "pillarbox.toml \\- configuration of the mail system pillarbox",
        ".SH DESCRIPTION",
        "The file is TOML 1.0. It is read from",
        ".I HOME/pillarbox.toml",
        "or from where",
        ".B \\-\\-config",
        "says. It is strict: a key that is not listed here, or a value of another type, is an error, and the program",
        "says in which line. Only its owner may be able to change it, and where it holds a password, to read it.",
        ".PP",
        "Times are in seconds unless a name says otherwise; sizes are in octets.",
        ".PP",
        ".B pillarbox check",
        "tells whether a file is right,",
        ".B pillarbox reload",
        "makes a running server take it over. On an error the server keeps the old one. What needs a restart says so.",
    ]
    for section in sections():
        header = (
            f"[[{section.name}]]" if section.is_list else f"[{section.name}]" if section.name else "top of the file"
        )
        lines += [f".SH {_roff(header).upper()}" if not section.name else f'.SH "{_roff(header)}"', _roff(section.text)]
        for entry in section.entries:
            default = f"default {entry.default}" if entry.default else "must be given"
            lines += [".TP", f'.BR {_roff(entry.key)} " ({_roff(entry.kind)}, {_quoted(default)})"', _roff(entry.text)]
    lines += [".SH SEE ALSO", ".BR pillarbox (1)"]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text that roff prints as it is: escapes, hyphens, and no line that starts as a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


def _quoted(text: str) -> str:
    """As `_roff`, inside of a quoted argument of a macro."""
    return _roff(text).replace('"', "\\(dq")


if __name__ == "__main__":
    print(manual_page(), end="")
