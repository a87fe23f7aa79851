"""Run the programs of others: found, or the test is skipped; with a clean home; their words shown when they fail."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from .processes import program


def strict() -> bool:
    """Say whether a missing program is a failure: in CI, or when PILLARBOX_NEIGHBOURS is set."""
    return bool(os.environ.get("CI") or os.environ.get("PILLARBOX_NEIGHBOURS"))


def need(*names: str) -> str:
    """Return the path of the first program; skip the test with the reason (or fail it) if one is missing."""
    paths = [program(name) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        reason = f"{', '.join(missing)} not installed (tests/neighbours/install.sh installs it)"
        if strict():
            pytest.fail(reason)
        pytest.skip(reason)
    assert paths[0] is not None
    return paths[0]


def need_root() -> None:
    """Skip the test (or fail it) unless we are root: Postfix and Dovecot start as nobody else."""
    if os.geteuid() != 0:
        reason = "needs root, to start own instances of Postfix and Dovecot"
        if strict():
            pytest.fail(reason)
        pytest.skip(reason)


def run(
    command: list[str],
    home: Path,
    *,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    status: tuple[int, ...] = (0,),
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> bytes:
    """Run a program with `home` as its home; return what it printed. AssertionError unless it ends with `status`."""
    done = subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        cwd=cwd or home,
        env=environment(home) | (env or {}),
    )
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode in status, f"{' '.join(command)} ended with {done.returncode}:\n{said[-6000:]}"
    return done.stdout


def run_on_terminal(command: list[str], home: Path, *, timeout_s: float = 60.0) -> bytes:
    """Run a full-screen program on a terminal of its own; return all that it painted."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execvpe(command[0], command, environment(home) | {"TERM": "xterm", "LINES": "40", "COLUMNS": "120"})
    painted = b""
    end = time.monotonic() + timeout_s
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    octets = os.read(terminal, 65536)
                except OSError:  # Linux answers EIO when the program has closed its side
                    break
                if not octets:
                    break
                painted += octets
        else:
            os.kill(pid, 9)
            raise AssertionError(f"{command[0]} did not end in {timeout_s:g} s:\n{painted[-3000:]!r}")
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"{command[0]} ended with {status}:\n{painted[-3000:]!r}"
    return painted


def environment(home: Path) -> dict[str, str]:
    """The environment of a program: nothing of the person who runs the tests."""
    return {
        "HOME": str(home),
        "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "USER": "tester",
        "LOGNAME": "tester",
        "EMAIL": "tester@pillarbox.test",
    }


def write(path: Path, text: str) -> Path:
    """Write a configuration file that only its owner reads, as several programs demand."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def find_missing(*names: str) -> list[str]:
    """Return those of the programs that are not installed."""
    return [name for name in names if program(name) is None]
