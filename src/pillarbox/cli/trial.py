"""`pillarbox try`: a complete system on loopback, with two users and mail to read. A second start keeps everything."""

from __future__ import annotations

import argparse
import asyncio
import errno
import hashlib
import os
import secrets
import string
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pillarbox.cli.program import DATA, UNAVAILABLE, Answer, CommandError, Program
from pillarbox.cli.samples import samples
from pillarbox.cli.session import become_owner
from pillarbox.cli.setup import write_new
from pillarbox.config import read_settings
from pillarbox.mail.accounts import Admin
from pillarbox.model.ids import EmailId, make_id
from pillarbox.model.mailbox import Account, Content
from pillarbox.net.clock import SystemClock
from pillarbox.net.supervisor import run_apart, running_pid
from pillarbox.settings_text import configuration_text
from pillarbox.store.api import NewEmail, Store

HOME: Final = Path("try")
DOMAIN: Final = "pillarbox.test"
USERS: Final = ("ada", "bob")
PASSWORD_FILE: Final = "try-password"
LETTERS: Final = string.ascii_lowercase + string.digits
"""Of a password that is made up: 62 bits in twelve, and no shell or option of a program takes any as its own."""
ADDRESS: Final = "127.0.0.1"
PORTS: Final = (
    ("smtp", "starttls", 2525),
    ("submission", "starttls", 2587),
    ("submission", "implicit", 2465),
    ("imap", "starttls", 2143),
    ("imap", "implicit", 2993),
    ("pop3", "starttls", 2110),
    ("pop3", "implicit", 2995),
    ("metrics", "none", 2625),
)
_MARK: Final = "# Written by `pillarbox try` at every start. Without this line it is yours, and stays as it is.\n"


@dataclass(frozen=True, slots=True)
class Trial:
    """What was set up."""

    home: Path
    password: str
    offset: int


def run_try(program: Program, args: argparse.Namespace) -> Answer:
    home: Path = (args.home if args.home_given else HOME).absolute()
    if not -1000 < args.port_offset < 60_000:
        raise CommandError(f"--port-offset {args.port_offset}: ports must stay between 1024 and 65535", DATA)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    become_owner(home)
    if pid := running_pid(home / "run" / "pillarbox.pid"):
        raise CommandError(f"process {pid} serves {home} already; stop it first", UNAVAILABLE)
    config = home / "pillarbox.toml"
    _write_config(config, args.port_offset)
    trial = Trial(home, _password(home, args.password), args.port_offset)
    program.make_home(home)
    # SQLite must not be open in a process that forks workers: what is set up is set up by a process of its own.
    run_apart(lambda: asyncio.run(_set_up(program, trial, config)))
    try:
        return Answer(code=program.serve(home, config, say=_how_to_reach(trial)))
    except CommandError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            raise CommandError(f"{error}; other ports: --port-offset N adds N to each", error.code) from error
        raise


def _write_config(path: Path, offset: int) -> None:
    if path.exists():
        if not path.read_text().startswith(_MARK):
            return
        path.unlink()
    listeners: list[dict[str, Any]] = []
    for protocol, tls, port in PORTS:
        entry: dict[str, Any] = {"protocol": protocol, "address": ADDRESS, "port": port + offset, "tls": tls}
        if tls == "starttls" and protocol != "smtp":
            entry["cleartext_login"] = True
        listeners.append(entry)
    given: dict[str, Any] = {
        "hostname": f"mail.{DOMAIN}",
        "postmaster": f"{USERS[0]}@{DOMAIN}",
        "trusted_networks": ["127.0.0.0/8", "::1/128"],
    }
    write_new(path, _MARK + configuration_text(given, listeners))


def _password(home: Path, given: str) -> str:
    """The password of both users: as given, as kept from an earlier start, or made up."""
    path = home / PASSWORD_FILE
    if not given and path.exists():
        return path.read_text().strip()
    password = given or "".join(secrets.choice(LETTERS) for _ in range(12))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password + "\n")
    return password


async def _set_up(program: Program, trial: Trial, config: Path) -> None:
    """The domain, the users with their password, and at the first start their mail."""
    settings = read_settings(config)
    async with program.opened(trial.home, settings) as opened:
        admin = Admin(opened.store, SystemClock(), os.urandom, settings, opened.signals)
        if DOMAIN not in await admin.domains():
            await admin.add_domain(DOMAIN)
        known = {account.address.local: account for account in await admin.users(DOMAIN)}
        stamp = trial.home / "run" / "try-password-set"
        digest = hashlib.sha256(trial.password.encode()).hexdigest()
        is_set = stamp.exists() and stamp.read_text() == digest
        for user in USERS:
            address = f"{user}@{DOMAIN}"
            if user not in known:
                account = await admin.add_user(address, trial.password)
                await _file_samples(opened.store, account)
            elif not is_set and known[user].state == "active":
                await admin.set_password(address, trial.password)
        stamp.write_text(digest)


async def _file_samples(store: Store, account: Account) -> None:
    """Sample mail, as if it had come by SMTP."""
    inbox = await store.mailboxes.status(account.id, "INBOX")
    now = time.time()
    emails = []
    for sample in samples(account.address, now):
        prefix = f"Return-Path: <{sample.sender}>\r\nDelivered-To: {account.address}\r\n".encode()
        content = Content(hashlib.sha256(sample.octets).digest(), len(sample.octets), sample.octets)
        emails.append(NewEmail(EmailId(make_id(now, os.urandom)), content, prefix, int(sample.sent_s)))
    await store.mailboxes.append(account.id, inbox.id, emails)


def _how_to_reach(trial: Trial) -> str:
    port = {(protocol, tls): number + trial.offset for protocol, tls, number in PORTS}
    ada, bob = (f"{user}@{DOMAIN}" for user in USERS)
    home, program = os.path.relpath(trial.home), os.path.relpath(sys.argv[0])
    return f"""
pillarbox is running.

  users       {ada} and {bob}
  password    {trial.password}
  read mail   IMAP  {ADDRESS}:{port["imap", "starttls"]} (STARTTLS)   IMAPS {ADDRESS}:{port["imap", "implicit"]}
              POP3  {ADDRESS}:{port["pop3", "starttls"]} (STLS)       POP3S {ADDRESS}:{port["pop3", "implicit"]}
  send mail   submission {ADDRESS}:{port["submission", "starttls"]} (STARTTLS)
              or with TLS from the start {ADDRESS}:{port["submission", "implicit"]}
  take mail   SMTP  {ADDRESS}:{port["smtp", "starttls"]}
  numbers     http://{ADDRESS}:{port["metrics", "none"]}/metrics
  certificate {home}/tls/self-signed.pem (self-signed)

  curl -k --user '{ada}:{trial.password}' 'imaps://{ADDRESS}:{port["imap", "implicit"]}/INBOX;UID=1'
  swaks --to {bob} --from you@example.org --server {ADDRESS}:{port["smtp", "starttls"]}
  {program} --home {home} user list

Ctrl-C stops it. Mail stays in {home}/, also for the next start.
"""
