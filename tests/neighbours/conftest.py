"""Fixtures for the tests with Debian's programs: a running server, its users, and a DNS world.

The tests run when asked for: `pytest tests/neighbours`, `pytest -m neighbours`, or with PILLARBOX_NEIGHBOURS=1 (then a
missing program is a failure, as under CI). PILLARBOX_NEIGHBOURS_SERVER=peers runs the client tests against Debian's
Postfix and Dovecot instead: so the tests themselves are tested.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .certificates import make_certificates
from .dns_world import DnsWorld
from .mailhost import MailHost, User
from .messages import Sample
from .peers import PeerHost
from .pillarbox_server import Pillarbox
from .processes import free_ports, open_folder, until
from .wire import ImapWire, WireError, deliver

HERE = Path(__file__).parent
DOMAIN = "pillarbox.test"
AGAINST_PEERS = os.environ.get("PILLARBOX_NEIGHBOURS_SERVER") == "peers"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and leave them out of a run that did not ask for them."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker("neighbours")
    asked = (
        os.environ.get("PILLARBOX_NEIGHBOURS")
        or "neighbours" in (config.option.markexpr or "")
        or any("neighbours" in argument for argument in config.args)
        or config.invocation_params.dir.resolve() == HERE
    )
    if not asked:
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the end of pillarbox's log beside a failure."""
    report = yield
    server = getattr(item, "funcargs", {}).get("pillarbox") or _started.get("pillarbox")
    if report.failed and server is not None:
        report.sections.append(("the end of pillarbox's log", server.tail()))
    return report


_started: dict[str, Pillarbox] = {}


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for one run of the tests, which the peers' own users may enter."""
    with open_folder("/tmp/pillarbox-neighbours") as path:
        yield path


@pytest.fixture(scope="session")
def world() -> Iterator[DnsWorld]:
    """A name server on loopback; tests add their own names."""
    dns = DnsWorld()
    yield dns
    dns.close()


@pytest.fixture(scope="session")
def elsewhere_port() -> int:
    """The port that other mail servers of the test world listen on, each at its own loopback address."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def pillarbox(folder: Path, world: DnsWorld, elsewhere_port: int) -> Iterator[Pillarbox]:
    """A pillarbox that serves, with quick retries, and a test world to send to."""
    users = tuple(User(f"{name}@{DOMAIN}", f"secret-{name}") for name in ["ada", "bob", *_pool_names()])
    server = Pillarbox(
        folder / "pillarbox",
        users,
        domain=DOMAIN,
        name_server=f"127.0.0.1:{world.port}",
        outbound_port=elsewhere_port,
        queue="first_retry_s = 2.0\nmax_retry_s = 4.0\n",
        limits="mailbox_messages_per_minute = 100000\nsubmission_messages_per_hour = 100000\n",
    )
    server.set_up()
    server.start()
    _started["pillarbox"] = server
    yield server
    del _started["pillarbox"]
    server.stop()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[MailHost]:
    """The mail host that client programs are tried on."""
    if not AGAINST_PEERS:
        yield request.getfixturevalue("pillarbox").mailhost
        return
    users = tuple(User(f"{name}@{DOMAIN}", f"secret-{name}") for name in ["ada", "bob", *_pool_names()])
    (folder / "peers").mkdir()
    peers = PeerHost(folder / "peers", users, certificates=make_certificates(folder / "peers"))
    peers.dovecot.settings["pop3_lock_session"] = "yes"
    peers.start()
    yield peers.mailhost
    peers.stop()


def _pool_names() -> list[str]:
    return [f"user{number:02}" for number in range(150)]


@pytest.fixture(scope="session")
def _pool(server: MailHost) -> list[User]:
    return list(server.users[2:])


@pytest.fixture
def user(_pool: list[User]) -> User:
    """A user whom no other test knows."""
    return _pool.pop()


@pytest.fixture
def other(_pool: list[User]) -> User:
    """Another such user."""
    return _pool.pop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of a client program."""
    return tmp_path


class Mailbox:
    """A user's mailbox as a test looks at it: by IMAP, by subject."""

    def __init__(self, mailhost: MailHost, user: User) -> None:
        self.mailhost = mailhost
        self.user = user

    def messages(self, mailbox: str = "INBOX") -> dict[int, bytes]:
        """The messages by UID."""
        with ImapWire(self.mailhost.imap, self.user) as imap:
            return imap.messages(mailbox)

    def flags(self, mailbox: str = "INBOX") -> dict[int, set[bytes]]:
        """The flags by UID."""
        with ImapWire(self.mailhost.imap, self.user) as imap:
            imap.select(mailbox)
            return imap.flags()

    def fill(self, messages: Sequence[Sample]) -> None:
        """Deliver messages from outside, in this order, into an empty mailbox."""
        for count, message in enumerate(messages, 1):
            deliver(self.mailhost, self.user.address, message.octets)
            self.wait(count)

    def wait(self, count: int, mailbox: str = "INBOX", timeout_s: float = 20.0) -> dict[int, bytes]:
        """Wait until there are `count` messages, and return them by UID."""

        def there() -> bool:
            try:
                return len(self.messages(mailbox)) >= count
            except WireError:
                return False

        until(f"{count} messages in {self.user.address} {mailbox}", there, timeout_s, 0.1)
        found = self.messages(mailbox)
        assert len(found) == count
        return found

    def wait_for(self, subject: str, mailbox: str = "INBOX", timeout_s: float = 20.0) -> bytes:
        """Wait for exactly one message with this subject, and return it."""
        wanted = b"\r\nSubject: " + subject.encode() + b"\r\n"

        def found() -> list[bytes]:
            return [octets for octets in self.messages(mailbox).values() if wanted in b"\r\n" + octets]

        until(f"{subject!r} for {self.user.address}", lambda: bool(found()), timeout_s, 0.1)
        [message] = found()
        return message


@pytest.fixture
def mailbox(server: MailHost, user: User) -> Mailbox:
    """The mailbox of `user`."""
    return Mailbox(server, user)
