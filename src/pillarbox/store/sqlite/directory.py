"""Domains, accounts, credentials, aliases, and small values that expire: `directory.db`.

Look-ups are cached; every QUIET_S the version is asked for, and another one empties the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import apsw
import msgspec

from pillarbox.model.address import Address
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Exists, NotFound
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import Secret
from pillarbox.store.api import Alias
from pillarbox.store.sqlite.base import Database
from pillarbox.store.sqlite.files import Db

QUIET_S: Final = 0.25
CACHED: Final = 20_000
_ACCOUNT: Final = "id, local, domain, state, quota, created_s, secret"
_LIVE: Final = "state <> 'removed'"
T = TypeVar("T")


def _pack_secret(secret: Secret | None) -> bytes | None:
    if secret is None:
        return None
    return msgspec.msgpack.encode((secret.salt, secret.iterations, secret.stored_key, secret.server_key))


def _account_of(row: Sequence[Any]) -> Account:
    number, local, domain, state, quota, created_s, packed = row
    secret = Secret(*msgspec.msgpack.decode(packed)) if packed is not None else None
    return Account(AccountId(number), Address(local, domain), state, quota, created_s, secret)


def _alias_of(row: Sequence[Any]) -> Alias:
    local, domain, packed = row
    return Alias(Address(local, domain), tuple(Address(*target) for target in msgspec.msgpack.decode(packed)))


class Directory:
    """Implements `api.Directory`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._cache: dict[tuple[str, str], Any] = {}
        self._version = 0
        self._asked_s = float("-inf")

    def _cached(self, kind: str, key: str, look_up: Callable[[Db], T]) -> T:
        now_s = self._clock.monotonic()
        if now_s - self._asked_s >= QUIET_S:
            self._refresh()
            self._asked_s = now_s
        try:
            found: T = self._cache[kind, key]
        except KeyError:
            found = self._database.read_now(look_up)
            if len(self._cache) >= CACHED:
                self._cache.clear()
            self._cache[kind, key] = found
        return found

    def _refresh(self) -> None:
        version = self._database.read_now(_read_version)
        if version != self._version:
            self._version = version
            self._cache.clear()

    async def _change(self, verb: Callable[[Db], Any]) -> None:
        def change(db: Db) -> None:
            verb(db)
            db.execute("UPDATE meta SET version=version+1")

        await self._database.write(change, guarded=True)
        self._asked_s = float("-inf")

    async def version(self) -> int:
        """See api.Directory."""
        self._refresh()
        return self._version

    async def domains(self) -> list[str]:
        """See api.Directory."""
        return list(self._cached("domains", "", _domains))

    async def is_local_domain(self, domain: str) -> bool:
        """See api.Directory."""
        return domain.lower() in self._cached("domain set", "", lambda db: frozenset(_domains(db)))

    async def add_domain(self, domain: str) -> None:
        """See api.Directory."""

        def verb(db: Db) -> None:
            if _has_domain(db, domain.lower()):
                raise Exists(domain)
            db.execute("INSERT INTO domain VALUES(?)", (domain.lower(),))

        await self._change(verb)

    async def remove_domain(self, domain: str) -> None:
        """See api.Directory."""

        def verb(db: Db) -> None:
            name = domain.lower()
            if not _has_domain(db, name):
                raise NotFound(domain)
            used = f"SELECT 1 FROM account WHERE domain=?1 AND {_LIVE} UNION ALL SELECT 1 FROM alias WHERE domain=?1"
            if db.execute(used + " LIMIT 1", (name,)).fetchall():
                raise Exists(f"{domain} has accounts or aliases")
            db.execute("DELETE FROM domain WHERE name=?", (name,))

        await self._change(verb)

    async def add_account(self, account: Account) -> None:
        """See api.Directory."""
        await self.add_accounts([account])

    async def add_accounts(self, accounts: Sequence[Account]) -> None:
        """See api.Directory."""

        def verb(db: Db) -> None:
            for account in accounts:
                _check_free(db, account.address)
                if not _has_domain(db, account.address.domain):
                    raise NotFound(f"domain {account.address.domain}")
                address = account.address
                db.execute("INSERT INTO account VALUES(?,?,?,?,?,?,?,?)", (
                    account.id, address.local, address.domain, address.key, account.state, account.quota_octets,
                    account.created_s, _pack_secret(account.secret),
                ))  # fmt: skip

        await self._change(verb)

    async def account(self, address: Address) -> Account | None:
        """See api.Directory."""

        def look_up(db: Db) -> Account | None:
            rows = db.execute(f"SELECT {_ACCOUNT} FROM account WHERE key=? AND {_LIVE}", (address.key,)).fetchall()
            return _account_of(rows[0]) if rows else None

        return self._cached("address", address.key, look_up)

    async def account_by_id(self, account: AccountId) -> Account | None:
        """See api.Directory."""

        def look_up(db: Db) -> Account | None:
            rows = db.execute(f"SELECT {_ACCOUNT} FROM account WHERE id=?", (account,)).fetchall()
            return _account_of(rows[0]) if rows else None

        return self._cached("account", account, look_up)

    async def accounts(self, domain: str = "", state: str = "") -> list[Account]:
        """See api.Directory."""

        def look_up(db: Db) -> list[Account]:
            sql = f"SELECT {_ACCOUNT} FROM account WHERE (?1='' OR domain=?1) AND (?2='' OR state=?2) ORDER BY key, id"
            return [_account_of(row) for row in db.execute(sql, (domain.lower(), state))]

        found: list[Account] = await self._database.read(look_up)
        return found

    async def _update_account(self, account: AccountId, column: str, value: Any) -> None:
        def verb(db: Db) -> None:
            db.execute(f"UPDATE account SET {column}=? WHERE id=?", (value, account))
            if not db.changes():
                raise NotFound(account)

        await self._change(verb)

    async def set_secret(self, account: AccountId, secret: Secret) -> None:
        """See api.Directory."""
        await self._update_account(account, "secret", _pack_secret(secret))

    async def set_state(self, account: AccountId, state: str, now_s: float) -> None:
        """See api.Directory."""

        def verb(db: Db) -> None:
            rows = db.execute(f"SELECT {_ACCOUNT} FROM account WHERE id=?", (account,)).fetchall()
            if not rows:
                raise NotFound(account)
            known = _account_of(rows[0])
            if known.state == "removed" and state != "removed":
                _check_free(db, known.address)
                if not _has_domain(db, known.address.domain):
                    raise NotFound(f"domain {known.address.domain}")
            db.execute("UPDATE account SET state=? WHERE id=?", (state, account))

        await self._change(verb)

    async def set_quota(self, account: AccountId, quota_octets: int) -> None:
        """See api.Directory."""
        await self._update_account(account, "quota", quota_octets)

    async def add_alias(self, alias: Alias) -> None:
        """See api.Directory."""

        def verb(db: Db) -> None:
            address = alias.address
            if db.execute(f"SELECT 1 FROM account WHERE key=? AND {_LIVE}", (address.key,)).fetchall():
                raise Exists(f"{address} is an account")
            if address.domain and not _has_domain(db, address.domain):
                raise NotFound(f"domain {address.domain}")
            targets = msgspec.msgpack.encode([(target.local, target.domain) for target in alias.targets])
            row = (address.key, address.local, address.domain, targets)
            db.execute("INSERT OR REPLACE INTO alias VALUES(?,?,?,?)", row)

        await self._change(verb)

    async def remove_alias(self, address: Address) -> None:
        """See api.Directory."""

        def verb(db: Db) -> None:
            db.execute("DELETE FROM alias WHERE key=?", (address.key,))
            if not db.changes():
                raise NotFound(str(address))

        await self._change(verb)

    async def alias(self, address: Address) -> Alias | None:
        """See api.Directory."""

        def look_up(db: Db) -> Alias | None:
            rows = db.execute("SELECT local, domain, targets FROM alias WHERE key=?", (address.key,)).fetchall()
            return _alias_of(rows[0]) if rows else None

        return self._cached("alias", address.key, look_up)

    async def aliases(self, domain: str = "") -> list[Alias]:
        """See api.Directory."""

        def look_up(db: Db) -> list[Alias]:
            sql = "SELECT local, domain, targets FROM alias WHERE ?1='' OR domain=?1 ORDER BY key"
            return [_alias_of(row) for row in db.execute(sql, (domain.lower(),))]

        found: list[Alias] = await self._database.read(look_up)
        return found


