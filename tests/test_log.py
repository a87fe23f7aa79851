"""Logs: one bounded line for one thing, no secrets, nothing that steers a terminal. Cases 62, 89, 234, 235."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.log import MAX_LINE_OCTETS, REDACTED, SAMPLE_BURST, Renderer, configure_logs


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "log"
    root = logging.getLogger()
    before = (root.handlers, root.level)
    configure_logs("info", "json", str(path), "front-1", lambda: 1_800_000_000.25)
    yield path
    configure_logs("warning", "json")
    structlog.reset_defaults()
    root.handlers, root.level = before


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rendered(style: str = "json", **fields: Any) -> bytes:
    renderer = Renderer()
    renderer.configure(style, "", lambda: 1_800_000_000.0)
    return renderer(None, "info", {"event": "test", **fields})


def test_a_line_is_json_with_time_level_event_and_fields(file: Path) -> None:
    structlog.get_logger().info("delivered", rcpt="ada@example.org", uid=7)
    assert lines(file) == [
        {
            "at": "2027-01-15T08:00:00.250Z", "level": "info", "event": "delivered", "proc": "front-1",
            "rcpt": "ada@example.org", "uid": 7,
        }
    ]  # fmt: skip


def test_what_is_below_the_level_is_not_written(file: Path) -> None:
    structlog.get_logger().debug("noise")
    assert lines(file) == []


def test_the_standard_librarys_logging_comes_the_same_way(file: Path) -> None:
    logging.getLogger("asyncio").error("failed: %s", "x\r\n")
    [line] = lines(file)
    assert (line["event"], line["logger"], line["level"]) == ("failed: x\\x0d\\x0a", "asyncio", "error")


def test_a_traceback_is_one_line_without_the_values_of_variables(file: Path) -> None:
    password = "hunter2"
    try:
        raise ValueError(f"said: AUTH PLAIN {password}")
    except ValueError:
        structlog.get_logger().exception("unforeseen")
    text = file.read_text()
    assert text.count("\n") == 1 and "ValueError" in text and "hunter2" not in text


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"new_password": "hunter2"},
        {"secret": b"hunter2"},
        {"authorization": "Basic hunter2"},
        {"line": "a LOGIN ada hunter2"},
        {"said": "AUTH PLAIN hunter2"},
        {"said": "a1 AUTHENTICATE SCRAM-SHA-256 hunter2"},
        {"said": "PASS hunter2 and more"},
        {"said": "x login ada@example.org hunter2"},
        {"error": "could not use password=hunter2"},
    ],
)
@pytest.mark.parametrize("style", ["json", "text"])
def test_case_234_secrets_are_left_out(fields: dict[str, Any], style: str) -> None:
    octets = rendered(style, **fields)
    assert b"hunter2" not in octets and REDACTED.encode() in octets


FIELDS = st.dictionaries(
    st.text(), st.text() | st.binary() | st.integers() | st.none() | st.lists(st.text()), max_size=60
)


@given(fields=FIELDS, long=st.integers(0, 20_000), style=st.sampled_from(["json", "text"]))
def test_case_235_a_line_is_bounded_whole_and_printable(fields: dict[str, Any], long: int, style: str) -> None:
    fields.pop("event", None)
    fields.pop("exc_info", None)
    octets = rendered(style, **{**fields, "padding": "é\x1b" * long})
    assert len(octets) <= MAX_LINE_OCTETS
    assert octets.endswith(b"\n") and octets.count(b"\n") == 1
    text = octets.decode()
    assert not any(ord(char) < 32 or 126 < ord(char) < 160 for char in text[:-1])
    if style == "json":
        json.loads(text)


def test_case_089_a_storm_from_one_address_is_sampled_and_counted(file: Path) -> None:
    log = structlog.get_logger()
    for _ in range(100):
        log.info("refused", peer="192.0.2.1")
    log.info("refused", peer="192.0.2.2")
    for _ in range(100):
        log.info("login failed", peer="192.0.2.1")
    peers = [line["peer"] for line in lines(file) if line["event"] == "refused"]
    assert peers.count("192.0.2.1") == SAMPLE_BURST and peers.count("192.0.2.2") == 1
    assert sum(line["event"] == "login failed" for line in lines(file)) == 100
    configure_logs("info", "json", str(file), "front-1", lambda: 1_800_000_060.0)
    log.info("refused", peer="192.0.2.1")
    assert lines(file)[-1]["left_out"] == 80
