"""The configuration: strict, and clear about what is wrong. Cases 230, 245."""

from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.app.plan import keep_fixed
from pillarbox.config import ConfigError, effective_listeners, parse_settings, read_settings
from pillarbox.model.settings import Limits, Listener, Logging, Queue, Route, Settings, Tls
from pillarbox.settings_text import configuration_text, manual_page, sections, toml_value
from pillarbox.toml_lines import line_of

FILE = Path("pillarbox.toml")


def parse(text: str) -> Settings:
    return parse_settings(text.encode(), FILE)


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_nothing_written_means_the_defaults() -> None:
    assert parse("") == Settings()


def test_values_come_in_their_types() -> None:
    settings = parse(
        """
        hostname = "mail.example.org"
        workers = 1
        trusted_networks = ["127.0.0.0/8", "::1/128"]

        [limits]
        command_timeout_s = 20
        recipients = 500

        [[listeners]]
        protocol = "imap"
        address = "::1"
        tls = "implicit"

        [outbound]
        name_servers = ["127.0.0.1:5353", "[::1]:53", "192.0.2.1"]

        [[outbound.routes]]
        domain = "*"
        host = "smtp.example.net"
        """
    )
    assert settings.trusted_networks == ("127.0.0.0/8", "::1/128")
    assert settings.limits.command_timeout_s == 20.0
    assert isinstance(settings.limits.command_timeout_s, float)
    assert settings.listeners == (Listener("imap", "::1", tls="implicit"),)
    assert settings.outbound.routes == (Route("*", "smtp.example.net"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('hostnam = "x"', "pillarbox.toml:1: hostnam: there is no such setting; did you mean `hostname`?"),
        ("\n[limits]\nsession_per_ip = 3", ":3: limits.session_per_ip: there is no such setting; did you mean"),
        ("[limit]\nrecipients = 3", ":1: limit: there is no such setting; did you mean `limits`?"),
        ("workers = true", ":1: workers: a whole number is wanted, not true or false"),
        ("workers = -1", ":1: workers: a number that is not negative is wanted"),
        ('workers = "2"', ":1: workers: a whole number is wanted, not a text in quotes"),
        ("[tls]\nmin_version = 1.2", ":2: tls.min_version: a text in quotes is wanted"),
        ('[tls]\nmin_version = "1.1"', ':2: tls.min_version: one of "1.2", "1.3" is wanted'),
        ('[log]\nlevel = "warn"', 'did you mean "warning"?'),
        ('postmaster = "me"', ':1: postmaster: "me" is not a mail address'),
        ('hostname = "a b"', 'is not a host name'),
        ('trusted_networks = "::1"', ":1: trusted_networks: a list is wanted"),
        ('trusted_networks = [\n"127.0.0.1/8"]', "is not a network"),
        ('hostname = "x\\ny"', "control characters are not allowed"),
        ("limits = 3", ":1: limits: a table [limits] is wanted"),
        ('[[listeners]]\naddress = "::1"', ":1: listeners[1]: `protocol` is missing"),
        (
            '[[listeners]]\nprotocol = "smtp"\naddress = "::1"\n[[listeners]]\nprotocol = "imaps"\naddress = "::1"',
            ':5: listeners[2].protocol: one of "smtp",',
        ),
        ('[[listeners]]\nprotocol = "smtp"\naddress = "localhost"', ':3: listeners[1].address: "localhost" is neither'),
        ('[[listeners]]\nprotocol = "smtp"\naddress = "::1"\nport = 65536', ":4: listeners[1].port:"),
        (
            '[[listeners]]\nprotocol = "imap"\naddress = "::1"\n[[listeners]]\nprotocol = "pop3"\naddress = "::1"\n'
            "port = 143",
            "listeners: ::1 port 143 is there twice",
        ),
        ('[[listeners]]\nprotocol = "imap"\naddress = "/run/x"', "only lmtp may listen on a path"),
        ('[[listeners]]\nprotocol = "metrics"\naddress = "192.0.2.1"\ntls = "none"', "on a loopback address only"),
        ('[outbound]\nroutes = [{domain = "*", hots = "x"}]', ":2: outbound.routes[1].hots: there is no such setting"),
        ('[outbound]\nname_servers = ["one.example"]', 'is not "address" or "address:port"'),
        ("[limits]\nimap_idle_s = 60", "at least 1800 is wanted"),
        ("[limits]\nsmtp_line_octets = 80", "at least 512 is wanted"),
        ("x = \n", "pillarbox.toml:1: not TOML"),
        ('hostname = "a"\nhostname = "b"', "not TOML"),
        ("scram_iterations = 1", "RFC 7677"),
        ("[limits]\nrecipients = 3.5", ":2: limits.recipients: a whole number is wanted, not 3.5"),
        ('[tls]\n\nhostname = "x"', ":3: tls.hostname: `hostname` belongs to no table: write it above"),
        ("[listeners]\nport = 25", ":1: listeners: there can be several of these: write [[listeners]]"),
        ('[outbound.routes]\nhost = "x"', "there can be several of these: write [[outbound.routes]]"),
        (
            "[limits]\nrecipients = 300\n[queue]\n[limits] # more\nmailboxes = 3",
            ":4: [limits] is in line 1 already: a table stands once, with all its keys",
        ),
        ("[queue]\nlimits = {}", ":2: queue.limits: there is no such setting; there are:"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_the_nearest_name(text: str, words: str) -> None:
    assert words in problem(text)


@pytest.mark.parametrize(
    "text", ['[log]\nlevel = "none"', '[[listeners]]\nprotocol = "http"\naddress = "::1"', "[log]\ncolour = true"]
)
def test_nothing_far_fetched_is_offered(text: str) -> None:
    assert "did you mean" not in problem(text)


def test_what_is_not_utf8_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"pillarbox\.toml:2: this is not UTF-8"):
        parse_settings(b'workers = 1\nhostname = "\xff"\n', FILE)


def test_lines_are_found_past_texts_and_lists_that_span_lines() -> None:
    text = 'a = """\nb = 1\n"""\nlist = [\n "x", # b = 2 [\n]\nb = 3\n[t.u]\n"c" = 4\n'
    assert tomllib.loads(text)
    assert line_of(text, ("b",)) == 7
    assert line_of(text, ("t", "u", "c")) == 9
    assert line_of(text, ("list", 0)) == 4


@given(st.text())
def test_no_text_makes_the_search_for_a_line_fail(text: str) -> None:
    line_of(text, ("a", 0, "b"))


@given(st.binary(max_size=200))
def test_any_octets_give_settings_or_a_config_error(octets: bytes) -> None:
    try:
        parse_settings(octets, FILE)
    except ConfigError as error:
        assert error.path == FILE


def test_case_230_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pillarbox.toml"
    path.write_text("workers = 1\n")
    path.chmod(0o662)
    with pytest.raises(ConfigError, match=f"{path}: mode 0662"):
        read_settings(path)


def test_case_230_a_file_with_a_password_that_everyone_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pillarbox.toml"
    path.write_text('[[outbound.routes]]\ndomain = "*"\nhost = "relay.example"\npassword = "x"\n')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        read_settings(path)
    path.chmod(0o640)
    assert read_settings(path).outbound.routes[0].password == "x"


def test_a_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pillarbox init"):
        read_settings(tmp_path / "none.toml")


def test_without_listeners_the_standard_ports_are_used() -> None:
    found = {(item.protocol, item.port, item.tls) for item in effective_listeners(Settings())}
    assert found == {
        ("smtp", 25, "starttls"), ("submission", 587, "starttls"), ("submission", 465, "implicit"),
        ("imap", 143, "starttls"), ("imap", 993, "implicit"), ("pop3", 110, "starttls"), ("pop3", 995, "implicit"),
    }  # fmt: skip


# --- the texts made from the settings -------------------------------------------------------------------------------


def test_every_setting_has_a_text() -> None:
    def walk(kind: type) -> set[tuple[str, str]]:
        found = set()
        for field in fields(kind):
            hint = get_type_hints(kind)[field.name]
            found |= walk(hint) if is_dataclass(hint) else {(kind.__name__, field.name)}  # type: ignore[arg-type]
        return found

    listed = sum(len(section.entries) for section in sections())
    wanted = walk(Settings) | walk(Listener) | walk(Route)
    assert listed == len(wanted) - 2  # listeners and routes are sections of their own
    assert all(entry.text for s in sections() for entry in s.entries)


def test_the_file_of_init_is_the_defaults() -> None:
    assert parse(configuration_text({}, [])) == Settings()


def test_every_line_of_the_file_of_init_can_be_uncommented() -> None:
    lines = configuration_text({}, []).split("\n")
    for number, line in enumerate(lines):
        name = line.removeprefix("# ").split(" = ")[0]
        if not line.startswith("# ") or " = " not in line or not name.isidentifier() or line.endswith(" ..."):
            continue
        header = next((above for above in reversed(lines[:number]) if above.lstrip("# ").startswith("[")), "")
        if header.startswith("#"):
            continue  # an example of a list of tables
        assert parse(f"{header}\n{line[2:]}\n") == Settings(), line


def test_values_given_to_init_are_in_its_file() -> None:
    listeners = [{"protocol": "smtp", "address": "127.0.0.1", "port": 2525}]
    settings = parse(configuration_text({"hostname": "a.example", "tls.min_version": "1.3"}, listeners))
    assert (settings.hostname, settings.tls.min_version) == ("a.example", "1.3")
    assert settings.listeners == (Listener("smtp", "127.0.0.1", 2525),)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_is_written_as_toml_reads_it(text: str) -> None:
    assert tomllib.loads(f"x = {toml_value(text)}") == {"x": text}


def test_the_manual_page_in_the_repository_is_the_one_made_from_the_settings() -> None:
    path = Path(__file__).parent.parent / "docs" / "manual" / "pillarbox.toml.5"
    assert path.read_text() == manual_page()


def test_the_manual_has_the_lower_bounds() -> None:
    texts = {(section.name, entry.key): entry for section in sections() for entry in section.entries}
    bounds = 0
    for (table, key), entry in texts.items():
        if table in ("limits", "queue"):
            try:
                parse_settings(f"[{table}]\n{key} = 0\n".encode(), Path("x"))
            except ConfigError as error:
                bounds += 1
                bound = int(float(str(error).partition("at least ")[2].partition(" ")[0]))
                assert f"At least {bound:,}." in entry.text, key
    assert bounds > 10


def test_the_manual_says_what_needs_a_restart() -> None:
    other = Settings(
        workers=7,
        user="mail",
        listeners=(Listener("smtp", "127.0.0.1"),),
        limits=Limits(**{field.name: 7 for field in fields(Limits)}),
        queue=Queue(**{field.name: 7 for field in fields(Queue)}),
        log=Logging("debug", "json", "x"),
        tls=Tls("a", "b", "1.3"),
    )
    _, fixed = keep_fixed(Settings(), other)
    said = {
        f"{section.name}.{entry.key}".lstrip(".")
        for section in sections()
        for entry in section.entries
        if "needs a restart" in entry.text
    }
    said |= {section.name for section in sections() if "needs a restart" in section.text}
    assert said == set(fixed)
