"""The core: commands out of octets, literals, limits. Source: RFC 3501 §2.2, §4.3; RFC 7888."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.model.settings import Limits
from pillarbox.protocol.imap import commands as c
from pillarbox.protocol.imap.fetch import FetchItem
from pillarbox.protocol.imap.grammar import COMMANDS, When
from pillarbox.protocol.imap.search import All, And, Dated, HasFlag, InHeader, InSet, InText, Not, Or, Size
from pillarbox.protocol.imap.server import AppendEnd, AppendOctets, IdleDone, ImapServer, Mistake, SaslAnswer, Send

LIMITS = Limits()


def server(state=When.SELECTED):
    core = ImapServer(LIMITS)
    core.state = state
    return core


def events(core, octets):
    core.receive(octets)
    return list(iter(core.next_event, None))


def one(octets, state=When.SELECTED):
    (event,) = events(server(state), octets)
    return event


def command(octets, state=When.SELECTED):
    event = one(b"a " + octets + b"\r\n", state)
    assert isinstance(event, c.Request), event
    assert event.tag == b"a"
    return event.command


def bad(octets, state=When.SELECTED):
    event = one(b"a " + octets + b"\r\n", state)
    assert isinstance(event, Mistake), event
    return event.octets


# --- grammar


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"CAPABILITY", c.Capability()),
        (b"noop", c.Noop()),
        (b"SELECT inbox", c.Select("INBOX", False)),
        (b'EXAMINE "Sent Mail"', c.Select("Sent Mail", True)),
        (b"CREATE a/b/", c.Create("a/b")),
        (b"DELETE a", c.Delete("a")),
        (b"RENAME a b", c.Rename("a", "b")),
        (b"SUBSCRIBE a", c.Subscribe("a", True)),
        (b"UNSUBSCRIBE a", c.Subscribe("a", False)),
        (b'LIST "" *', c.List("", "*", False)),
        (b'LSUB "" "%/b]"', c.List("", "%/b]", True)),
        (b"STATUS a (MESSAGES UNSEEN)", c.Status("a", (b"MESSAGES", b"UNSEEN"))),
        (b"UNSELECT", c.Close(False)),
        (b"CLOSE", c.Close(True)),
        (b"UID EXPUNGE 3:5", c.Expunge(((3, 5),))),
        (b"FETCH 1:* FLAGS", c.Fetch(((1, 0),), (FetchItem(b"FLAGS"),), False)),
        (b"STORE 1 +FLAGS.SILENT (\\seen $x)", c.Store(((1, 1),), "+", frozenset({"\\Seen", "$x"}), True, False)),
        (b"STORE 1 FLAGS \\Deleted", c.Store(((1, 1),), "=", frozenset({"\\Deleted"}), False, False)),
        (b"uid copy *:3,9 Trash", c.Copy(((0, 3), (9, 9)), "Trash", False, True)),
        (b"MOVE 2 Trash", c.Copy(((2, 2),), "Trash", True, False)),
        (b"ID NIL", c.Id(())),
        (b'ID ("name" "x" "version" NIL)', c.Id(((b"name", b"x"), (b"version", None)))),
        (b"ENABLE CONDSTORE x", c.Enable((b"CONDSTORE", b"X"))),
        (b"SEARCH ALL", c.Search(All(), False)),
        (b"SEARCH 1:* unseen", c.Search(And((InSet(((1, 0),), False), Not(HasFlag(1)))), False)),
        (b"UID SEARCH OR (FROM Ada SEEN) NOT LARGER 5",
         c.Search(Or(And((InHeader(b"from", "ada"), HasFlag(1))), Not(Size(5, True))), True)),
        (b"SEARCH SINCE 1-Feb-1994", c.Search(Dated(">", 727960, False), False)),
        (b'SEARCH CHARSET utf-8 TEXT "\xc3\xa9"', c.Search(InText("é", True), False)),
        (b"SEARCH HEADER List-Id {1}\r\nX".replace(b"{1}", b"{1+}"), c.Search(InHeader(b"list-id", "x"), False)),
        (b"SEARCH KEYWORD $junk", c.Search(HasFlag(0, "$junk"), False)),
    ],
)  # fmt: skip
def test_commands(octets, expected):
    assert command(octets) == expected


def test_login_and_authenticate():
    assert command(b'LOGIN "a\\"b" {3+}\r\nx y', When.FRESH) == c.Login(b'a"b', b"x y")
    assert command(b"AUTHENTICATE plain =", When.FRESH) == c.Authenticate("PLAIN", b"=")
    assert "x y" not in repr(c.Login(b"a", b"x y"))


@pytest.mark.parametrize(
    "octets",
    [
        b"FETCH 0 FLAGS",
        b"FETCH 1:0 FLAGS",
        b"FETCH -1 FLAGS",
        b"FETCH 4294967296 FLAGS",
        b"FETCH 1,,2 FLAGS",
        b"FETCH 1: FLAGS",
        b"FETCH 1 (FLAGS",
        b"FETCH 1 BODY[1.]",
        b"FETCH 1 BODY[MIME]",
        b"FETCH 1 BODY[0]",
        b"FETCH 1 BODY[]<0.0>",
        b"FETCH 1 BODY[HEADER.FIELDS ()]",
        b"FETCH 1 BODY[" + b"1." * 1000 + b"1]",
        b"STORE 1 FLAGS (\\Nonsense)",
        b"STORE 1 BLAGS (\\Seen)",
        b"SEARCH",
        b"SEARCH FROM",
        b"SEARCH ON 31-Feb-2020",
        b'SELECT "a',
        b'SELECT "a\\x"',
        b"SELECT a b",
        b"STATUS a ()",
        b"NOOP x",
        b"UID NOOP",
        b"XYZZY",
        b"LOGIN a b",
        b"\xff\x00",
        b"ID (" + b'"a" "b" ' * 31 + b'"a" "b")',
        b'ID ("a" "' + b"x" * 1025 + b'")',
    ],
)
def test_bad_commands(octets):
    assert bad(octets).startswith(b"a BAD ") or octets[0] == 255


def test_case_170_numbers():
    assert command(b"FETCH 1:4294967295 FLAGS").messages == ((1, 4294967295),)
    assert command(b"FETCH *:* FLAGS").messages == ((0, 0),)
    many = b",".join(b"%d" % (n % 9 + 1) for n in range(30_000))
    assert len(command(b"FETCH " + many + b" FLAGS").messages) == 30_000


def test_case_172_sections_and_partials():
    assert bad(b"FETCH 1 BODY[" + b"1." * 1000 + b"1]").startswith(b"a BAD")
    item = command(b"FETCH 1 BODY.PEEK[1.2.MIME]<0.9223372036854775808>").items[0]
    assert item.partial == (0, 1 << 63)
    assert item.label == b"BODY[1.2.MIME]<0>"


def test_case_171_deep_searches_are_refused():
    assert bad(b"SEARCH " + b"OR ALL " * 5000 + b"ALL").startswith(b"a BAD")
    assert bad(b"SEARCH " + b"(" * 5000 + b"ALL" + b")" * 5000).startswith(b"a BAD")
    assert bad(b"SEARCH " + b"NOT " * 5000 + b"ALL").startswith(b"a BAD")
    assert isinstance(command(b"SEARCH " + b"NOT " * 31 + b"ALL"), c.Search)


@pytest.mark.parametrize("name", [b"a\xff", b"&AG", b'"a\xc3"', b"{3+}\r\n\r\n\0"])
def test_case_173_names_that_are_none(name):
    assert b" NO [CANNOT] " in bad(b"SELECT " + name) or b" BAD " in bad(b"SELECT " + name)


def test_unknown_charset():
    assert bad(b"SEARCH CHARSET x-klingon TEXT a").startswith(b"a NO [BADCHARSET (US-ASCII UTF-8)]")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_order(name):
    """Every command is refused in the states that the table does not give it. Source: RFC 3501 §3."""
    for state in (When.FRESH, When.KNOWN, When.SELECTED):
        if not COMMANDS[name].when & state:
            assert bad(name + b" x", state) == b"a BAD Not now.\r\n"


# --- literals and limits


def test_literals_wait_for_us():
    core = server(When.FRESH)
    assert events(core, b"a LOGIN {3}\r\n") == [Send(b"+ Go on.\r\n")]
    assert events(core, b"a\r\n {1}\r\n") == [Send(b"+ Go on.\r\n")]
    assert events(core, b"b\r\n") == [c.Request(b"a", c.Login(b"a\r\n", b"b"))]


def test_case_163_literals_before_login():
    assert one(b"a LOGIN {2000000000}\r\n", When.FRESH).octets.startswith(b"a NO [TOOBIG]")
    event = one(b"a LOGIN {2000000000+}\r\n", When.FRESH)
    assert event.close and b"* BYE" in event.octets
    core = server(When.FRESH)
    events(core, b"a LOGIN {2000000000+}\r\n" + b"x" * 100_000)
    assert core.buffered <= 8192 + 100_000 and events(core, b"y") == []


def test_case_164_literals_of_a_command_are_counted():
    core = server()
    got = events(core, b"a SEARCH " + b"OR TEXT {0+}\r\n " * 1001 + b"ALL\r\nb NOOP\r\n")
    assert [e.octets for e in got[:1]] == [b"a BAD Too many literals.\r\n"]
    assert got[1:] == [c.Request(b"b", c.Noop())]


def test_literals_of_a_command_together():
    core = server()
    got = events(core, b"a SEARCH TEXT {1048577+}\r\n" + b"x" * 1048577 + b" ALL\r\nb NOOP\r\n")
    assert got[0].octets.startswith(b"a NO [TOOBIG]") and got[1] == c.Request(b"b", c.Noop())


def test_case_165_depth():
    assert bad(b"SEARCH " + b"(" * 33 + b"ALL" + b")" * 33) == b"a BAD Nested too deeply.\r\n"
    core = server(When.FRESH)
    assert b"BAD" in events(core, b"a NOOP " + b"(" * 9000)[0].octets
    assert core.buffered <= 64


def test_long_lines():
    core = server(When.FRESH)
    got = events(core, b"a NOOP " + b"x" * 9000 + b"\r\nb NOOP\r\nc " + b"y" * 9000)
    assert got[0].octets == b"a BAD Line too long.\r\n"
    assert got[1] == c.Request(b"b", c.Noop())
    assert got[2].close and b"* BYE" in got[2].octets
    assert isinstance(one(b"a SEARCH " + b"ALL " * 15000 + b"ALL\r\n"), c.Request)


def test_an_endless_line_is_cut_off():
    core = server()
    got = events(core, b"a " + b"x" * 70_000)
    for _ in range(20):
        got += events(core, b"x" * 70_000)
        assert core.buffered < 80_000
    assert got[-1].close


def test_bad_commands_are_counted():
    got = events(server(When.FRESH), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n")
    assert [e.close for e in got] == [False, False, True]
    assert got[-1].octets.endswith(b"* BYE Too many bad commands.\r\n")
    got = events(server(), b"a xyzzy\r\n" * 30)
    assert len(got) == 20 and got[-1].close


# --- APPEND, IDLE, SASL, STARTTLS


def test_append_streams():
    core = server()
    got = events(core, b'a APPEND {5+}\r\ninbox (\\Seen x) "17-Jul-1996 02:44:25 -0700" {10}\r\n')
    assert got == [c.Request(b"a", c.Append("INBOX", ("\\Seen", "x"), 837596665, 10, True))]
    assert events(core, b"") == []
    assert core.append_go() == b"+ Go on.\r\n"
    assert events(core, b"0123") == [AppendOctets(b"0123")]
    assert events(core, b"456789\r\nb NOOP\r\n") == [
        AppendOctets(b"456789"), AppendEnd(), c.Request(b"b", c.Noop())
    ]  # fmt: skip


def test_case_166_append_too_big():
    core = server()
    (request,) = events(core, b"a APPEND INBOX {52428801}\r\n")
    assert request.command.size == 52428801
    assert core.append_refuse() is False
    assert events(core, b"b NOOP\r\n") == [c.Request(b"b", c.Noop())]
    events(core, b"c APPEND INBOX {52428801+}\r\nxxx")
    assert core.append_refuse() is True
    core = server()
    events(core, b"c APPEND INBOX {1000+}\r\n")
    assert core.append_refuse() is False
    assert events(core, b"x" * 1000 + b"\r\nd NOOP\r\n") == [c.Request(b"d", c.Noop())]


def test_append_with_mistakes():
    core = server()
    got = events(core, b"a APPEND INBOX (\\Nonsense) {1000+}\r\n" + b"x" * 1000 + b"\r\nb NOOP\r\n")
    assert got[0].octets.startswith(b"a BAD") and got[1] == c.Request(b"b", c.Noop())
    core = server()
    got = events(core, b"a APPEND &AG (x) {10}\r\n")
    assert got[0].octets.startswith(b"a NO [CANNOT]")
    core = server()
    events(core, b"a APPEND INBOX {3+}\r\n")
    core.append_go()
    got = events(core, b"abc (\\Seen) {2+}\r\nde\r\nb NOOP\r\n")
    assert got == [AppendOctets(b"abc"), Mistake(b""), c.Request(b"b", c.Noop())]


def test_idle_and_sasl_take_lines():
    core = server()
    assert events(core, b"a IDLE\r\n") == [c.Request(b"a", c.Idle())]
    core.idling()
    assert events(core, b"done\r\n") == [IdleDone(True)]
    core.idling()
    assert events(core, b"b NOOP\r\n") == [IdleDone(False)]
    core.challenge()
    assert events(core, b"AGE=\r\n") == [SaslAnswer(b"\0a")]
    core.challenge()
    assert events(core, b"*\r\n") == [SaslAnswer(None, cancelled=True)]
    core.challenge()
    assert events(core, b"!!\r\n") == [SaslAnswer(None)]


def test_case_056_huge_answers():
    core = server(When.FRESH)
    core.challenge()
    assert events(core, b"A" * 20_000)[0].octets.startswith(b"* BAD")
    assert core.buffered <= 64


def test_case_052_nothing_goes_with_starttls():
    core = server(When.FRESH)
    core.receive(b"a STARTTLS\r\nb LOGIN x y\r\n")
    assert core.next_event() == c.Request(b"a", c.StartTls())
    assert core.securing() is False
    assert core.next_event() is None


# --- properties

PIECES = st.sampled_from(
    [b"a NOOP\r\n", b"b LOGIN {3}\r\n", b"abc", b" {2+}\r\n", b"xy", b"\r\n", b"\n", b"c SEARCH (", b"OR ", b"ALL ",
     b"{5+}\r\n", b")", b'"', b"\\", b"d APPEND INBOX ", b"(\\Seen) ", b"{4}\r\n", b"{70000000+}\r\n", b"e IDLE\r\n",
     b"DONE\r\n", b"f FETCH 1:* (BODY[1.MIME]<0.5> FLAGS)\r\n", b"g UID STORE 1,2:* +FLAGS (x)\r\n", b"\0", b"\xff",
     b"h AUTHENTICATE PLAIN\r\n", b"*\r\n", b"AGEAYg==\r\n", b" ", b"x" * 300, b"{0}\r\n", b"~{1}\r\n"]
) | st.binary(max_size=6)  # fmt: skip


def story(pieces, state):
    """Events of a session whose shell always agrees; octets of messages joined."""
    core = ImapServer(dataclasses.replace(LIMITS, imap_line_preauth_octets=200, imap_line_octets=400, imap_literals=5))
    core.state = state
    told = []
    for piece in pieces:
        core.receive(piece)
        while (event := core.next_event()) is not None:
            if isinstance(event, AppendOctets) and told and isinstance(told[-1], AppendOctets):
                told[-1] = AppendOctets(told[-1].octets + event.octets)
            else:
                told.append(event)
            match event:
                case c.Request(_, c.Append()):
                    told.append(core.append_go())
                case c.Request(_, c.Idle()):
                    core.idling()
                case c.Request(_, c.Authenticate()):
                    core.challenge()
    return told


@given(
    st.lists(PIECES, max_size=30).map(b"".join),
    st.lists(st.integers(0, 2000), max_size=20),
    st.sampled_from([When.FRESH, When.KNOWN, When.SELECTED]),
)
def test_the_story_is_the_same_however_the_octets_are_cut(octets, cuts, state):
    ends = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    pieces = [octets[a:b] for a, b in itertools.pairwise(ends)]
    whole = story([octets], state)
    assert story(pieces, state) == whole
    assert story([octets[i : i + 1] for i in range(len(octets))], state) == whole
