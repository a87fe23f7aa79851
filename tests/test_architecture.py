"""The floors of the house: imports go down only, floors 1–3 wait for nothing, and only `app` knows an engine.

Source: docs/decisions/floors.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).resolve().parent.parent / "src" / "pillarbox"

FLOORS: Final = {
    "model": 1,
    "message": 2,
    "protocol": 3,
    "trust": 3,
    "sieve": 3,
    "x400": 3,
    "log": 4,
    "metrics": 4,
    "store": 4,
    "mail": 5,
    "net": 6,
    "toml_lines": 5,
    "config": 6,
    "settings_text": 6,
    "cli": 7,
    "jmap": 7,
    "web": 7,
    "app": 8,
    "__main__": 9,
}
PURE: Final = ("model", "message", "protocol", "trust", "sieve", "x400")
WAITING: Final = frozenset(
    ["asyncio", "socket", "ssl", "select", "selectors", "apsw", "sqlite3", "threading", "multiprocessing", "concurrent"]
    + ["subprocess", "signal", "time", "random", "logging", "structlog", "uvloop", "dns"]
)
ENGINES: Final = ("pillarbox.store.sqlite", "pillarbox.store.postgres")
FORBIDDEN: Final = {"mail": ("protocol", "net")}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _package(name: str) -> str:
    """The part of a module's name that has a floor: "store" of pillarbox.store.sqlite.engine."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside of functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the floor"
            module = node.module or ""
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


@pytest.fixture(params=_modules(), ids=_name)
def module(request: pytest.FixtureRequest) -> tuple[str, ast.Module]:
    path: Path = request.param
    return _name(path), ast.parse(path.read_text(), str(path))


def test_every_module_stands_on_a_floor(module: tuple[str, ast.Module]) -> None:
    name, _ = module
    assert not _package(name) or _package(name) in FLOORS


def test_imports_go_down_only(module: tuple[str, ast.Module]) -> None:
    name, tree = module
    here = _package(name)
    for line, target in _imports(tree):
        there = _package(target) if target.startswith("pillarbox.") else ""
        if not there or there not in FLOORS or there == here or not here:
            continue
        assert FLOORS[there] < FLOORS[here] or (FLOORS[there] == FLOORS[here] == 4 and there in ("log", "metrics")), (
            f"{name}:{line} imports {target}: {here} is on floor {FLOORS[here]}, {there} on {FLOORS[there]}"
        )
        assert there not in FORBIDDEN.get(here, ()), f"{name}:{line} imports {target}: {here} never imports {there}"


def test_floors_one_to_three_wait_for_nothing(module: tuple[str, ast.Module]) -> None:
    name, tree = module
    if _package(name) not in PURE:
        return
    for line, target in _imports(tree):
        assert target.split(".")[0] not in WAITING, f"{name}:{line} imports {target}"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith), (
            f"{name}:{getattr(node, 'lineno', '?')} waits"
        )


def test_only_app_knows_an_engine(module: tuple[str, ast.Module]) -> None:
    name, tree = module
    for line, target in _imports(tree):
        for engine in ENGINES:
            if target == engine or target.startswith(engine + "."):
                assert _package(name) == "app" or name.startswith(engine), f"{name}:{line} imports {target}"


def test_no_import_goes_in_a_circle() -> None:
    known = {_name(path): path for path in _modules()}
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        wanted = {target for node in top for _, target in _imports(node)}
        edges[name] = {target for target in wanted if target in known and target != name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a circle: " + " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in edges[name]:
                # A package's own __init__ is imported before what is in it: that is no circle.
                if not name.startswith(target + "."):
                    visit(target, (*path, name))
            done.add(name)

    for name in known:
        visit(name, ())
