"""`pillarbox verify`: is everything that is stored what it was when it came?"""

from __future__ import annotations

import argparse
import sys

from pillarbox.cli.output import printable
from pillarbox.cli.program import DATA, NO_USER, Answer, CommandError, Opened, Program
from pillarbox.cli.session import with_store
from pillarbox.model.address import parse_address
from pillarbox.model.ids import AccountId


def run_verify(program: Program, args: argparse.Namespace) -> Answer:
    async def work(opened: Opened) -> list[str]:
        account: AccountId | None = None
        if args.account:
            address = parse_address(args.account)
            found = await opened.store.directory.account(address) if address else None
            if found is None:
                raise CommandError(f"there is no user {args.account}; `pillarbox user list` shows all", NO_USER)
            account = found.id
        return await opened.store.verify(account, None if args.json else _progress)

    findings = with_store(program, args, work)
    lines = tuple(printable(finding) for finding in findings) or ("everything is as it was stored",)
    return Answer(lines, {"findings": findings}, DATA if findings else 0)


def _progress(text: str) -> None:
    print(printable(text), file=sys.stderr)
