"""The server as a whole: starting, refusing to, reloading, losing workers, stopping. Cases 39, 229, 230, 244, 245."""

from __future__ import annotations

import json
import os
import poplib
import re
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from neighbours.processes import free_ports

from .conftest import Shell, edit
from .server import Running, children, started

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Host:
    """A home with a server's listeners on free ports, and one user."""

    def __init__(self, shell: Shell, workers: int) -> None:
        shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="pw\n")
        self.home = shell.home
        self.config = shell.home / "pillarbox.toml"
        self.smtp, self.pop3, self.metrics = free_ports(3)
        listeners = "".join(
            f'\n[[listeners]]\nprotocol = "{protocol}"\naddress = "127.0.0.1"\nport = {port}\n{more}\n'
            for protocol, port, more in (
                ("smtp", self.smtp, ""),
                ("pop3", self.pop3, "cleartext_login = true"),
                ("metrics", self.metrics, 'tls = "none"'),
            )
        )
        edit(self.config, lambda text: text.replace("# workers = 0", f"workers = {workers}") + listeners)
        edit(self.config, lambda text: text.replace("# greeting_wait_s = 2", "greeting_wait_s = 0"))

    def serve(self) -> tuple[str, ...]:
        return ("--home", str(self.home), "serve")

    def send(self, subject: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=30) as smtp:
            smtp.sendmail("x@example.net", ["ada@example.org"], f"Subject: {subject}\r\n\r\nhello\r\n".encode())

    def subjects(self) -> list[str]:
        """Of what is in the mailbox now."""
        pop3 = poplib.POP3("127.0.0.1", self.pop3, timeout=30)
        pop3.user("ada@example.org")
        pop3.pass_("pw")
        count = len(pop3.list()[1])
        heads = [b"\n".join(pop3.top(number + 1, 0)[1]).decode() for number in range(count)]
        pop3.quit()
        return [re.findall("Subject: (.*)", head)[0] for head in heads]

    def arrive(self, subject: str) -> list[str]:
        """Send, and look until it is there (delivery is a moment after the 250)."""
        self.send(subject)
        for _ in range(200):
            if subject in (found := self.subjects()):
                return found
        raise AssertionError(f"{subject} did not arrive")

    def size_announced(self) -> int:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=30) as smtp:
            smtp.ehlo()
            return int(smtp.esmtp_features["size"])


def ready(running: Running, processes: int) -> None:
    running.until('"event":"started"', processes)


def test_supervised_workers_serve_reload_die_and_stop(shell: Shell) -> None:
    host = Host(shell, workers=2)
    with started(*host.serve()) as server:
        ready(server, 3)
        assert host.arrive("one") == ["one"]
        page = urllib.request.urlopen(f"http://127.0.0.1:{host.metrics}/metrics", timeout=30).read()
        assert b'pillarbox_messages_accepted_total{protocol="smtp"} 1.0' in page

        # a second server refuses, and says who holds the home
        said = shell("serve")
        assert said.code == 69 and f"process {server.process.pid} serves {host.home}" in said.err

        # case 245: a mistake is told by the command and by the server; the old configuration stays
        edit(host.config, lambda text: "bogus = 1\n" + text)
        assert f"{host.config}:1: bogus" in shell("reload").err
        server.process.send_signal(signal.SIGHUP)
        server.until("reload refused, the old configuration stays")
        edit(host.config, lambda text: text.removeprefix("bogus = 1\n"))

        # a right one is taken over, by new sessions; those that run go on
        running = smtplib.SMTP("127.0.0.1", host.smtp, timeout=30)
        running.ehlo()
        edit(host.config, lambda text: text.replace("# message_octets = 52428800", "message_octets = 1000000"))
        assert shell("reload").code == 0
        server.until('"event":"reloaded"', 3)
        assert host.size_announced() == 1_000_000
        assert running.ehlo()[0] == 250 and running.esmtp_features["size"] == "52428800"
        running.sendmail("x@example.net", ["ada@example.org"], "Subject: running\r\n\r\nhello\r\n")
        running.quit()

        # cases 39, 244: any worker may be killed; its clients wait, nothing is lost
        for pid in children(server.process.pid):
            os.kill(pid, signal.SIGKILL)
        server.until('"event":"worker died"', 3)
        found = host.arrive("two")
        for _ in range(200):
            if "running" in found:
                break
            time.sleep(0.05)  # it may be with a worker that died, and waits for the mover
            found = host.subjects()
        assert sorted(found) == ["one", "running", "two"]

        # a user removed by a command is refused by all workers soon
        shell.ok("user", "remove", "ada@example.org")
        for _ in range(500):
            try:
                host.send("late")
            except smtplib.SMTPRecipientsRefused as error:
                assert error.recipients["ada@example.org"][0] == 550
                break
        else:
            raise AssertionError("mail for a removed user is taken")
        workers = children(server.process.pid)
        assert server.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_one_process_does_it_all(shell: Shell) -> None:
    host = Host(shell, workers=1)
    with started(*host.serve()) as server:
        ready(server, 1)
        assert children(server.process.pid) == []
        assert host.arrive("one") == ["one"]
        server.process.send_signal(signal.SIGHUP)
        server.until('"event":"reloaded"')
        assert host.arrive("two") == ["one", "two"]
        assert server.stop(signal.SIGINT) == 0
    with started(*host.serve()) as server:
        ready(server, 1)
        assert host.subjects() == ["one", "two"]
        assert server.stop() == 0


