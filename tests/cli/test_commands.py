"""The commands, one by one, on a real home."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import pillarbox
from pillarbox.app import Pillarbox
from pillarbox.cli.main import main, parser
from pillarbox.config import read_settings
from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import JobId, SpoolId, make_id
from pillarbox.model.mailbox import Content
from pillarbox.model.secret import secret_matches
from pillarbox.store.api import Job, Spooled, Target, TraceEvent

from .conftest import Shell, edit


def queue_a_message(home: Path, *recipients: str, message_id: str = "<m1@example.org>") -> str:
    """Put a message for remote recipients into the queue; its id as people write it."""

    async def work() -> str:
        async with Pillarbox().opened(home, read_settings(home / "pillarbox.toml")) as opened:
            now = time.time()
            octets = b"Subject: x\r\n\r\nhello\r\n"
            spool_id = SpoolId(make_id(now, os.urandom))
            content = Content(hashlib.sha256(octets).digest(), len(octets), octets)
            message = Spooled(
                spool_id,
                Envelope(Address("ada", "example.org")),
                content,
                received_s=now,
                message_id=message_id,
            )
            jobs = [
                Job(
                    JobId(make_id(now, os.urandom)), spool_id, Recipient(Address(*recipient.split("@"))),
                    Target("remote", recipient.split("@")[1]), queued_s=now, next_s=now + 3600, expires_s=now + 86400,
                )
                for recipient in recipients
            ]  # fmt: skip
            event = TraceEvent(now, spool_id, "received", "", message_id, "ada@example.org", {"size": "21"})
            await opened.store.spool.accept(message, jobs, [event])
            return spool_id.hex()

    return asyncio.run(work())


# --- the words ------------------------------------------------------------------------------------------------------


def test_every_command_is_in_the_manual() -> None:
    manual = (Path(__file__).parent.parent.parent / "docs" / "manual" / "pillarbox.1").read_text().replace("\\-", "-")
    commands = next(action for action in parser()._actions if action.dest == "command").choices or {}
    for name, command in commands.items():  # type: ignore[union-attr]
        verbs = next((action.choices for action in command._actions if action.dest == "verb"), None)
        for verb in verbs or ():
            assert f"{name} {verb}" in manual
        assert name in manual
        options = [o for action in command._actions for o in action.option_strings if o.startswith("--")]
        assert all(option in manual for option in options if option != "--help")


@pytest.mark.parametrize("words", [(), ("bogus",), ("user",), ("user", "add"), ("user", "ad", "x"), ("--homme", "x")])
def test_wrong_use_is_exit_64_with_the_right_words(bare: Shell, words: tuple[str, ...]) -> None:
    said = bare(*words)
    assert said.code == 64 and "usage: pillarbox" in said.err


def test_options_of_the_top_may_stand_anywhere(shell: Shell) -> None:
    for words in (("--json", "domain", "list"), ("domain", "--json", "list"), ("domain", "list", "--json")):
        assert shell(*words).value == [{"domain": "example.org"}]


def test_version_is_quick_as_nothing_is_loaded_that_it_does_not_need(bare: Shell) -> None:
    code = "import sys; from pillarbox.app import main; sys.argv[1:] = ['version']; main(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("pillarbox 0.")
    assert not {"asyncio", "apsw", "ssl", "structlog", "pillarbox.store.api"} & set(out.split())


def test_version_is_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(Pillarbox(), ["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("pillarbox 0.")


def test_a_state_that_there_is_not(shell: Shell) -> None:
    said = shell("user", "list", "--state", "gone")
    assert said.code == 64 and "active" in said.err and "''" not in said.err


def test_a_home_that_is_not_there_is_exit_66(bare: Shell) -> None:
    said = bare("user", "list")
    assert said.code == 66 and "init" in said.err


def test_a_mistake_in_the_configuration_is_exit_78_with_the_line(shell: Shell) -> None:
    path = shell.home / "pillarbox.toml"
    path.write_text("\nworker = 1\n")
    said = shell("domain", "list", "--json")
    assert said.code == 78
    assert f"{path}:2: worker: there is no such setting; did you mean `workers`?" in said.err
    assert said.value["code"] == 78


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    "words", [("user", "list"), ("init", "--hostname", "h.example", "--postmaster", "a@h.example")]
)
def test_an_owner_who_cannot_read_the_program_is_told_so(words: tuple[str, ...]) -> None:
    """A package in a folder that only root can read; Python itself is in one as well on some machines."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o711)
        closed, home = folder / "closed", folder / "home"
        shutil.copytree(Path(pillarbox.__file__).parent, closed / "pillarbox")
        closed.chmod(0o700)
        home.mkdir(mode=0o700)
        os.chown(home, 65534, 65534)
        command = [sys.executable, "-m", "pillarbox", "--home", str(home), *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(closed)})
        assert done.returncode == 78 and "Traceback" not in done.stderr
        assert re.match(
            r"pillarbox: \S+ cannot read \S.* at /\S+: make the environment with a Python that", done.stderr
        )
        assert not list(home.iterdir())


