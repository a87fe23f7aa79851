"""`pillarbox check`: what is wrong, or will be: configuration, files, certificate, ports, and DNS of the domains."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pillarbox.cli.output import format_time
from pillarbox.cli.program import CONFIG, Answer, Opened, Program, config_path
from pillarbox.cli.session import settings_of
from pillarbox.cli.start import owner_refusals, start_refusals
from pillarbox.config import effective_listeners, read_settings
from pillarbox.mail.accounts import Admin
from pillarbox.mail.desk import DnsTrouble
from pillarbox.mail.route import Router
from pillarbox.model.address import Address
from pillarbox.model.errors import Trouble
from pillarbox.model.settings import Listener, Settings
from pillarbox.net.clock import SystemClock
from pillarbox.net.listen import bind_tcp
from pillarbox.net.resolver import DnsResolver
from pillarbox.net.supervisor import running_pid
from pillarbox.net.tls import ServerTls, read_certificate

SOON_S: Final = 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` is "ok", "warning" or "error"."""

    level: str
    about: str
    text: str


def run_check(program: Program, args: argparse.Namespace) -> Answer:
    before = _as_it_starts(args)
    settings = settings_of(args)
    findings = [Finding("ok", "configuration", "every setting is right"), *before]
    findings += [Finding("error", "start", str(refusal)) for refusal in owner_refusals(settings)]
    findings += [*_files(args.home), *_certificate(args.home, settings)]
    findings += asyncio.run(_inside(program, args.home, settings, not args.no_dns))
    bad = any(finding.level == "error" for finding in findings)
    lines = tuple(f"{finding.level:<8} {finding.about}: {finding.text}" for finding in findings)
    values = [{"level": finding.level, "about": finding.about, "text": finding.text} for finding in findings]
    return Answer(lines, values, CONFIG if bad else 0)


def _as_it_starts(args: argparse.Namespace) -> list[Finding]:
    """What `serve` meets before it becomes the owner of the home: root may listen on every port. Nothing where there is
    no home that we could look into."""
    home = args.home.absolute()
    if not home.is_dir() or os.geteuid() not in (0, home.stat().st_uid):
        return []
    config = config_path(home, args.config)
    settings = read_settings(config)
    findings = [Finding("error", "start", str(refusal)) for refusal in start_refusals(home, config, settings)]
    pid = running_pid(home / "run" / "pillarbox.pid")
    return [*findings, *([Finding("ok", "ports", f"process {pid} listens on them")] if pid else _ports(settings))]


def _files(home: Path) -> Iterator[Finding]:
    """All that is in the home belongs to one user."""
    for path in (home, *sorted(home.iterdir())):
        found = path.lstat()
        if found.st_uid != os.geteuid():
            yield Finding("error", str(path), f"belongs to user {found.st_uid}; chown {os.geteuid()} {path}")


def _certificate(home: Path, settings: Settings) -> Iterator[Finding]:
    tls = settings.tls
    if not tls.certificate:
        yield Finding("warning", "certificate", "none is configured: a self-signed one is used, which clients distrust")
        return
    certificate, key = home / tls.certificate, home / (tls.key or tls.certificate)
    try:
        ServerTls(certificate, key, tls.min_version)
        found = read_certificate(certificate)
    except (Trouble, OSError) as error:
        yield Finding("error", "certificate", str(error))
        return
    left_s = found.not_after_s - time.time()
    level = "error" if left_s <= 0 else "warning" if left_s < SOON_S else "ok"
    yield Finding(level, "certificate", f"{certificate} is good until {format_time(found.not_after_s)}")
    if settings.hostname and not found.covers(settings.hostname):
        yield Finding("warning", "certificate", f"{certificate} is not for {settings.hostname}")


