"""The command line: what there is to say, and how errors leave. Commands are imported when they are called.

Source: sysexits.h (exit codes); docs/manual/pillarbox.1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from pillarbox import __version__
from pillarbox.cli.program import (
    CANNOT_CREATE,
    CONFIG,
    DATA,
    IO,
    NO_PERMISSION,
    NO_USER,
    SOFTWARE,
    TEMPORARY,
    Answer,
    CommandError,
    Program,
)

DEFAULT_HOME: Final = "/var/lib/pillarbox"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and leaves with EX_USAGE."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}\n{self.format_usage().strip()}\n`{self.prog} --help` tells more.")


def main(program: Program, argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    wants_json = "--json" in argv
    try:
        args = parser().parse_args(argv)
        given = args.home or os.environ.get("PILLARBOX_HOME")
        args.home, args.home_given = Path(given or DEFAULT_HOME), bool(given)
        module, _, function = args.run.partition(":")
        answer: Answer = getattr(import_module(f"pillarbox.cli.{module}"), function)(program, args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _silenced()
    except Exception as error:
        return _failed(error, wants_json)
    try:
        _print(answer, args.json)
    except BrokenPipeError:
        return _silenced()
    return answer.code


def _print(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.value, ensure_ascii=False, indent=2))
    elif answer.lines:
        print("\n".join(answer.lines))
    sys.stdout.flush()


def _silenced() -> int:
    """Whoever read our output has gone: nothing more is written, and Python must not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _failed(error: Exception, as_json: bool) -> int:
    """Say what went wrong, and return the exit code."""
    code = _exit_code(error)
    text = str(error) or type(error).__name__
    if code in (NO_USER, CANNOT_CREATE) and " " not in text:
        text += " is there already" if code == CANNOT_CREATE else " is not known here"
    if code == SOFTWARE:
        import traceback

        traceback.print_exception(error)
        text = f"this is a mistake in pillarbox: {type(error).__name__}: {error}"
    if as_json:
        print(json.dumps({"error": text, "code": code}, ensure_ascii=False, indent=2))
    print(f"pillarbox: {text}", file=sys.stderr)
    return code


def _exit_code(error: Exception) -> int:
    if isinstance(error, CommandError):  # first: what follows may be closed to the user whom we became
        return error.code
    from pillarbox.config import ConfigError
    from pillarbox.mail.accounts import BadInput
    from pillarbox.model.errors import Exists, NoSuchAccount, NotFound, Trouble

    match error:
        case ConfigError():
            return CONFIG
        case BadInput():
            return DATA
        case NotFound() | NoSuchAccount():
            return NO_USER
        case Exists():
            return CANNOT_CREATE
        case Trouble():
            return TEMPORARY
        case PermissionError():
            return NO_PERMISSION
        case OSError():
            return IO
        case _:
            return SOFTWARE


# --- the words ------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="pillarbox", description="A complete mail system in one program.", allow_abbrev=False)
    top.add_argument("--home", type=Path, default=None, metavar="DIR", help=f"default: PILLARBOX_HOME, {DEFAULT_HOME}")
    top.add_argument("--config", default="", metavar="FILE", help="configuration (default: HOME/pillarbox.toml)")
    top.add_argument("--json", action="store_true", help="answer as JSON")
    top.add_argument("--version", action="version", version=f"pillarbox {__version__}", help="which version this is")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_service(commands)
    _add_directory(commands)
    _add_mail(commands)
    return top


def _command(commands: Any, name: str, run: str, text: str) -> argparse.ArgumentParser:
    """A command that may be followed by the options of the top, too."""
    made = _words(commands, name, text)
    made.set_defaults(run=run)
    return made


