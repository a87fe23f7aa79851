"""Where in a TOML text a setting stands: tomllib gives values without lines, and an error must name the line.

The text is known to be TOML; this reads just enough of it: table headers, keys at the start of a line, and what
spans lines (multi-line texts and lists), so that their content is not taken for keys.
"""

from __future__ import annotations

import re
from typing import Final

_HEADER: Final = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?$")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*="""
)
_STRINGS_AND_COMMENTS: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#.*')


def line_of(text: str, key: tuple[str | int, ...]) -> int:
    """The line (from 1) of the setting at `key`, or of the nearest table around it; 0 if neither is to be seen.

    `key` is a path of names and list indexes: ("listeners", 1, "port"). What stands in an inline table or in a list
    is found at the line of the key that holds it.
    """
    best, best_length = 0, 0
    for number, path in _paths(text):
        length = 0
        while length < min(len(path), len(key)) and path[length] == key[length]:
            length += 1
        if length == len(path) and length > best_length:
            best, best_length = number, length
    return best


def _paths(text: str) -> list[tuple[int, tuple[str | int, ...]]]:
    """(line, path) of every table header and key."""
    found: list[tuple[int, tuple[str | int, ...]]] = []
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    open_string, depth = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not open_string and not depth:
            if header := _HEADER.match(line):
                table = _with_indexes(_names(header[2]), counts, header[1] == "[[")
                found.append((number, table))
                continue
            if matched := _KEY.match(line):
                found.append((number, table + _names(matched[1])))
                line = line[matched.end() :]
        open_string, depth = _after(line, open_string, depth)
    return found


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _with_indexes(
    names: tuple[str, ...], counts: dict[tuple[str | int, ...], int], is_list: bool
) -> tuple[str | int, ...]:
    """The path of a header: names of lists of tables are followed by the index of their latest element."""
    path: tuple[str | int, ...] = ()
    for place, name in enumerate(names):
        path = (*path, name)
        if is_list and place == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _after(line: str, open_string: str, depth: int) -> tuple[str, int]:
    """Which multi-line text is open, and how many brackets are, after this line."""
    while True:
        if open_string:
            end = line.find(open_string)
            if end < 0:
                return open_string, depth
            line, open_string = line[end + 3 :], ""
        start = min((at for quote in ('"""', "'''") if (at := line.find(quote)) >= 0), default=-1)
        plain = _STRINGS_AND_COMMENTS.sub("", line if start < 0 else line[:start])
        depth = max(0, depth + plain.count("[") + plain.count("{") - plain.count("]") - plain.count("}"))
        if start < 0:
            return "", depth
        open_string, line = line[start : start + 3], line[start + 3 :]
