"""What must hold before the server starts: `serve` refuses by it, and `check` tells of it.

Root has someone to become (CASES 229); home and private key are closed to others (CASES 230); the log can be written.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pillarbox.cli.program import CONFIG, NO_INPUT, NO_PERMISSION, CommandError
from pillarbox.config import effective_listeners
from pillarbox.model.settings import Settings
from pillarbox.net.supervisor import user_name


class Owner(NamedTuple):
    """Whom the server becomes."""

    uid: int
    gid: int


def start_refusals(home: Path, config: Path, settings: Settings) -> Iterator[CommandError]:
    """Everything for which a server that is started by whoever we are now does not start.

    Ports, and what only the owner of the home can find out (`owner_refusals`), are not looked at.
    """
    if not home.is_dir():
        yield CommandError(f"there is no home at {home}; `pillarbox init` makes one", NO_INPUT)
        return
    yield from _whom_to_become(home, config, settings)
    yield from mode_refusals(home, settings)


def owner_refusals(settings: Settings) -> Iterator[CommandError]:
    """The same, for whoever owns the home: can the log be written? Nothing is made."""
    file = settings.log.file
    if file:
        path = Path(file)
        wanted = path if path.exists() else path.parent
        if path.is_dir() or not wanted.exists() or not os.access(wanted, os.W_OK):
            why = "it is a folder" if path.is_dir() else "there is no such folder" if not wanted.exists() else ""
            yield CommandError(
                f"log.file: cannot write the log to {file}: "
                + (why or f"{wanted} must be writable by {user_name(os.geteuid())}"),
                CONFIG,
            )


def start_owner(home: Path, settings: Settings) -> Owner:
    """Whom the server becomes, where nothing is refused: the owner of the home, with the group of `user`."""
    found = home.stat()
    if os.geteuid() == 0 and settings.user:
        return Owner(found.st_uid, pwd.getpwnam(settings.user).pw_gid)
    return Owner(found.st_uid, found.st_gid)


def mode_refusals(home: Path, settings: Settings) -> Iterator[CommandError]:
    """Home and private key must be closed to everyone else (CASES 230)."""
    found = [("", home)]
    if settings.tls.key:
        found.append(("tls.key: ", home / settings.tls.key))
    elif settings.tls.certificate:
        found.append(("tls.certificate: ", home / settings.tls.certificate))
    for setting, path in found:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            yield CommandError(f"{setting}{path}: {error.strerror}", CONFIG)
        else:
            if mode & 0o007:
                yield CommandError(f"{setting}{path}: mode {mode:04o}: everyone may use it; chmod o= {path}", CONFIG)


def _whom_to_become(home: Path, config: Path, settings: Settings) -> Iterator[CommandError]:
    uid = home.stat().st_uid
    name = user_name(uid)
    if os.geteuid() != 0:
        if os.geteuid() != uid:
            yield CommandError(f"{home} belongs to {name}: start as {name}, or as root", NO_PERMISSION)
    elif settings.user:
        try:
            wanted = pwd.getpwnam(settings.user)
        except KeyError:
            yield CommandError(f"{config}: user: there is no user {settings.user}", CONFIG)
            return
        if wanted.pw_uid != uid:
            yield CommandError(
                f"{config}: user is {wanted.pw_name}, but {home} belongs to {name}: chown -R {wanted.pw_name} {home}",
                CONFIG,
            )
    elif uid == 0:
        for listener in effective_listeners(settings):
            if not _is_loopback(listener.address):
                yield CommandError(
                    f"started as root on {listener.address} port {listener.port}, which is not loopback, and nobody to "
                    f"become: set `user` in {config}, and give it the home (chown -R)",
                    CONFIG,
                )
                return


def _is_loopback(address: str) -> bool:
    return address.startswith("/") or ipaddress.ip_address(address).is_loopback