# --- init -----------------------------------------------------------------------------------------------------------


def test_init_makes_a_home_and_never_overwrites(bare: Shell) -> None:
    assert bare("init", "--hostname", "mail.example.org", "--postmaster", "ada@example.org").code == 0
    path = bare.home / "pillarbox.toml"
    before = path.read_bytes()
    assert read_settings(path).postmaster == "ada@example.org"
    assert bare.home.stat().st_mode & 0o777 == 0o700
    said = bare("init", "--hostname", "other.example.org", "--postmaster", "bob@example.org")
    assert said.code == 73 and path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_init_as_root_without_a_user_to_become_tells_how_to_make_one(bare: Shell) -> None:
    bare.patch.setattr("pillarbox.cli.setup.USUAL_USER", "nosuch")
    said = bare("init", "--hostname", "mail.example.org", "--postmaster", "ada@example.org")
    assert said.code == 0 and f"useradd --system --home-dir {bare.home} nosuch && chown -R nosuch" in said.out


def test_init_completes_a_home_whose_databases_were_never_made(shell: Shell) -> None:
    before = (shell.home / "pillarbox.toml").read_bytes()
    (shell.home / "directory.db").unlink()
    said = shell("domain", "list")
    assert said.code == 75 and "init" in said.err
    assert shell("init", "--hostname", "h.example", "--postmaster", "x@h.example").code == 0
    assert (shell.home / "pillarbox.toml").read_bytes() == before
    shell.ok("domain", "add", "example.org")
    (shell.home / "pillarbox.toml").unlink()
    assert shell("init", "--hostname", "h.example", "--postmaster", "x@h.example").code == 0
    assert shell.ok("domain", "list") == [{"domain": "example.org"}]


def test_a_database_that_went_missing_is_never_made_anew(shell: Shell) -> None:
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="x\n")
    (shell.home / "directory.db").unlink()
    for words in (("domain", "list"), ("init", "--hostname", "h.example", "--postmaster", "x@h.example")):
        said = shell(*words)
        assert said.code == 75 and "directory.db is missing: bring it back from a backup" in said.err, words
    assert not (shell.home / "directory.db").exists()


def test_init_wants_a_postmaster(bare: Shell) -> None:
    said = bare("init", "--hostname", "mail.example.org")
    assert said.code == 64 and "--postmaster" in said.err and not bare.home.exists()
    assert bare("init", "--hostname", "mail.example.org", "--postmaster", "nobody").code == 65


# --- domains, users, aliases ----------------------------------------------------------------------------------------


def test_domains(shell: Shell) -> None:
    assert shell.ok("domain", "add", "Bücher.Example") == {"domain": "xn--bcher-kva.example"}
    assert shell("domain", "add", "example.org").code == 73
    assert shell("domain", "add", "not a domain").code == 65
    assert shell("domain", "add", "192.0.2.1").code == 65
    assert [entry["domain"] for entry in shell.ok("domain", "list")] == ["example.org", "xn--bcher-kva.example"]
    shell.ok("domain", "remove", "xn--bcher-kva.example")
    assert shell("domain", "remove", "none.example").code == 67
    assert shell("domain", "list").out == "example.org\n"