def test_workers_end_with_a_killed_supervisor(shell: Shell) -> None:
    host = Host(shell, workers=2)
    with started(*host.serve()) as server:
        ready(server, 3)
        workers = children(server.process.pid)
        server.process.kill()
        server.until('"event":"ended"', 3)
        assert len(workers) == 3
    with started(*host.serve()) as server:
        ready(server, 3)
        assert host.arrive("after") == ["after"]
        assert server.stop() == 0


def refused_by_check(shell: Shell) -> list[str]:
    """For which `check` says that the server will not start."""
    said = shell("check", "--no-dns", "--json")
    assert said.code == 78
    return [finding["text"] for finding in said.value if finding["about"] == "start"]


# --- what is refused ------------------------------------------------------------------------------------------------


@needs_root
def test_case_229_root_is_refused_on_an_address_that_is_not_loopback(shell: Shell) -> None:
    [port] = free_ports(1)
    listener = f'\n[[listeners]]\nprotocol = "smtp"\naddress = "0.0.0.0"\nport = {port}\n'
    edit(shell.home / "pillarbox.toml", lambda text: text + listener)
    said = shell("serve")
    assert said.code == 78 and f"0.0.0.0 port {port}" in said.err and "`user`" in said.err
    assert refused_by_check(shell) == [said.err.removeprefix("pillarbox: ").strip()]


@needs_root
def test_a_user_who_does_not_own_the_home_or_does_not_exist_is_refused(shell: Shell) -> None:
    path = shell.home / "pillarbox.toml"
    edit(path, lambda text: text.replace('# user = ""', 'user = "nobody"'))
    said = shell("serve")
    assert said.code == 78 and f"chown -R nobody {shell.home}" in said.err
    assert refused_by_check(shell) == [said.err.removeprefix("pillarbox: ").strip()]
    edit(path, lambda text: text.replace('user = "nobody"', 'user = "no-such-user"'))
    said = shell("serve")
    assert said.code == 78 and refused_by_check(shell) == [said.err.removeprefix("pillarbox: ").strip()]


def test_a_log_that_cannot_be_written_is_told_by_check_and_by_serve(shell: Shell) -> None:
    host = Host(shell, workers=1)
    for file, why in (("none/log", "there is no such folder"), ("accounts", "it is a folder")):
        path = shell.home / file
        edit(host.config, lambda text, path=path: re.sub(r'(?m)^(# )?file = ".*"$', f'file = "{path}"', text))
        [refusal] = refused_by_check(shell)
        assert refusal == f"log.file: cannot write the log to {path}: {why}"
        with started(*host.serve()) as server:
            server.until(refusal)
            server.process.wait(timeout=30)
            assert server.process.returncode == 78
    assert not (shell.home / "none").exists()


CHECK_AS_OWNER = """
import sys
import importlib.readers, pillarbox.app.server, pillarbox.cli.check, pillarbox.cli.session as session
# all that the owner might be unable to read is loaded now
session.become = session.drop_root
sys.exit(pillarbox.cli.main.main(pillarbox.app.Pillarbox(), sys.argv[1:]))
"""


def test_a_server_never_makes_a_directory_anew_where_there_are_accounts(shell: Shell) -> None:
    host = Host(shell, workers=1)
    (host.home / "directory.db").unlink()
    with started(*host.serve()) as server:
        server.until("directory.db is missing: bring it back from a backup")
        assert server.process.wait(timeout=30) == 75
    assert not (host.home / "directory.db").exists()