def _read_version(db: Db) -> int:
    for (version,) in db.execute("SELECT version FROM meta"):
        return int(version)
    raise apsw.CorruptError("no version")


def _domains(db: Db) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM domain ORDER BY name")]


def _has_domain(db: Db, name: str) -> bool:
    return bool(db.execute("SELECT 1 FROM domain WHERE name=?", (name,)).fetchall())


def _check_free(db: Db, address: Address) -> None:
    """Raises Exists if an account or alias has this address."""
    sql = f"SELECT 1 FROM account WHERE key=?1 AND {_LIVE} UNION ALL SELECT 1 FROM alias WHERE key=?1"
    if db.execute(sql, (address.key,)).fetchall():
        raise Exists(str(address))


class Keys:
    """Implements `api.Keys`. Expiry is by the wall clock."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, key: str) -> bytes | None:
        """See api.Keys."""
        sql, bound = "SELECT value FROM key WHERE key=? AND expires_s>?", (key, self._clock.now())
        rows = self._database.read_now(lambda db: db.execute(sql, bound).fetchall())
        return bytes(rows[0][0]) if rows else None

    async def put(self, key: str, value: bytes, expires_s: float) -> None:
        """See api.Keys."""
        row = (key, value, expires_s)
        await self._database.write(lambda db: _run(db, "INSERT OR REPLACE INTO key VALUES(?,?,?)", row))

    async def delete(self, key: str) -> None:
        """See api.Keys."""
        await self._database.write(lambda db: _run(db, "DELETE FROM key WHERE key=?", (key,)))

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """See api.Keys."""
        sql = "SELECT key, value FROM key WHERE key>=?1 AND substr(key, 1, length(?1))=?1 AND expires_s>?2 ORDER BY key"
        if prefix:
            sql = sql.replace(" ORDER", " AND key<?3 ORDER")
        bound = (prefix, self._clock.now(), prefix + "\U0010ffff")[: 3 if prefix else 2]
        found: list[tuple[str, bytes]] = await self._database.read(lambda db: db.execute(sql, bound).fetchall())
        return found

    async def expire(self) -> None:
        """Remove some values that have expired."""
        bound = (self._clock.now(),)
        sql = "DELETE FROM key WHERE key IN (SELECT key FROM key WHERE expires_s<=? LIMIT 1000)"
        due = "SELECT 1 FROM key WHERE expires_s<=? LIMIT 1"
        if self._database.read_now(lambda db: db.execute(due, bound).fetchall()):
            await self._database.write(lambda db: _run(db, sql, bound))


def _run(db: Db, sql: str, bound: tuple[Any, ...]) -> None:
    db.execute(sql, bound)