def _words(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.add_argument("--home", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    made.add_argument("--config", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="answer as JSON")
    return made


def _group(commands: Any, name: str, text: str) -> Any:
    made = _words(commands, name, text)
    return made.add_subparsers(dest="verb", required=True, metavar="VERB")


def _add_service(commands: Any) -> None:
    trial = _command(commands, "try", "trial:run_try", "run a complete system for trying out, on loopback")
    trial.add_argument("--password", default="", help="password of ada and bob (default: made up, and kept)")
    trial.add_argument("--port-offset", type=int, default=0, metavar="N", help="add N to every port")
    init = _command(commands, "init", "setup:run_init", "make a home with a commented configuration")
    init.add_argument("--hostname", default="", help="our name (default: the machine's)")
    init.add_argument("--postmaster", default="", metavar="ADDRESS", help="who reads mail for postmaster and abuse")
    init.add_argument("--user", default="", help="who shall own the home, and whom the server becomes (as root)")
    _command(commands, "serve", "service:run_serve", "run the server")
    _command(commands, "reload", "service:run_reload", "make the running server read its configuration again")
    check = _command(commands, "check", "check:run_check", "look for mistakes in configuration, files, ports, DNS")
    check.add_argument("--no-dns", action="store_true", help="ask no name server")
    _command(commands, "version", "service:run_version", "which version this is")


def _add_directory(commands: Any) -> None:
    domain = _group(commands, "domain", "domains that are ours")
    _command(domain, "add", "directory:domain_add", "make a domain ours").add_argument("domain")
    _command(domain, "list", "directory:domain_list", "all domains")
    _command(domain, "remove", "directory:domain_remove", "a domain without users and aliases").add_argument("domain")
    user = _group(commands, "user", "people with mailboxes")
    add = _command(user, "add", "directory:user_add", "a new user; - reads lines `address password`")
    add.add_argument("address")
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add.add_argument("--quota", default="", metavar="SIZE", help="such as 500M or 5G; 0: none")
    listing = _command(user, "list", "directory:user_list", "all users")
    listing.add_argument("--domain", default="")
    listing.add_argument("--state", default="", choices=["active", "disabled", "removed"])
    passwd = _command(user, "passwd", "directory:user_passwd", "a new password")
    passwd.add_argument("address")
    passwd.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    quota = _command(user, "quota", "directory:user_quota", "a new quota")
    quota.add_argument("address")
    quota.add_argument("size", help="such as 500M or 5G; 0: none")
    for verb, text in (
        ("disable", "no login; mail is still taken"),
        ("enable", "login again"),
        ("remove", "no mail, no login; kept in the trash for 30 days"),
    ):
        _command(user, verb, f"directory:user_{verb}", text).add_argument("address")
    restore = _command(user, "restore", "directory:user_restore", "undo a removal")
    restore.add_argument("address", metavar="ADDRESS-OR-FOLDER", help="`user list` shows the folders")
    alias = _group(commands, "alias", "addresses that lead to others")
    add = _command(alias, "add", "directory:alias_add", "an alias; @domain catches all; replaces one of that address")
    add.add_argument("address")
    add.add_argument("target", nargs="+", help="local or remote addresses")
    listing = _command(alias, "list", "directory:alias_list", "all aliases")
    listing.add_argument("--domain", default="")
    _command(alias, "remove", "directory:alias_remove", "remove an alias").add_argument("address")


def _add_mail(commands: Any) -> None:
    queue = _group(commands, "queue", "mail that waits to be delivered")
    listing = _command(queue, "list", "queue:queue_list", "what waits")
    _add_selection(listing, needed=False)
    listing.add_argument("--limit", type=int, default=0, metavar="N", help="show the N oldest")
    show = _command(queue, "show", "queue:queue_show", "everything about a message or a recipient")
    show.add_argument("id", nargs="+")
    for verb, text in (
        ("retry", "try again now"),
        ("hold", "do not try until released"),
        ("release", "try what was held"),
        ("drop", "remove without a word to the sender"),
    ):
        _add_selection(_command(queue, verb, f"queue:queue_{verb}", text), needed=True)
    trace = _command(commands, "trace", "queue:run_trace", "what happened to a message")
    trace.add_argument("text", metavar="MESSAGE-ID-OR-ADDRESS", help="or the id that the log shows")
    trace.add_argument("--limit", type=int, default=1000, metavar="N")
    verify = _command(commands, "verify", "verify:run_verify", "check hashes, references and UIDs of what is stored")
    verify.add_argument("account", nargs="?", default="", help="an address; all accounts and the queue otherwise")


def _add_selection(made: argparse.ArgumentParser, needed: bool) -> None:
    made.add_argument("id", nargs="*", help="message or recipient, as `queue list` shows them")
    made.add_argument("--domain", default="", help="of the recipients")
    made.add_argument("--sender", default="")
    made.add_argument("--recipient", default="")
    made.add_argument("--state", default="", choices=["queued", "held"])
    if needed:
        made.add_argument("--all", action="store_true", help="everything in the queue")
