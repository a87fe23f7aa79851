"""Every command answers one JSON value with --json, on success and on error, and nothing else on standard output."""

from __future__ import annotations

import json

from pillarbox.cli.main import parser

from .conftest import Shell, edit

STORY: list[tuple[int, str, str]] = [
    (0, "version", ""),
    (0, "init --hostname mail.example.org --postmaster ada@example.org", ""),
    (0, "domain add example.org", ""),
    (0, "domain list", ""),
    (0, "user add ada@example.org --password-stdin --quota 5M", "secret words\n"),
    (0, "user add -", "bob@example.org other\n"),
    (0, "user list", ""),
    (0, "user passwd ada@example.org --password-stdin", "new words\n"),
    (0, "user quota ada@example.org 10M", ""),
    (0, "user disable ada@example.org", ""),
    (0, "user enable ada@example.org", ""),
    (0, "user remove bob@example.org", ""),
    (0, "user restore bob@example.org", ""),
    (0, "alias add team@example.org ada@example.org bob@example.org", ""),
    (0, "alias list", ""),
    (0, "alias remove team@example.org", ""),
    (0, "queue list", ""),
    (0, "queue retry --all", ""),
    (0, "queue hold --all", ""),
    (0, "queue release --all", ""),
    (0, "queue drop --all", ""),
    (67, "trace ada@example.org", ""),
    (0, "verify", ""),
    (0, "check --no-dns", ""),
    (67, "user disable nobody@example.org", ""),
    (69, "reload", ""),
    (65, "user quota ada@example.org many", ""),
    (0, "user remove ada@example.org", ""),
    (0, "user remove bob@example.org", ""),
]
LISTENER = '\n[[listeners]]\nprotocol = "smtp"\naddress = "127.0.0.1"\nport = 1\n'
RUNS_ON = {"serve", "try"}
NOTHING_THERE = {"queue show", "domain remove"}
"""Told of elsewhere; here they have nothing to do."""


def commands() -> set[str]:
    """All words of the command line, from its parser."""
    found: set[str] = set()
    (top,) = (action for action in parser()._actions if action.dest == "command")
    for name, below in (top.choices or {}).items():  # type: ignore[union-attr]
        verbs = [action for action in below._actions if action.dest == "verb"]
        found |= {f"{name} {verb}" for verb in verbs[0].choices} if verbs else {name}
    return found


def test_every_command_answers_json(bare: Shell) -> None:
    told: set[str] = set()
    for code, line, given in STORY:
        words = line.split()
        said = bare(*words, "--json", stdin=given)
        assert said.code == code, (line, said.out, said.err)
        value = json.loads(said.out)
        assert code == 0 or value["error"], line
        if words[0] == "init":  # `check` answers 0 for root, too, where others cannot reach the server
            edit(bare.home / "pillarbox.toml", lambda text: text + LISTENER)
        told |= {" ".join(words[:2]), words[0]}
    assert commands() - told == RUNS_ON | NOTHING_THERE
