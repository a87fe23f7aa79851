"""Checking credentials for SMTP, POP3 and IMAP: one slow verifier, a bounded pool, a short memory of what was right.

Whether the user exists shows nowhere: unknown names cost the same hash, get the same answer, and keep the same made-up
salt. Failures are counted per session, address, network and account; the same wrong password for an account counts
once (a stale phone must not ban a building). Answers to failures come late, and more so with each.
Source: RFC 4616, RFC 5802, RFC 4954 §4; cases 56, 57, 182 to 186, 189.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

from pillarbox.mail.desk import Session
from pillarbox.mail.metrics import Log, Metrics, count
from pillarbox.mail.networks import NET_FACTORS, Networks, network_keys
from pillarbox.mail.rates import RateTable, share_of
from pillarbox.model.address import Address, parse_address
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Refused
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import MAX_PASSWORD_OCTETS, Secret, fake_secret, saslprep, secret_matches
from pillarbox.model.settings import Settings
from pillarbox.model.status import Status
from pillarbox.store.api import Store

DELAYS_S: Final = (2.0, 4.0, 8.0, 15.0)
"""How late the answer to the first, second, … failure comes."""
ACCOUNT_FAILURES_PER_HOUR: Final = 20
"""Failures for one account, from addresses it never used, after which such logins wait before they are checked."""
_REMEMBERED: Final = 50_000
_WRONG: Final = Status(5, 7, 8)
_TOO_MANY: Final = Status(4, 7, 0)
_BUSY: Final = Status(4, 3, 2)
_FAKE_KEY: Final = "logins/fake-verifiers"
_FAR_S: Final = 100 * 365 * 86400.0


class LoginDesk:
    """Implements `desk.Logins`. One per process; counters are its own (see `rates.share_of`)."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        random: Callable[[int], bytes],
        log: Log,
        metrics: Metrics | None = None,
        workers: int = 1,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        limits = settings.limits
        self._directory = store.directory
        self._keys = store.keys
        self._clock = clock
        self._random = random
        self._log = log
        self._metrics = metrics
        self._sleep = sleep
        self._iterations = settings.scram_iterations
        self._trusted = Networks(settings.trusted_networks)
        self._per_session = limits.auth_failures_per_session
        self._per_minute = share_of(limits.auth_failures_per_minute, workers)
        self._per_day = share_of(limits.auth_failures_per_day, workers)
        self._pool = ThreadPoolExecutor(limits.login_workers, "login")
        self._in_pool = 0
        self._max_in_pool = limits.login_workers + limits.login_queue
        self._key = random(32)
        self._right = _Memory(limits.login_cache_s)
        """Digests of logins that were right."""
        self._wrong = _Memory(86400.0)
        """Digests of logins that were wrong: their hash need not be made again, nor their failure counted."""
        self._known_good = _Memory(30 * 86400.0)
        """(account, host) that logged in."""
        self._minute = RateTable(60.0)
        self._day = RateTable(86400.0)
        self._hour = RateTable(3600.0)
        self._fake_key = b""

    async def password(self, session: Session, username: str, password: str) -> Account:
        """The account whose password this is. Raises Refused: 5.7.8 wrong, 4.7.0 too many failures, 4.3.2 too busy."""
        self._check_host(session)
        if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_OCTETS or "\0" in password:
            await self._fail(session, username, None, "", again=False)
        account = await self._find(username)
        secret = account.secret if account is not None else None
        if secret is None:
            account = None
            secret = await self._fake_secret(username)
        digest = self._digest(account.id if account is not None else "?" + username, secret, password)
        now_s = self._clock.monotonic()
        active = account is not None and account.state == "active"
        if account is not None and active and self._right.holds(digest, now_s):
            return self._welcome(session, account)
        again = self._wrong.holds(digest, now_s)
        if not again:
            await self._hold_back(session, account, username)
            right = await self._check(secret, password)
            if right and account is not None and active:
                self._right.add(digest, self._clock.monotonic())
                return self._welcome(session, account)
            if not right:
                self._wrong.add(digest, now_s)
        await self._fail(session, username, account, "password", again)

    async def verifier(self, session: Session, username: str) -> tuple[Secret, Account | None]:
        """What SCRAM proves against; made up, but the same each time, for an unknown user. Raises Refused as above."""
        self._check_host(session)
        account = await self._find(username)
        await self._hold_back(session, account, username)
        if account is None or account.secret is None or account.state != "active":
            return await self._fake_secret(username), None
        return account.secret, account

    async def scram_done(self, session: Session, username: str, account: Account | None, ok: bool) -> Account:
        """Report how SCRAM ended. Raises Refused 5.7.8 if not well."""
        if ok and account is not None:
            return self._welcome(session, account)
        await self._fail(session, username, account, "scram", again=False)

    def close(self) -> None:
        """End the threads, when what they are at is done."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _find(self, username: str) -> Account | None:
        """The account of a user name: an address, or its local part alone where one domain is local. Nothing in it is a
        pattern, and no two accounts share a name (case 186)."""
        try:
            name = saslprep(username)
        except ValueError:
            return None
        if not name or name != name.strip() or len(name) > 512:
            return None
        if "@" in name:
            address = parse_address(name)
        else:
            domains = await self._directory.domains()
            address = Address(name, domains[0]) if len(domains) == 1 else None
        return await self._directory.account(address) if address is not None else None

    def _check_host(self, session: Session) -> None:
        """Refuse, before any work, a session or host that failed too often."""
        if session.auth_failures >= self._per_session:
            raise Refused(_TOO_MANY, "auth-failures-per-session", "too many failed logins")
        if self._is_trusted(session):
            return
        now_s = self._clock.monotonic()
        for key, factor in zip(network_keys(session.peer), NET_FACTORS, strict=True):
            if (
                self._minute.count(key, now_s) >= self._per_minute * factor
                or self._day.count(key, now_s) >= self._per_day * factor
            ):
                count(self._metrics, "logins_refused", reason="rate")
                raise Refused(_TOO_MANY, "auth-failures-per-ip", "too many failed logins from your network")

    async def _hold_back(self, session: Session, account: Account | None, username: str) -> None:
        """An account under attack is slow for hosts it does not know, so that those it knows find the pool free."""
        now_s = self._clock.monotonic()
        name = account.id if account is not None else username[:256].casefold()
        if self._is_trusted(session) or self._hour.count(name, now_s) < ACCOUNT_FAILURES_PER_HOUR:
            return
        if account is not None and self._known_good.holds((account.id, network_keys(session.peer)[0]), now_s):
            return
        await self._sleep(DELAYS_S[-1])

    async def _check(self, secret: Secret, password: str) -> bool:
        """The slow hash, in a thread. Raises Refused 4.3.2 when too many wait."""
        if self._in_pool >= self._max_in_pool:
            count(self._metrics, "logins_refused", reason="busy")
            raise Refused(_BUSY, "login-queue", "too busy to check passwords")
        self._in_pool += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, secret_matches, secret, password)
        # Counted down when the work ends, not when the client goes: else clients that go away would fill the pool.
        future.add_done_callback(self._left_pool)
        return await asyncio.shield(future)

    def _left_pool(self, future: asyncio.Future[bool]) -> None:
        self._in_pool -= 1
        if not future.cancelled():
            future.exception()

    def _welcome(self, session: Session, account: Account) -> Account:
        self._known_good.add((account.id, network_keys(session.peer)[0]), self._clock.monotonic())
        count(self._metrics, "logins", result="ok", protocol=session.protocol)
        return account

    async def _fail(self, session: Session, username: str, account: Account | None, how: str, again: bool) -> NoReturn:
        """Count a failure, wait, and refuse."""
        session.auth_failures += 1
        now_s = self._clock.monotonic()
        count(self._metrics, "logins", result="failed", protocol=session.protocol)
        if not again:
            keys = network_keys(session.peer)
            name = account.id if account is not None else username[:256].casefold()
            if account is None or not self._known_good.holds((account.id, keys[0]), now_s):
                self._hour.add(name, now_s)
            for key in keys:
                self._minute.add(key, now_s)
                self._day.add(key, now_s)
        self._log.info(
            "login failed", peer=session.peer, protocol=session.protocol, user=username[:256], how=how, again=again
        )
        if not self._is_trusted(session):
            failures = max(session.auth_failures, int(self._minute.count(network_keys(session.peer)[0], now_s)))
            await self._sleep(DELAYS_S[min(max(failures, 1), len(DELAYS_S)) - 1])
        raise Refused(_WRONG, "credentials", "authentication failed")

    def _is_trusted(self, session: Session) -> bool:
        return session.trusted or session.peer in self._trusted

    def _digest(self, name: str, secret: Secret, password: str) -> bytes:
        """Stands for (who, which verifier, password) in memory, under a key that dies with the process: another secret
        is another digest, so a changed password is never answered from memory (case 189)."""
        parts = (
            name.encode("utf-8", "surrogatepass"),
            secret.salt + secret.stored_key,
            password.encode("utf-8", "surrogatepass"),
        )
        return hmac.digest(self._key, b"".join(len(p).to_bytes(4, "big") + p for p in parts), "sha256")

    async def _fake_secret(self, username: str) -> Secret:
        """The verifier of nobody. Its key is in the store: all processes make up the same, always."""
        if not self._fake_key:
            key = await self._keys.get(_FAKE_KEY)
            if key is None:
                await self._keys.put(_FAKE_KEY, self._random(32), self._clock.now() + _FAR_S)
                key = await self._keys.get(_FAKE_KEY)
            self._fake_key = key or self._random(32)
        return fake_secret(username[:1024].casefold(), self._fake_key, self._iterations)


class _Memory:
    """Remembers things for a while; forgets the oldest when full. `lifetime_s` 0 remembers nothing."""

    __slots__ = ("_entries", "_lifetime_s")

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._entries: OrderedDict[object, float] = OrderedDict()

    def holds(self, thing: object, now_s: float) -> bool:
        until_s = self._entries.get(thing)
        return until_s is not None and now_s < until_s

    def add(self, thing: object, now_s: float) -> None:
        if self._lifetime_s <= 0:
            return
        if thing in self._entries:
            self._entries.move_to_end(thing)
        elif len(self._entries) >= _REMEMBERED:
            self._entries.popitem(last=False)
        self._entries[thing] = now_s + self._lifetime_s