def test_users_from_adding_to_restoring(shell: Shell) -> None:
    added = shell.ok("user", "add", "Ada@example.org", "--password-stdin", "--quota", "5G", stdin="pass word\n")
    assert (added["state"], added["quota_octets"]) == ("active", 5 << 30)
    assert (shell.home / "accounts").is_dir()
    assert shell("user", "add", "ada@example.org", "--password-stdin", stdin="x\n").code == 73
    assert shell("user", "add", "eve@elsewhere.example", "--password-stdin", stdin="x\n").code == 67
    for verb, state in (("disable", "disabled"), ("enable", "active"), ("remove", "removed"), ("restore", "active")):
        shell.ok("user", verb, "ada@example.org")
        assert [user["state"] for user in shell.ok("user", "list")] == [state]
    shell.ok("user", "quota", "ada@example.org", "0")
    assert shell.ok("user", "list", "--domain", "example.org", "--state", "active")[0]["quota_octets"] == 0
    assert shell("domain", "remove", "example.org").code == 73


def test_a_removed_user_whose_address_was_given_away_comes_back_by_the_folder(shell: Shell) -> None:
    first = shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="first\n")
    shell.ok("user", "remove", "ada@example.org")
    said = shell("user", "add", "Ada@example.org", "--password-stdin", stdin="second\n")
    assert said.code == 0 and f"`pillarbox user restore {first['id']}` brings it back" in said.out
    said = shell("user", "restore", "ada@example.org")
    assert said.code == 73 and "`pillarbox user remove ada@example.org`" in said.err and first["id"] in said.err
    second = next(user for user in shell.ok("user", "list") if user["state"] == "active")
    assert shell("user", "restore", second["id"]).code == 65
    assert shell("user", "restore", "nofolder").code == 67

    shell.ok("user", "remove", "ada@example.org")
    said = shell("user", "restore", "ada@example.org")
    assert said.code == 65 and "2 users ada@example.org were removed" in said.err
    assert first["id"] in said.err and second["id"] in said.err
    assert {user["state"] for user in shell.ok("user", "list")} == {"removed"}
    assert shell.ok("user", "restore", first["id"])["id"] == first["id"]
    assert secret_is(shell.home, Address("ada", "example.org"), "first")
    third = shell.ok("user", "add", "-", stdin="bob@example.org x\n")
    assert third[0]["in_trash"] == []


def test_a_removed_user_is_not_restored_over_an_alias(shell: Shell) -> None:
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="x\n")
    shell.ok("user", "remove", "ada@example.org")
    shell.ok("alias", "add", "ada@example.org", "x@elsewhere.example")
    said = shell("user", "restore", "ada@example.org")
    assert said.code == 73 and "`pillarbox alias remove ada@example.org`" in said.err
    assert len(list((shell.home / "trash").iterdir())) == 1


def secret_is(home: Path, address: Address, password: str) -> bool:
    async def work() -> bool:
        async with Pillarbox().opened(home, read_settings(home / "pillarbox.toml")) as opened:
            account = await opened.store.directory.account(address)
            assert account is not None and account.secret is not None
            return secret_matches(account.secret, password)

    return asyncio.run(work())


def test_a_password_comes_from_standard_input_only(shell: Shell) -> None:
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="two words\n")
    assert secret_is(shell.home, Address("ada", "example.org"), "two words")
    shell.ok("user", "passwd", "ada@example.org", "--password-stdin", stdin="new\n")
    assert secret_is(shell.home, Address("ada", "example.org"), "new")
    assert shell("user", "passwd", "ada@example.org").code == 64
    assert shell("user", "passwd", "ada@example.org", "--password-stdin").code == 65
    assert shell("user", "passwd", "none@example.org", "--password-stdin", stdin="x\n").code == 67


