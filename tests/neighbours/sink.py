"""Postfix's smtp-sink: a mail server that takes, refuses or defers everything, as told."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from .processes import Server, answers, until
from .programs import need


class Sink:
    """One smtp-sink at `host`:`port`; what it takes lies in `folder`, a file for each message.

    `options` are smtp-sink's own: "-r", "RCPT" defers recipients, "-f", "RCPT" refuses them.
    """

    def __init__(self, folder: Path, host: str, port: int, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [need("smtp-sink"), *options]
        if os.geteuid() == 0:
            who = pwd.getpwnam("nobody")
            os.chown(folder, who.pw_uid, who.pw_gid)
            command += ["-u", "nobody"]
        self.folder = folder
        self.host, self.port = host, port
        self.server = Server(
            [*command, "-c", "-d", f"{folder}/m.", f"{host}:{port}", "128"], folder.with_suffix(".log")
        )
        until(f"smtp-sink at {host}:{port}", lambda: answers(port, host))

    def messages(self) -> list[bytes]:
        """What it took whole, as in its files: envelope fields first, lines ended by LF."""
        return [path.read_bytes() for path in self.folder.glob("m.*")]

    def stop(self) -> None:
        """End it."""
        self.server.stop()
