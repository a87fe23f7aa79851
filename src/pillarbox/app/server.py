"""`pillarbox serve`: look before starting, bind, drop root, then supervise workers or be the only one.

What must hold before anything starts: the configuration is right; nothing in cli/start.py refuses; no other server
holds the home; every database can be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final

import structlog

from pillarbox.app.board import ReloadBoard
from pillarbox.app.outcome import tell_outcome
from pillarbox.app.plan import Plan, keep_fixed
from pillarbox.app.roles import Process, reopen_log
from pillarbox.cli.program import CONFIG, NO_PERMISSION, TEMPORARY, UNAVAILABLE, CommandError
from pillarbox.cli.service import OUTCOME_FILE
from pillarbox.cli.start import Owner, mode_refusals, owner_refusals, start_owner, start_refusals
from pillarbox.config import ConfigError, effective_listeners, read_settings
from pillarbox.log import configure_logs
from pillarbox.metrics import SharedNumbers
from pillarbox.model.errors import PillarboxError
from pillarbox.model.settings import Listener, Settings
from pillarbox.net.clock import SystemClock
from pillarbox.net.supervisor import (
    AlreadyRunning,
    Bound,
    ChildFailed,
    PidFile,
    Supervisor,
    Worker,
    bind_all,
    bind_metrics,
    close_sockets,
    drop_root,
    harden,
    machine_name,
    notify_systemd,
    raise_file_limit,
    run_apart,
    tune_collector,
)
from pillarbox.net.tls import ServerTls, ensure_self_signed
from pillarbox.store.sqlite.engine import init_home, open_store

PRELOADED: Final = ("uvloop", "importlib.readers", "encodings.idna", "encodings.ascii")
"""Modules that processes would load later: loaded here they are shared, and found even where the user whom we become
cannot read Python's folder."""
PID_FILE: Final = "run/pillarbox.pid"

log = structlog.get_logger("server")


class Server:
    """One start of the server."""

    def __init__(self, home: Path, config: Path, say: str) -> None:
        self._home = home.absolute()
        self._config = config
        self._say = say
        self._settings = read_settings(config)
        self._board: ReloadBoard | None = None

    def run(self) -> int:
        """Until told to stop; the exit code. Raises ConfigError, CommandError."""
        settings = self._settings
        listeners = effective_listeners(settings)
        _refuse(start_refusals(self._home, self._config, settings))
        owner = start_owner(self._home, settings)
        workers = settings.workers or len(os.sched_getaffinity(0))
        pid_file = self._lock(owner)
        (self._home / OUTCOME_FILE).unlink(missing_ok=True)  # of another life, maybe from before the machine's start
        fronts, metrics = _bind(listeners, workers)
        for name in PRELOADED:
            with contextlib.suppress(ImportError):
                import_module(name)
        raise_file_limit()
        if os.geteuid() == 0 and owner.uid:
            for listener in listeners:
                if listener.address.startswith("/"):
                    os.chown(listener.address, owner.uid, owner.gid)
            drop_root(owner.uid, owner.gid)
        harden()
        _refuse(owner_refusals(settings))
        try:
            configure_logs(settings.log.level, settings.log.format, settings.log.file)
        except OSError as error:
            raise CommandError(f"cannot write the log to {settings.log.file}: {error.strerror}", CONFIG) from error
        prove_home(self._home, settings)
        plan = self._plan(SharedNumbers(workers + 1))
        if workers == 1:
            process = Process(plan, "single", 0, fronts[0], metrics, is_mover=True, ready=self._ready)
            tune_collector()
            code = process.run()
            notify_systemd("STOPPING=1")
            return code
        return self._supervise(plan, fronts, metrics, pid_file)

    def _supervise(self, plan: Plan, fronts: list[Bound], metrics: Bound, pid_file: PidFile) -> int:
        latest = [plan]
        board = self._board = ReloadBoard(len(fronts) + 1)
        plan.board = board

        def reload(call: Callable[[], list[int]]) -> None:
            began_ns = time.monotonic_ns()
            try:
                new = latest[0].read()
                error = board.agree(new.digest(), call)
            except (ConfigError, PillarboxError, CommandError, OSError) as trouble:
                error = str(trouble)
            if error:
                log.error("reload refused, the old configuration stays", error=error)
                tell_outcome(self._home, began_ns, error)
                return
            latest[0] = new
            reopen_log(new.settings, "")
            log.info("all processes have the new configuration")
            tell_outcome(self._home, began_ns, "", new.needs_restart)

        def front(number: int) -> Callable[[], int]:
            def work() -> int:
                close_sockets(metrics, *(bound for other, bound in enumerate(fronts) if other != number))
                return self._child(Process(latest[0], f"front-{number + 1}", number, fronts[number]))

            return work

        def mover() -> int:
            close_sockets(*fronts)
            return self._child(Process(latest[0], "mover", len(fronts), metrics=metrics, is_mover=True))

        workers = [Worker(f"front-{number + 1}", front(number)) for number in range(len(fronts))]
        workers.append(Worker("mover", mover))
        return Supervisor(workers, in_child=pid_file.close, reload=reload, ready=self._ready).run()

    def _child(self, process: Process) -> int:
        logging = process.plan.settings.log
        configure_logs(logging.level, logging.format, logging.file, process.name)
        return process.run()

    def _ready(self) -> None:
        """All is bound and started: tell systemd, and whoever started us."""
        notify_systemd(f"READY=1\nMAINPID={os.getpid()}")
        if self._say:
            print(self._say, flush=True)

    def _lock(self, owner: Owner) -> PidFile:
        """Hold the home. Raises CommandError."""
        path = self._home / PID_FILE
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            pid_file = PidFile(path)
        except AlreadyRunning as error:
            raise CommandError(
                f"process {error.pid or 'unknown'} serves {self._home} already; stop it first, or `pillarbox reload`",
                UNAVAILABLE,
            ) from None
        if os.geteuid() == 0 and owner.uid:
            os.chown(path.parent, owner.uid, owner.gid)
            os.chown(path, owner.uid, owner.gid)
        return pid_file

    def _plan(self, numbers: SharedNumbers) -> Plan:
        """What the processes are to do, by the configuration as it is read now. Raises ConfigError, PillarboxError."""
        settings, needs_restart = keep_fixed(self._settings, read_settings(self._config))
        settings = replace(settings, hostname=settings.hostname or machine_name())
        _refuse(mode_refusals(self._home, settings))
        certificate, key = certificate_files(self._home, settings)
        ServerTls(certificate, key, settings.tls.min_version)
        workers = settings.workers or len(os.sched_getaffinity(0))
        return Plan(
            self._home, settings, certificate, key, workers, numbers, lambda: self._plan(numbers), needs_restart,
            self._board,
        )  # fmt: skip


