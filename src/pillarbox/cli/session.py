"""How a command comes to an open store: as the owner of the home, with the configuration checked."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

import pillarbox
from pillarbox.cli.program import CONFIG, NO_INPUT, NO_PERMISSION, CommandError, Opened, Program, config_path
from pillarbox.config import read_settings
from pillarbox.mail.accounts import Admin
from pillarbox.model.settings import Settings
from pillarbox.net.clock import SystemClock
from pillarbox.net.supervisor import drop_root, user_name

T = TypeVar("T")


def become_owner(home: Path) -> None:
    """As root, become who owns the home, so that no file in it comes to belong to root. Raises CommandError."""
    try:
        owner = home.stat()
    except FileNotFoundError:
        raise CommandError(
            f"there is no home at {home}. `pillarbox --home {home} init` makes one; "
            "another is chosen by --home or PILLARBOX_HOME.",
            NO_INPUT,
        ) from None
    if os.geteuid() == owner.st_uid:
        return
    if os.geteuid() != 0:
        name = user_name(owner.st_uid)
        raise CommandError(f"{home} belongs to {name}. Run this as {name}, or as root.", NO_PERMISSION)
    become(owner.st_uid, owner.st_gid)


def become(uid: int, gid: int) -> None:
    """As root, become this user for good, who must be able to read what this program has yet to import. Raises
    CommandError."""
    drop_root(uid, gid)
    name = user_name(uid)
    for what, module in (("Python", os), ("Python's packages", structlog), ("pillarbox", pillarbox)):
        path = Path(str(module.__file__))
        if not (os.access(path.parent, os.R_OK | os.X_OK) and os.access(path, os.R_OK)):
            raise CommandError(
                f"{name} cannot read {what} at {path.parent}: make the environment with a Python that all can read, "
                "such as /usr/bin/python3, in a folder that all can read",
                CONFIG,
            )


def settings_of(args: argparse.Namespace) -> Settings:
    """The checked configuration of this home, read as its owner. Raises ConfigError, CommandError."""
    args.home = args.home.absolute()
    become_owner(args.home)
    return read_settings(config_path(args.home, args.config))


def with_store(program: Program, args: argparse.Namespace, work: Callable[[Opened], Awaitable[T]]) -> T:
    """Open the store, do the work, close it."""
    settings = settings_of(args)

    async def run() -> T:
        async with program.opened(args.home, settings) as opened:
            return await work(opened)

    return asyncio.run(run())


def with_admin(program: Program, args: argparse.Namespace, work: Callable[[Admin], Awaitable[T]]) -> T:
    """As `with_store`, for what is done to domains, users and aliases."""

    async def run(opened: Opened) -> T:
        return await work(Admin(opened.store, SystemClock(), os.urandom, opened.settings, opened.signals))

    return with_store(program, args, run)
