"""A home that commands work on, and a way to call them as a person would."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pillarbox.app import Pillarbox
from pillarbox.cli.main import main


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """`shell("user", "list")` calls `pillarbox --home … user list`."""

    home: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def __call__(self, *words: str, stdin: str = "") -> Said:
        self.patch.setattr(sys, "stdin", io.StringIO(stdin))
        self.capture.readouterr()
        code = main(Pillarbox(), ["--home", str(self.home), *words])
        out, err = self.capture.readouterr()
        return Said(code, out, err)

    def ok(self, *words: str, stdin: str = "") -> Any:
        """The JSON answer of a command that must succeed."""
        said = self(*words, "--json", stdin=stdin)
        assert said.code == 0, said.err
        return said.value


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """No home yet."""
    return Shell(tmp_path / "home", capsys, monkeypatch)


@pytest.fixture
def shell(bare: Shell) -> Shell:
    """A home with the domain example.org; passwords are cheap to check."""
    assert bare("init", "--hostname", "mail.example.org", "--postmaster", "ada@example.org").code == 0
    edit(
        bare.home / "pillarbox.toml",
        lambda text: text.replace("# scram_iterations = 600000", "scram_iterations = 4096"),
    )
    bare.ok("domain", "add", "example.org")
    return bare


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a text file in place."""
    path.write_text(change(path.read_text()))
