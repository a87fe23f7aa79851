"""`pillarbox init`: a home with a commented configuration. What is there is never overwritten, what lacks is made."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from pathlib import Path
from typing import Any, Final

from pillarbox.cli.program import CANNOT_CREATE, DATA, Answer, CommandError, Program, config_path
from pillarbox.cli.session import become, become_owner
from pillarbox.config import parse_settings
from pillarbox.model.address import canonical_domain, parse_address
from pillarbox.net.supervisor import machine_name, user_name
from pillarbox.settings_text import configuration_text

USUAL_USER: Final = "pillarbox"


def run_init(program: Program, args: argparse.Namespace) -> Answer:
    home: Path = args.home.absolute()
    path = config_path(home, args.config)
    if path.exists():
        return _complete(program, home, path)
    hostname = args.hostname or _ask("Name of this mail server", machine_name(), "--hostname")
    if canonical_domain(hostname) is None:
        raise CommandError(f"{hostname!r} is not a host name", DATA)
    domain = hostname.partition(".")[2]
    postmaster = args.postmaster or _ask(
        "Who reads mail for postmaster and abuse", f"postmaster@{domain}" if "." in domain else "", "--postmaster"
    )
    if parse_address(postmaster) is None:
        raise CommandError(f"{postmaster!r} is not a mail address", DATA)
    user = _become_owner(home, args.user)
    given: dict[str, Any] = {"hostname": canonical_domain(hostname), "postmaster": postmaster}
    if user:
        given["user"] = user
    refused = (
        (
            f"There is no user {USUAL_USER}: `serve` as root will refuse to listen for others, until you run",
            f"  useradd --system --home-dir {home} {USUAL_USER} && chown -R {USUAL_USER} {home}",
            f'and set user = "{USUAL_USER}" in {path}.',
        )
        if os.geteuid() == 0 and not user
        else ()
    )
    program.make_home(home)
    write_new(path, configuration_text(given, []))  # last: what was interrupted is begun again
    return Answer(
        (
            f"The home is {home}, its configuration {path}.",
            *refused,
            "Next:",
            f"  pillarbox --home {home} domain add DOMAIN",
            f"  pillarbox --home {home} user add {postmaster}",
            f"  pillarbox --home {home} check",
            f"  pillarbox --home {home} serve",
        ),
        {"home": str(home), "config": str(path), "postmaster": postmaster, "user": user},
    )


def _complete(program: Program, home: Path, config: Path) -> Answer:
    """There is a configuration already: make the databases if they were never made. Raises CommandError."""
    if home.exists():
        become_owner(home)
        if program.make_home(home):
            text = f"The databases in {home} are made; {config} stays as it was."
            return Answer((text,), {"home": str(home), "config": str(config)})
    raise CommandError(f"{config} is there already; nothing was changed. `pillarbox check` looks at it.", CANNOT_CREATE)


def write_new(path: Path, text: str) -> None:
    """Write a configuration that must not be there yet (mode 640). It is parsed first: what we write, we can read."""
    octets = text.encode()
    parse_settings(octets, path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())


def _become_owner(home: Path, user: str) -> str:
    """Make the folder, belonging to `user` where we are root, and go on as its owner. Returns whom the server shall
    become: empty where it is started by its user. Raises CommandError."""
    is_root = os.geteuid() == 0
    if home.exists():
        become_owner(home)
        owner = user_name(home.stat().st_uid)
        return owner if is_root and owner != "root" else ""
    if user and not is_root:
        raise CommandError("only root can give the home to another user: leave out --user, or run this as root")
    home.mkdir(mode=0o700, parents=True)
    if not is_root:
        return ""
    try:
        wanted = pwd.getpwnam(user or USUAL_USER)
    except KeyError:
        if not user:
            return ""
        home.rmdir()
        raise CommandError(f"there is no user {user}. `useradd --system {user}` makes one.", DATA) from None
    os.chown(home, wanted.pw_uid, wanted.pw_gid)
    become(wanted.pw_uid, wanted.pw_gid)
    return wanted.pw_name


def _ask(question: str, default: str, option: str) -> str:
    """Ask on the terminal; without one the option must be given. Raises CommandError."""
    if not sys.stdin.isatty():
        if default and option == "--hostname":
            return default
        raise CommandError(f"no terminal to ask on: {question}? Give {option}.")
    while True:
        answer = input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
        if answer:
            return answer