@needs_root
def test_check_as_root_sees_a_port_below_1024_that_is_taken(shell: Shell) -> None:
    """Though the owner of the home, whom it becomes, could not listen there."""
    listener = '\n[[listeners]]\nprotocol = "smtp"\naddress = "127.0.0.1"\nport = {}\n'
    with socket.socket() as taken, socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        port, other = bind_below_1024(taken, 1023), bind_below_1024(free, 900)
        free.close()
        taken.listen()
        edit(shell.home / "pillarbox.toml", lambda text: text + listener.format(port) + listener.format(other))
        os.chmod(folder, 0o711)
        home = shell.home.rename(Path(folder) / "home")
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534)
        command = [sys.executable, "-c", CHECK_AS_OWNER, "--home", str(home), "--json", "check", "--no-dns"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 78, done.stderr
        levels = {finding["about"]: finding["level"] for finding in json.loads(done.stdout)}
    assert levels[f"port {port} on 127.0.0.1"] == "error" and levels[f"port {other} on 127.0.0.1"] == "ok"


def bind_below_1024(sock: socket.socket, port: int) -> int:
    """Bind to this port or the next one below that is free; which it is."""
    while True:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            port -= 1
        else:
            return port


@needs_root
def test_root_becomes_the_owner_of_the_home(shell: Shell) -> None:
    host = Host(shell, workers=1)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o711)
        host.home = host.home.rename(Path(folder) / "home")
        for path in (host.home, *host.home.rglob("*")):
            os.chown(path, 65534, 65534)
        with started(*host.serve()) as server:
            ready(server, 1)
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            assert re.search(r"Uid:\s+65534\s+65534\s+65534", status)
            assert host.arrive("one") == ["one"]
            assert server.stop() == 0
        assert all(path.lstat().st_uid == 65534 for path in host.home.rglob("*"))


def test_case_230_a_home_or_key_open_to_everyone_is_refused_with_path_and_mode(shell: Shell) -> None:
    Host(shell, workers=1)
    shell.home.chmod(0o755)
    said = shell("serve")
    assert said.code == 78 and f"{shell.home}: mode 0755" in said.err
    shell.home.chmod(0o700)
    key = shell.home / "key.pem"
    key.write_text("x")
    key.chmod(0o644)
    names = '[tls]\ncertificate = "key.pem"\nkey = "key.pem"\n'
    edit(shell.home / "pillarbox.toml", lambda text: text.replace("[tls]\n", names))
    said = shell("serve")
    assert said.code == 78 and f"{key}: mode 0644" in said.err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_told_with_its_number(shell: Shell, workers: int) -> None:
    """With several workers the ports are shared between them, but with no other server."""
    host = Host(shell, workers)
    with started("--home", str(host.home), "serve") as server:
        ready(server, 1 if workers == 1 else workers + 1)
        other = shell.home.parent / "other"
        other.mkdir(mode=0o700)
        (other / "pillarbox.toml").write_text(host.config.read_text())
        (other / "pillarbox.toml").chmod(0o640)
        shell.home = other
        said = shell("serve")
        assert said.code == 69 and f"127.0.0.1 port {host.smtp}" in said.err
        assert server.stop() == 0


def test_sessions_of_a_removed_user_end_with_bye(shell: Shell) -> None:
    host = Host(shell, workers=1)
    [port] = free_ports(1)
    listener = f'\n[[listeners]]\nprotocol = "imap"\naddress = "127.0.0.1"\nport = {port}\ncleartext_login = true\n'
    edit(host.config, lambda text: text + listener)
    with started(*host.serve()) as server:
        ready(server, 1)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client, client.makefile("rb") as lines:
            client.sendall(b"a LOGIN ada@example.org pw\r\nb SELECT INBOX\r\nc IDLE\r\n")
            while not lines.readline().startswith(b"+ "):
                pass
            shell.ok("domain", "add", "another.example")  # a change before: what is known of the account is fresh
            host.send("one more look at the directory")
            while not lines.readline().startswith(b"* 1 EXISTS"):
                pass
            shell.ok("user", "remove", "ada@example.org")
            said = [line for line in lines if not line.startswith(b"* 1 ")]
            assert len(said) == 1 and said[0].startswith(b"* BYE")
        for _ in range(200):  # within a second
            time.sleep(0.05)  # the directory is asked for changes a few times in it
            with smtplib.SMTP("127.0.0.1", host.smtp, timeout=30) as smtp:
                smtp.ehlo()
                smtp.mail("x@example.net")
                if (said_of_ada := smtp.rcpt("ada@example.org"))[0] == 550:
                    break
        assert said_of_ada[1].startswith(b"5.1.1")
        assert server.stop() == 0