def test_many_users_are_added_all_or_none(shell: Shell) -> None:
    lines = "".join(f"u{number}@example.org pw{number} x\n" for number in range(20))
    assert len(shell.ok("user", "add", "-", stdin=lines)) == 20
    for line, code, why in (
        ("nothing", 65, "this is not `address password`"),
        ("u1@example.org pw", 73, "there is a user u1@example.org: `pillarbox user passwd u1@example.org` changes"),
        ("V1@example.org pw", 73, "V1@example.org stands here twice"),
        ("x@else.example pw", 67, "else.example is not a domain of this server: `pillarbox domain add else.example`"),
        ("x+y@example.org pw", 65, "x+y@example.org: what follows '+' is a detail"),
        ("@ pw", 65, "'@' is not an address"),
        ("x@example.org p\x00w", 65, "control characters are not allowed"),
        ("info@example.org pw", 73, "info@example.org is an alias: `pillarbox alias remove info@example.org`"),
    ):
        shell.ok("alias", "add", "info@example.org", "u1@example.org")
        said = shell("user", "add", "-", stdin=f"v1@example.org pw\n\n{line}\n")
        assert said.code == code and f"line 3: {why}" in said.err, said.err
    assert len(shell.ok("user", "list")) == 20
    assert secret_is(shell.home, Address("u7", "example.org"), "pw7 x")
    assert len(shell.ok("user", "add", "-", stdin="t1@example.org\tpw 1\n\n  t2@example.org    pw2\n")) == 2
    assert secret_is(shell.home, Address("t1", "example.org"), "pw 1")


def test_aliases(shell: Shell) -> None:
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="x\n")
    shell.ok("alias", "add", "info@example.org", "ada@example.org", "x@elsewhere.example")
    assert shell.ok("alias", "add", "@example.org", "ada@example.org")["address"] == "@example.org"
    assert {entry["address"] for entry in shell.ok("alias", "list")} == {"info@example.org", "@example.org"}
    assert shell("alias", "add", "ada@example.org", "x@elsewhere.example").code == 73
    shell.ok("alias", "remove", "@example.org")
    assert shell("alias", "remove", "@example.org").code == 67
    assert "ada@example.org, x@elsewhere.example" in shell("alias", "list").out


def test_an_alias_that_leads_to_nobody_is_told_of(shell: Shell) -> None:
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="x\n")
    said = shell("alias", "add", "info@example.org", "ada@example.org", "adda@example.org", "x@elsewhere.example")
    assert said.code == 0 and said.out.endswith("warning: adda@example.org leads to nobody\n")
    assert "alias info@example.org: its target adda@example.org leads to nobody" in shell("check", "--no-dns").out
    assert shell.ok("alias", "add", "info@example.org", "ada@example.org")["dead"] == []
    said = shell("alias", "add", "info@elsewhere.example", "ada@example.org")
    assert said.code == 67 and "elsewhere.example is not a domain of this server" in said.err


# --- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_is_listed_held_released_retried_and_dropped(shell: Shell) -> None:
    message = queue_a_message(shell.home, "a@remote.example", "b@remote.example", "c@other.example")
    listed = shell.ok("queue", "list")
    assert listed["counts"]["queued"] == 3 and len(listed["jobs"]) == 3
    assert {job["recipient"] for job in shell.ok("queue", "list", "--domain", "Remote.example")["jobs"]} == {
        "a@remote.example",
        "b@remote.example",
    }
    job = next(job for job in listed["jobs"] if job["recipient"] == "c@other.example")
    assert shell.ok("queue", "hold", job["id"]) == {"count": 1}
    assert [job["recipient"] for job in shell.ok("queue", "list", "--state", "held")["jobs"]] == ["c@other.example"]
    assert shell.ok("queue", "release", message) == {"count": 1}
    assert shell.ok("queue", "retry", "--domain", "remote.example") == {"count": 2}
    shown = shell.ok("queue", "show", message)
    assert len(shown) == 3 and shown[0]["events"][0]["event"] == "received"
    assert "c@other.example" in shell("queue", "show", job["id"]).out
    assert shell.ok("queue", "drop", "--all") == {"count": 3}
    done = [event["event"] for event in shell.ok("trace", message) if event["recipient"] == "c@other.example"]
    assert done[-3:] == ["held", "released", "dropped"]
    assert shell("queue", "list").out == "nothing waits\n"
    assert shell("queue", "show", message).code == 67


