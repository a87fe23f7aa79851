"""`pillarbox serve`, `reload` and `version`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import time
from pathlib import Path
from typing import Any, Final

from pillarbox import __version__
from pillarbox.cli.program import CONFIG, TEMPORARY, UNAVAILABLE, Answer, CommandError, Program, config_path

OUTCOME_FILE: Final = "run/reload.json"
"""Where the server says how the last reload ended."""
ANSWER_S: Final = 25.0
"""How long it is waited for: longer than several processes take to agree."""


def run_serve(program: Program, args: argparse.Namespace) -> Answer:
    """In the foreground until told to stop."""
    home = args.home.absolute()
    return Answer(code=program.serve(home, config_path(home, args.config)))


def run_reload(program: Program, args: argparse.Namespace) -> Answer:
    """Check configuration and certificate first: a mistake is told here, and the server never sees it. Then the server
    is called, and its answer waited for."""
    from pillarbox.cli.session import settings_of
    from pillarbox.model.errors import Trouble
    from pillarbox.net.supervisor import running_pid
    from pillarbox.net.tls import ServerTls

    settings = settings_of(args)
    tls = settings.tls
    if tls.certificate:
        try:
            ServerTls(args.home / tls.certificate, args.home / (tls.key or tls.certificate), tls.min_version)
        except Trouble as error:
            raise CommandError(f"{error}; the server goes on as it is", CONFIG) from error
    pid = running_pid(args.home / "run" / "pillarbox.pid")
    if not pid:
        raise CommandError(f"no server runs on {args.home}; `pillarbox serve` starts one", UNAVAILABLE)
    path = args.home / OUTCOME_FILE
    asked_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGHUP)
    until_s = time.monotonic() + ANSWER_S
    while (outcome := _outcome(path)).get("began_ns", 0) < asked_ns:
        if time.monotonic() >= until_s:
            raise CommandError(f"process {pid} was told, but does not answer; its log may say why", TEMPORARY)
        time.sleep(0.02)
    if not outcome.get("ok"):
        raise CommandError(f"process {pid} goes on as it was: {outcome.get('error')}", CONFIG)
    late = [str(name) for name in outcome.get("needs_restart", [])]
    lines = [f"process {pid} has taken the new configuration over"]
    lines += [f"{name}: needs a restart" for name in late]
    return Answer(tuple(lines), {"pid": pid, "needs_restart": late})


def _outcome(path: Path) -> dict[str, Any]:
    """What the server wrote when it had reloaded; empty where it never did."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def run_version(program: Program, args: argparse.Namespace) -> Answer:
    value = {"pillarbox": __version__, "python": platform.python_version()}
    return Answer((f"pillarbox {__version__} (Python {value['python']})",), value)
