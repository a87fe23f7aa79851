"""docs/cases.md tells the truth: each case has its row, and the tests that it names have the case's number."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = TESTS.parent / "docs" / "cases.md"


def _path(name: str) -> Path:
    folder, _, last = name.rpartition("/")
    if last.endswith(".txt"):
        (found,) = TESTS.rglob(last)
        return found
    prefix = "test_cases_" if folder == "cases" else "test_"
    return TESTS / folder / f"{prefix}{last}.py"


def test_each_case_is_shown_by_the_tests_that_the_page_names() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(41, 93), *range(163, 197)]
    for number, names in rows:
        for name in names.strip().split(", "):
            path = _path(name)
            text = f"{path.name}\n{path.read_text()}"
            span = 41 <= int(number) <= 48 and "case_041" in text
            assert span or re.search(rf"cases?_(\d+_(and_)?)*{number.zfill(3)}_", text), (number, name)