def test_what_the_queue_says_where_nothing_is_done(shell: Shell) -> None:
    message = queue_a_message(shell.home, "a@remote.example", "b@remote.example")
    assert shell("queue", "list", "--domain", "else.example").out == "nothing of that waits (2 others do)\n"
    assert shell("queue", "retry", message).out == "2 due now\n"
    shell.ok("queue", "hold", "--recipient", "b@remote.example")
    said = shell("queue", "retry", message).out
    assert said.splitlines() == ["1 due now", "1 held, and not tried: `pillarbox queue release` lets them go"]
    assert shell.ok("queue", "retry", "--state", "held") == {"count": 0, "held": 1}


def test_a_change_of_the_queue_wants_a_choice(shell: Shell) -> None:
    assert shell("queue", "drop").code == 64
    assert shell("queue", "drop", "--all", "--domain", "x.example").code == 64
    assert shell("queue", "drop", "no-id").code == 65
    assert shell("queue", "drop", "0" * 32).code == 67


def test_trace_finds_by_message_id_address_and_id(shell: Shell) -> None:
    message = queue_a_message(shell.home, "a@remote.example")
    for text in ("<m1@example.org>", "m1@example.org", "ada@example.org", message):
        assert shell.ok("trace", text)[0]["event"] == "received", text
    said = shell("trace", "nobody@example.org")
    assert said.code == 67 and "events are kept for 30 days (queue.trace_days)" in said.err


def test_trace_finds_a_message_id_as_headers_and_as_the_spool_have_it(shell: Shell) -> None:
    message = queue_a_message(shell.home, "a@remote.example", message_id="m2@example.org")
    job = shell.ok("queue", "list")["jobs"][0]["id"]
    for text in ("<m2@example.org>", "m2@example.org", message, job):
        assert shell.ok("trace", text)[0]["event"] == "received", text
    assert shell("trace", "0" * 32).code == 67


def test_what_strangers_wrote_cannot_steer_the_terminal(shell: Shell) -> None:
    said = shell("trace", "\x1b[2J")
    assert "\x1b" not in said.out + said.err


# --- verify, check, reload ------------------------------------------------------------------------------------------


def test_verify_finds_nothing_on_a_sound_home(shell: Shell) -> None:
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="x\n")
    assert shell.ok("verify") == {"findings": []}
    assert shell.ok("verify", "ada@example.org") == {"findings": []}
    assert shell("verify", "none@example.org").code == 67


def test_check_names_what_is_wrong(shell: Shell) -> None:
    listener = '\n[[listeners]]\nprotocol = "smtp"\naddress = "127.0.0.1"\nport = 1\n'
    path = shell.home / "pillarbox.toml"
    path.write_text(path.read_text() + listener)
    said = shell("check", "--no-dns", "--json")
    errors = {finding["about"] for finding in said.value if finding["level"] == "error"}
    assert said.code == 78 and errors == {"postmaster", "postmaster@example.org", "abuse@example.org"}
    shell.ok("user", "add", "ada@example.org", "--password-stdin", stdin="x\n")
    assert shell("check", "--no-dns").code == 0
    shell.home.chmod(0o705)
    said = shell("check", "--no-dns")
    assert said.code == 78 and f"{shell.home}: mode 0705" in said.out


def test_check_warns_of_a_postmaster_who_is_nobody(shell: Shell) -> None:
    shell.ok("user", "add", "bob@example.org", "--password-stdin", stdin="x\n")
    said = shell("check", "--no-dns")
    words = "postmaster: ada@example.org is no user or alias; until then bob@example.org reads it"
    assert f"warning  {words}\n" in said.out
    shell.ok("alias", "add", "ada@example.org", "bob@example.org")
    assert words not in shell("check", "--no-dns").out


def test_reload_tells_of_a_certificate_that_cannot_be_used(shell: Shell) -> None:
    edit(shell.home / "pillarbox.toml", lambda text: text.replace("[tls]\n", '[tls]\ncertificate = "none.pem"\n'))
    said = shell("reload")
    assert said.code == 78 and "none.pem" in said.err


def test_reload_without_a_server_is_exit_69(shell: Shell) -> None:
    said = shell("reload")
    assert said.code == 69 and "no server runs" in said.err
