"""What operators do to domains, users and aliases; the commands and later the web are thin over this.

Addresses come as people write them; what is wrong with them is told in words (`BadInput`). Errors of the directory pass
through: `Exists`, `NotFound`. Every change wakes the other processes, which follow within a second.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, repeat
from typing import Final

from pillarbox.mail.route import Router
from pillarbox.model.address import Address, canonical_domain, parse_address
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Exists, NoSuchAccount, NotFound, PillarboxError
from pillarbox.model.ids import AccountId, base32_id, make_id
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import SALT_OCTETS, Secret, make_secret, prepare_password
from pillarbox.model.settings import Settings
from pillarbox.store.api import Alias, Selection, Signals, Store

_FOLDERS_AT_ONCE: Final = 8
_NOT_OURS: Final = "{0} is not a domain of this server: `pillarbox domain add {0}` makes it one"


class BadInput(PillarboxError):
    """What was asked for makes no sense; the text says why, for the person who asked."""


class Admin:
    """Use cases of administration."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random: Callable[[int], bytes],
        settings: Settings,
        signals: Signals | None = None,
    ) -> None:
        self._store = store
        self._directory = store.directory
        self._clock = clock
        self._random = random
        self._settings = settings
        self._signals = signals

    # --- domains ---------------------------------------------------------------------------------------------------

    async def add_domain(self, domain: str) -> str:
        """Make a domain ours; its canonical form. Raises BadInput, Exists."""
        name = _domain(domain)
        await self._directory.add_domain(name)
        self._changed()
        return name

    async def remove_domain(self, domain: str) -> None:
        """Raises BadInput, NotFound, Exists (it has users or aliases)."""
        await self._directory.remove_domain(_domain(domain))
        self._changed()

    async def domains(self) -> list[str]:
        return await self._directory.domains()

    # --- users -----------------------------------------------------------------------------------------------------

    async def add_user(self, address: str, password: str, quota_octets: int | None = None) -> Account:
        """A new user with the standard mailboxes. Raises BadInput, Exists, NotFound (the domain)."""
        return (await self.add_users([(address, password)], quota_octets))[0]

    async def add_users(
        self, users: Iterable[tuple[str, str]], quota_octets: int | None = None, lines: Iterable[int] = ()
    ) -> list[Account]:
        """Many new users as (address, password), all or none. Passwords are hashed on all cores. Raises as add_user;
        the error begins with the line, if `lines` has one for each user."""
        quota = self._settings.default_quota_octets if quota_octets is None else quota_octets
        wanted: list[tuple[Address, str]] = []
        keys: set[str] = set()
        for line, (address_text, password) in zip(chain(lines, repeat(0)), users, strict=False):
            try:
                address = _address(address_text)
                await self._check_new(address, keys)
                _check_password(password)
            except (BadInput, Exists, NotFound) as error:
                raise type(error)(f"line {line}: {error}" if line else str(error)) from error
            wanted.append((address, password))
            keys.add(address.key)
        secrets = await self._secrets([password for _, password in wanted])
        now_s = self._clock.now()
        accounts = [
            Account(AccountId(base32_id(make_id(now_s, self._random))), address, "active", quota, now_s, secret)
            for (address, _), secret in zip(wanted, secrets, strict=True)
        ]
        # The folders first: a user that can be found has one. What a crash leaves behind is an empty folder.
        turns = asyncio.Semaphore(_FOLDERS_AT_ONCE)

        async def make_folder(account: AccountId) -> None:
            async with turns:
                await self._store.mailboxes.create_account(account)

        await asyncio.gather(*(make_folder(account.id) for account in accounts))
        await self._directory.add_accounts(accounts)
        self._changed()
        return accounts

    async def users(self, domain: str = "", state: str = "") -> list[Account]:
        return await self._directory.accounts(_domain(domain) if domain else "", state)

    async def user(self, address: str) -> Account:
        """Raises BadInput, NotFound."""
        parsed = _address(address)
        account = await self._directory.account(parsed)
        if account is None:
            raise NotFound(f"there is no user {parsed}")
        return account

    async def set_password(self, address: str, password: str) -> None:
        """Raises BadInput, NotFound."""
        account = await self.user(address)
        [secret] = await self._secrets([password])
        await self._directory.set_secret(account.id, secret)
        self._changed()

    async def set_quota(self, address: str, quota_octets: int) -> None:
        """0: no limit. Raises BadInput, NotFound."""
        if quota_octets < 0:
            raise BadInput("a quota is not negative")
        await self._directory.set_quota((await self.user(address)).id, quota_octets)
        self._changed()

    async def disable_user(self, address: str) -> None:
        """No login any more, sessions end; mail is still taken. Raises BadInput, NotFound."""
        await self._set_state(await self.user(address), "disabled")

    async def enable_user(self, address: str) -> None:
        """Raises BadInput, NotFound."""
        await self._set_state(await self.user(address), "active")

    async def remove_user(self, address: str) -> None:
        """Sessions end, new mail is refused (5.1.1), what is queued for it is returned; the folder stays in the trash
        for 30 days. Raises BadInput, NotFound."""
        account = await self.user(address)
        await self._set_state(account, "removed")
        await self._store.mailboxes.trash_account(account.id)
        # Its jobs are due now: the mover finds no account, and tells the senders.
        now_s = self._clock.now()
        await self._store.spool.retry(Selection(account=account.id), now_s)
        self._publish("spool")

    async def restore_user(self, text: str) -> Account:
        """Undo a removal. `text` is the address, or the id of the account's folder where several users of one address
        were removed. Raises BadInput (several could be meant), NotFound, Exists (the address is taken)."""
        account = await self._removed_user(text)
        await self._check_restorable(account)
        try:
            await self._store.mailboxes.restore_account(account.id)
        except NoSuchAccount as error:
            raise NotFound(f"the mail of {account.address} is not in the trash any more") from error
        try:
            await self._set_state(account, "active")
        except (Exists, NotFound):
            await self._store.mailboxes.trash_account(account.id)
            raise
        return account

    async def trashed_users(self, addresses: Iterable[Address]) -> list[tuple[Account, float]]:
        """Removed users of these addresses whose mail is still in the trash, and when it came there."""
        keys = {address.key for address in addresses}
        removed = [a for a in await self._directory.accounts(state="removed") if a.address.key in keys]
        since = await self._store.mailboxes.trashed_accounts() if removed else {}
        found = [(account, since[account.id]) for account in removed if account.id in since]
        return sorted(found, key=lambda item: (item[1], item[0].created_s, item[0].id))

    async def _removed_user(self, text: str) -> Account:
        """The one that is meant. Raises BadInput, NotFound, Exists."""
        if "@" not in text:
            account = await self._directory.account_by_id(AccountId(text.strip()))
            if account is None:
                raise NotFound(f"there is no user with the folder {text}; `user list` shows them")
            if account.state != "removed":
                raise BadInput(f"{account.address} with the folder {account.id} is not removed")
            return account
        address = _address(text)
        found = await self.trashed_users([address])
        if not found:
            if await self._directory.account(address) is not None:
                raise Exists(f"there is a user {address}, and no removed one is in the trash")
            raise NotFound(f"no removed user {address} is in the trash")
        if len(found) > 1:
            lines = [
                f"  {account.id}  user since {_moment(account.created_s)}, removed {_moment(removed_s)}"
                for account, removed_s in found
            ]
            raise BadInput("\n".join([f"{len(found)} users {address} were removed; name the folder of one:", *lines]))
        return found[0][0]

    async def _check_restorable(self, account: Account) -> None:
        """Is the address free? Raises Exists with what to do."""
        address = account.address
        then = f"then `pillarbox user restore {account.id}` brings the removed one back"
        if await self._directory.account(address) is not None:
            raise Exists(f"there is a user {address} now: `pillarbox user remove {address}`, {then}")
        if await self._directory.alias(address) is not None:
            raise Exists(f"{address} is an alias now: `pillarbox alias remove {address}`, {then}")

    # --- aliases ---------------------------------------------------------------------------------------------------

    async def add_alias(self, address: str, targets: Sequence[str]) -> Alias:
        """`address` is local@domain, @domain for a catch-all, or bare postmaster or abuse; targets are local or remote
        addresses. Replaces an alias of that address. Raises BadInput, Exists (a user), NotFound (the domain)."""
        if not targets:
            raise BadInput("an alias needs a target")
        alias = Alias(_alias_address(address), tuple(dict.fromkeys(_address(target) for target in targets)))
        domain = alias.address.domain
        if domain and not await self._directory.is_local_domain(domain):
            raise NotFound(_NOT_OURS.format(domain))
        if domain and alias.address.local and await self._directory.account(alias.address) is not None:
            raise Exists(f"{alias.address} is a user; an alias cannot have the same address")
        await self._directory.add_alias(alias)
        self._changed()
        return alias

    async def remove_alias(self, address: str) -> None:
        """Raises BadInput, NotFound."""
        await self._directory.remove_alias(_alias_address(address))
        self._changed()

    async def aliases(self, domain: str = "") -> list[Alias]:
        return await self._directory.aliases(_domain(domain) if domain else "")

    async def dead_targets(self, alias: Alias) -> list[Address]:
        """Its targets in domains of ours that lead to nobody: mail for them is refused."""
        router = Router(self._directory, self._settings)
        return [target for target in alias.targets if not (await router.resolve(target)).places]

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _check_new(self, address: Address, others: Collection[str]) -> None:
        """Tell what is wrong before any work is done; the directory has the last word. `others` are added with it."""
        separator = self._settings.detail_separator
        if separator and separator in address.local[1:]:
            raise BadInput(f"{address}: what follows {separator!r} is a detail, no part of a user's name")
        if address.key in others:
            raise Exists(f"{address} stands here twice")
        if await self._directory.account(address) is not None:
            raise Exists(f"there is a user {address}: `pillarbox user passwd {address}` changes the password")
        if await self._directory.alias(address) is not None:
            raise Exists(f"{address} is an alias: `pillarbox alias remove {address}` makes the address free")
        if not await self._directory.is_local_domain(address.domain):
            raise NotFound(_NOT_OURS.format(address.domain))

    async def _secrets(self, passwords: Sequence[str]) -> list[Secret]:
        """Verifiers, made in parallel: the hash releases the interpreter's lock. Raises BadInput."""
        for password in passwords:
            _check_password(password)
        iterations = self._settings.scram_iterations
        turns = asyncio.Semaphore(os.cpu_count() or 1)

        async def hashed(password: str) -> Secret:
            async with turns:
                return await asyncio.to_thread(make_secret, password, self._random(SALT_OCTETS), iterations)

        return list(await asyncio.gather(*(hashed(password) for password in passwords)))

    async def _set_state(self, account: Account, state: str) -> None:
        # "directory" alone: a session that were woken as well would be at work when it has to say BYE.
        await self._directory.set_state(account.id, state, self._clock.now())
        self._changed()

    def _changed(self) -> None:
        self._publish("directory")

    def _publish(self, topic: str) -> None:
        if self._signals is not None:
            self._signals.publish(topic)


def _moment(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def _domain(text: str) -> str:
    name = canonical_domain(text.strip())
    if name is None or name.rpartition(".")[2].isdigit():  # no domain ends in a number, but IP addresses do
        raise BadInput(f"{text!r} is not a domain name")
    return name


def _address(text: str) -> Address:
    address = parse_address(text)
    if address is None:
        raise BadInput(f"{text!r} is not an address")
    return address


def _check_password(password: str) -> None:
    """Raises BadInput."""
    try:
        prepare_password(password)
    except ValueError as error:
        raise BadInput(str(error)) from error


def _alias_address(text: str) -> Address:
    text = text.strip()
    if text.startswith("@"):
        return Address("", _domain(text[1:]))
    if text.lower() in ("postmaster", "abuse"):
        return Address(text.lower(), "")
    return _address(text)
