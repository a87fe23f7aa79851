"""All benches with modest sizes, in one table: what `make bench` runs. Sizes as options; see docs/performance.md.

python bench/run.py [--messages 2000] [--accounts 500] [--mailbox 20000] [--pop3 2000]
        [--sessions 1000] [--pairs 3]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import accept, idle, imap, pop3
from bench.figures import arguments, finish, print_rows


def main() -> None:
    """Run one after the other; each prints its rows when it is done, and all come again at the end."""
    options = arguments(
        __doc__,
        messages=2000,
        accounts=500,
        recipients=1000,
        mailbox=20_000,
        sessions=1000,
        pairs=3,
        pop3_messages=2000,
    )
    found = []
    for bench in (
        lambda: accept.rows(options.messages, options.accounts, options.recipients, options.pairs),
        lambda: pop3.rows(options.pop3, options.pairs),
        lambda: imap.rows(options.mailbox, options.pairs),
        lambda: idle.rows(options.sessions, 100),
    ):
        some = bench()
        if not options.json:
            print_rows(some, as_json=False)
        found += some
    finish(found, as_json=options.json)


if __name__ == "__main__":
    main()