def certificate_files(home: Path, settings: Settings) -> tuple[Path, Path]:
    """Certificate and key: as configured (paths relative to the home), else self-signed ones in the home."""
    if settings.tls.certificate:
        return home / settings.tls.certificate, home / (settings.tls.key or settings.tls.certificate)
    certificate, key = home / "tls" / "self-signed.pem", home / "tls" / "self-signed.key"
    ensure_self_signed(certificate, key, (settings.hostname or machine_name(),), SystemClock().now())
    return certificate, key


def _refuse(reasons: Iterator[CommandError]) -> None:
    """Raise the first of them, if there is one."""
    for reason in reasons:
        raise reason


def prove_home(home: Path, settings: Settings) -> None:
    """Make what the home lacks, bring databases up to date, and open them once, apart. Raises CommandError."""

    def work() -> None:
        init_home(home)
        asyncio.run(_open_and_close(home, settings))

    try:
        run_apart(work)
    except ChildFailed as error:
        raise CommandError(f"the store in {home} cannot be opened: {error}", TEMPORARY) from error


async def _open_and_close(home: Path, settings: Settings) -> None:
    store = await open_store(home, signals=None, settings=settings, clock=SystemClock(), role="command")
    await store.close()


def _bind(listeners: tuple[Listener, ...], workers: int) -> tuple[list[Bound], Bound]:
    """Raises CommandError."""
    try:
        if workers > 1:
            # Workers share a port; another server of the same user would too, and take half of our mail: ask alone.
            close_sockets(*bind_all([item for item in listeners if not item.address.startswith("/")], 1))
        return bind_all(listeners, workers), bind_metrics(listeners)
    except PermissionError as error:
        raise CommandError(
            f"cannot listen on {error.filename}: {error.strerror}; ports below 1024 need root (with `user` set) or "
            "systemd's AmbientCapabilities=CAP_NET_BIND_SERVICE",
            NO_PERMISSION,
        ) from error
    except OSError as error:
        raise CommandError(
            f"cannot listen on {error.filename}: {error.strerror}; what is there already: ss -ltnp", UNAVAILABLE
        ) from error