def _ports(settings: Settings) -> Iterator[Finding]:
    """Could the server listen?"""
    for listener in effective_listeners(settings):
        if listener.address.startswith("/"):
            continue
        about = f"port {listener.port} on {listener.address}"
        try:
            bind_tcp(listener.address, listener.port, reuse_port=False).close()
        except OSError as error:
            yield _port_finding(about, listener, error)
        else:
            yield Finding("ok", about, f"free, for {listener.protocol}")


def _port_finding(about: str, listener: Listener, error: OSError) -> Finding:
    if error.errno == errno.EACCES:
        text = "only root may listen there: start as root with `user`, or by systemd (CAP_NET_BIND_SERVICE)"
        return Finding("warning", about, text)
    if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
        return Finding("error", about, f"this machine has no such address: {listener.address}")
    return Finding("error", about, f"{error.strerror}; what is there: ss -ltnp")


async def _inside(program: Program, home: Path, settings: Settings, with_dns: bool) -> list[Finding]:
    """What the directory says, and what the world sees of it."""
    async with program.opened(home, settings) as opened:
        findings = [finding async for finding in _directory(opened)]
        if with_dns:
            resolver = DnsResolver(SystemClock(), settings.outbound.name_servers)
            for domain in await opened.store.directory.domains():
                findings.append(await _domain(resolver, domain, settings))
            findings.append(await _hostname(resolver, settings))
    return findings


async def _directory(opened: Opened) -> AsyncIterator[Finding]:
    settings, directory = opened.settings, opened.store.directory
    domains = await directory.domains()
    if not domains:
        yield Finding("warning", "domains", "there are none yet: pillarbox domain add DOMAIN")
    router = Router(directory, settings)
    for role in ("postmaster", "abuse"):
        for domain in ("", *domains) if role == "postmaster" else domains:
            found = await router.resolve(Address(role, domain))
            if not found.places:
                text = "reaches nobody: set `postmaster` in the configuration to an address that does"
                yield Finding("error", f"{role}@{domain}".rstrip("@"), text)
    stand_in = (await router.resolve(Address("postmaster", ""))).places
    if settings.postmaster and stand_in and not await router.knows_postmaster():
        readers = ", ".join(str(place.account.address if place.account else place.address) for place in stand_in)
        text = f"{settings.postmaster} is no user or alias; until then {readers} reads it"
        yield Finding("warning", "postmaster", text)
    admin = Admin(opened.store, SystemClock(), os.urandom, settings)
    for alias in await directory.aliases():
        for target in await admin.dead_targets(alias):
            about = str(alias.address) if alias.address.local else f"@{alias.address.domain}"
            yield Finding("warning", f"alias {about}", f"its target {target} leads to nobody")


async def _domain(resolver: DnsResolver, domain: str, settings: Settings) -> Finding:
    about = f"DNS of {domain}"
    try:
        _, records = await resolver.mx(domain)
    except DnsTrouble as error:
        return Finding("warning", about, f"no answer about its MX records: {error}")
    hosts = [record.host.rstrip(".").lower() for record in records]
    if not hosts:
        text = f"no MX record: nobody can send to it. Publish: {domain}. MX 10 {settings.hostname or 'HOSTNAME'}."
        return Finding("error", about, text)
    if settings.hostname and settings.hostname.lower() not in hosts:
        return Finding("warning", about, f"its MX records ({', '.join(hosts)}) do not name {settings.hostname}")
    return Finding("ok", about, f"MX {', '.join(hosts)}")


async def _hostname(resolver: DnsResolver, settings: Settings) -> Finding:
    name = settings.hostname
    if not name:
        return Finding("warning", "hostname", "not set: the machine's name is used, which the world may not know")
    try:
        addresses = await resolver.addresses(name)
    except DnsTrouble as error:
        return Finding("warning", f"DNS of {name}", f"no answer about its addresses: {error}")
    if not addresses:
        return Finding("error", f"DNS of {name}", "it has no address: other servers will distrust or miss us")
    return Finding("ok", f"DNS of {name}", ", ".join(addresses))
