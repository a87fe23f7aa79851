"""The three schemas, their versions, and the steps from one version to the next. Tables are told in docs/store.md.

`user_version` says which schema a file has. Each step is a transaction with the version in it, so that an interrupted
migration goes on where it stopped; a file of a newer program is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pillarbox.model.errors import Trouble
from pillarbox.store.sqlite.files import Db

Step = str | Callable[[Db], None]


@dataclass(frozen=True, slots=True)
class Schema:
    """`steps[i]` leads from version i to i + 1; the first makes everything."""

    name: str
    steps: tuple[Step, ...]

    @property
    def version(self) -> int:
        return len(self.steps)


def create(db: Db, schema: Schema) -> None:
    """Make all tables of a new file, within the caller's transaction."""
    for step in schema.steps:
        _take(db, step)
    db.pragma("user_version", schema.version)


def migrate(db: Db, schema: Schema) -> None:
    """Bring a file to the schema's version. Raises Trouble if it is newer. The caller holds the file's turn, or the
    file is of the right version already."""
    version = int(db.pragma("user_version"))
    if version == schema.version:
        return
    if version > schema.version:
        raise Trouble(
            f"{db.filename}: its schema ({schema.name}) has version {version}, this program knows {schema.version}: "
            "it was written by a newer pillarbox; use that one"
        )
    if version == 0:
        raise Trouble(f"{db.filename}: this is no {schema.name} file")
    while version < schema.version:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = int(db.pragma("user_version"))  # another process may have been here
            if version < schema.version:
                _take(db, schema.steps[version])
                version += 1
                db.pragma("user_version", version)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _take(db: Db, step: Step) -> None:
    if isinstance(step, str):
        db.execute(step)
    else:
        step(db)


ACCOUNT: Final = Schema(
    "account",
    (
        """
CREATE TABLE meta(id INTEGER PRIMARY KEY, identity, modseq, next_email, next_mailbox, uidvalidity, removed);
CREATE TABLE mailbox(id INTEGER PRIMARY KEY, name UNIQUE, uidvalidity, uidnext, modseq, messages, unseen, deleted, size,
 recent_uid, special_use, keywords);
CREATE TABLE chunk(at INTEGER PRIMARY KEY, count, max_modseq, uids, flags, modseqs, emails, sizes, received, saved);
CREATE TABLE email(id INTEGER PRIMARY KEY, version, bodystructure, parts, prefix, email_id, size, sha256, blob);
CREATE TABLE head(id INTEGER PRIMARY KEY, envelope, headers, field_codes, subject, base_subject, sent_s, message_id,
 refs);
CREATE TABLE content(id INTEGER PRIMARY KEY, body, preview, data);
CREATE TABLE shared(email INTEGER PRIMARY KEY, extra);
CREATE TABLE expunged(mailbox, modseq, low, high, PRIMARY KEY(mailbox, modseq, low)) WITHOUT ROWID;
CREATE TABLE dead(n INTEGER PRIMARY KEY, emails);
CREATE TABLE unlinked(sha256 PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE delivered(job PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE subscription(name PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE retired(name PRIMARY KEY, uidvalidity) WITHOUT ROWID;
CREATE INDEX email_blob ON email(sha256) WHERE blob;
""",
    ),
)
"""`chunk.at` is mailbox * 2^32 + a lower bound of its UIDs; `chunk.count` and what follows in placements.py.
`email.blob` is 1 where the content is in `blobs/`. `email.version` is that of the parser, for the
other tables as well. Reading one column of many emails walks over all columns of its table: what clients ask for all of
a mailbox is in the narrow `email` and in `head`, the rest is beside the content."""

SPOOL: Final = Schema(
    "spool",
    (
        """
CREATE TABLE message(n INTEGER PRIMARY KEY, id UNIQUE NOT NULL, sha256, size, meta, prefix, data);
CREATE TABLE job(spool_id, id, target, state, holder, token, next_s, attempts, delay_reported, last, meta,
 PRIMARY KEY(spool_id, id)) WITHOUT ROWID;
CREATE INDEX job_due ON job(target, next_s) WHERE holder = 0 AND state = 0;
CREATE INDEX job_next ON job(next_s) WHERE holder = 0 AND state = 0;
CREATE INDEX message_blob ON message(sha256) WHERE data IS NULL;
CREATE TABLE holder(id INTEGER PRIMARY KEY, until_s, role);
CREATE TABLE trace_log(n INTEGER PRIMARY KEY AUTOINCREMENT, events);
CREATE TABLE trace(n INTEGER PRIMARY KEY, at_s, event);
CREATE TABLE trace_key(key, n, PRIMARY KEY(key, n)) WITHOUT ROWID;
""",
    ),
)
"""`job.state` 0: queued, 1: held. `job.holder` 0: nobody. `trace_log` is what commits write; it is moved to `trace`
with its keys (hashes of the texts it can be found by) later."""

DIRECTORY: Final = Schema(
    "directory",
    (
        """
CREATE TABLE meta(id INTEGER PRIMARY KEY, version);
INSERT INTO meta VALUES(1, 1);
CREATE TABLE domain(name PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE account(id PRIMARY KEY, local, domain, key, state, quota, created_s, secret) WITHOUT ROWID;
CREATE UNIQUE INDEX account_key ON account(key) WHERE state <> 'removed';
CREATE INDEX account_domain ON account(domain);
CREATE TABLE alias(key PRIMARY KEY, local, domain, targets) WITHOUT ROWID;
CREATE TABLE key(key PRIMARY KEY, value, expires_s) WITHOUT ROWID;
CREATE INDEX key_expires ON key(expires_s);
""",
    ),
)
