"""`pillarbox serve`, `reload` and `version`."""

from __future__ import annotations

import argparse
import os
import platform
import signal

from pillarbox import __version__
from pillarbox.cli.program import CONFIG, UNAVAILABLE, Answer, CommandError, Program, config_path


def run_serve(program: Program, args: argparse.Namespace) -> Answer:
    """In the foreground until told to stop."""
    home = args.home.absolute()
    return Answer(code=program.serve(home, config_path(home, args.config)))


def run_reload(program: Program, args: argparse.Namespace) -> Answer:
    """Check configuration and certificate first: a mistake is told here, and the server never sees it."""
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
    os.kill(pid, signal.SIGHUP)
    return Answer((f"process {pid} takes the new configuration over",), {"pid": pid})


def run_version(program: Program, args: argparse.Namespace) -> Answer:
    value = {"pillarbox": __version__, "python": platform.python_version()}
    return Answer((f"pillarbox {__version__} (Python {value['python']})",), value)
