"""`pillarbox domain`, `user` and `alias`: thin over `mail.accounts.Admin`."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Iterable
from typing import Any, Final

from pillarbox.cli.output import format_size, format_time, json_time, parse_size, table
from pillarbox.cli.program import DATA, Answer, CommandError, Program
from pillarbox.cli.session import with_admin
from pillarbox.mail.accounts import Admin
from pillarbox.model.address import Address
from pillarbox.model.mailbox import Account
from pillarbox.store.api import Alias

MANY: Final = 50


def domain_add(program: Program, args: argparse.Namespace) -> Answer:
    name = with_admin(program, args, lambda admin: admin.add_domain(args.domain))
    return Answer((f"{name} is ours now. Next: pillarbox user add NAME@{name}",), {"domain": name})


def domain_list(program: Program, args: argparse.Namespace) -> Answer:
    names = with_admin(program, args, Admin.domains)
    return Answer(tuple(names), [{"domain": name} for name in names])


def domain_remove(program: Program, args: argparse.Namespace) -> Answer:
    with_admin(program, args, lambda admin: admin.remove_domain(args.domain))
    return Answer((f"{args.domain} is not ours any more",), {"domain": args.domain})


# --- users ----------------------------------------------------------------------------------------------------------


def user_add(program: Program, args: argparse.Namespace) -> Answer:
    quota = parse_size(args.quota) if args.quota else None
    if args.address == "-":
        numbered = _read_users()
        users = list(numbered.values())
        if len(users) >= MANY:  # a password costs a core about a third of a second
            print(f"hashing the passwords of {len(users)} users; this takes a while", file=sys.stderr)
        values, warnings = with_admin(program, args, lambda admin: _add_users(admin, users, quota, numbered))
        return Answer((f"{len(values)} users added", *warnings), values)
    password = _read_password(args)
    [value], warnings = with_admin(program, args, lambda admin: _add_users(admin, [(args.address, password)], quota))
    return Answer((f"{value['address']} can receive mail, and log in by this address", *warnings), value)


async def _add_users(
    admin: Admin, users: list[tuple[str, str]], quota: int | None, lines: Iterable[int] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """What was made, and a warning for each removed user whose address it has, and who could have been restored."""
    made = await admin.add_users(users, quota, lines)
    trashed = await admin.trashed_users(account.address for account in made)
    folders: dict[str, list[str]] = {account.address.key: [] for account in made}
    warnings = []
    for account, removed_s in trashed:
        folders[account.address.key].append(account.id)
        warnings.append(
            f"warning: a user {account.address} that was removed {format_time(removed_s)} is in the trash; after "
            f"`pillarbox user remove {account.address}`, `pillarbox user restore {account.id}` brings it back"
        )
    return [{**_as_value(account), "in_trash": folders[account.address.key]} for account in made], warnings


def user_list(program: Program, args: argparse.Namespace) -> Answer:
    accounts = with_admin(program, args, lambda admin: admin.users(args.domain, args.state))
    rows = [
        (
            str(a.address),
            a.state,
            format_size(a.quota_octets) if a.quota_octets else "-",
            format_time(a.created_s),
            a.id,
        )
        for a in accounts
    ]
    return Answer(table(("ADDRESS", "STATE", "QUOTA", "SINCE", "FOLDER"), rows), [_as_value(a) for a in accounts])


def user_passwd(program: Program, args: argparse.Namespace) -> Answer:
    password = _read_password(args)
    with_admin(program, args, lambda admin: admin.set_password(args.address, password))
    return Answer((f"{args.address} has a new password",), {"address": args.address})


def user_quota(program: Program, args: argparse.Namespace) -> Answer:
    quota = parse_size(args.size)
    with_admin(program, args, lambda admin: admin.set_quota(args.address, quota))
    return Answer((f"quota of {args.address}: {format_size(quota) if quota else 'none'}",), {"quota_octets": quota})


def user_disable(program: Program, args: argparse.Namespace) -> Answer:
    with_admin(program, args, lambda admin: admin.disable_user(args.address))
    return Answer((f"{args.address} cannot log in any more; mail is still taken",), {"address": args.address})


def user_enable(program: Program, args: argparse.Namespace) -> Answer:
    with_admin(program, args, lambda admin: admin.enable_user(args.address))
    return Answer((f"{args.address} can log in",), {"address": args.address})


def user_remove(program: Program, args: argparse.Namespace) -> Answer:
    with_admin(program, args, lambda admin: admin.remove_user(args.address))
    text = f"{args.address} is removed. For 30 days: pillarbox user restore {args.address}"
    return Answer((text,), {"address": args.address})


def user_restore(program: Program, args: argparse.Namespace) -> Answer:
    account = with_admin(program, args, lambda admin: admin.restore_user(args.address))
    return Answer((f"{account.address} is back, with its mail",), _as_value(account))


def _as_value(account: Account) -> dict[str, Any]:
    return {
        "address": str(account.address),
        "id": account.id,
        "state": account.state,
        "quota_octets": account.quota_octets,
        "created": json_time(account.created_s),
    }


def _read_password(args: argparse.Namespace) -> str:
    """From standard input, or asked twice on a terminal; never from the command line. Raises CommandError."""
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise CommandError("no password came from standard input", DATA)
        return password
    if not sys.stdin.isatty():
        raise CommandError("no terminal to ask for a password on. Give it to --password-stdin.")
    password = getpass.getpass(f"Password for {args.address}: ")
    if password != getpass.getpass("Once more: "):
        raise CommandError("these were two different passwords; nothing was changed", DATA)
    return password


def _read_users() -> dict[int, tuple[str, str]]:
    """Lines `address password` of standard input by their numbers, parted by spaces or tabs; empty ones are skipped.

    Raises CommandError.
    """
    users: dict[int, tuple[str, str]] = {}
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        words = line.rstrip("\r\n").split(None, 1)
        if len(words) < 2:
            raise CommandError(f"line {number}: this is not `address password`; nothing was changed", DATA)
        users[number] = words[0], words[1]
    return users


# --- aliases --------------------------------------------------------------------------------------------------------


def alias_add(program: Program, args: argparse.Namespace) -> Answer:
    async def work(admin: Admin) -> tuple[Alias, list[Address]]:
        alias = await admin.add_alias(args.address, args.target)
        return alias, await admin.dead_targets(alias)

    alias, dead = with_admin(program, args, work)
    value = {**_alias_value(alias), "dead": [str(target) for target in dead]}
    warnings = [f"warning: {target} leads to nobody" for target in dead]
    return Answer((f"{value['address']} leads to {', '.join(value['targets'])}", *warnings), value)


def alias_list(program: Program, args: argparse.Namespace) -> Answer:
    values = [_alias_value(alias) for alias in with_admin(program, args, lambda admin: admin.aliases(args.domain))]
    return Answer(
        table(("ADDRESS", "TARGETS"), [(value["address"], ", ".join(value["targets"])) for value in values]), values
    )


def alias_remove(program: Program, args: argparse.Namespace) -> Answer:
    with_admin(program, args, lambda admin: admin.remove_alias(args.address))
    return Answer((f"{args.address} is no alias any more",), {"address": args.address})


def _alias_value(alias: Alias) -> dict[str, Any]:
    address = str(alias.address) if alias.address.local else f"@{alias.address.domain}"
    return {"address": address, "targets": [str(target) for target in alias.targets]}
