"""How the processes of a server agree on a reload: all of them take the new configuration over, or none.

The supervisor reads and checks the configuration, and calls the workers. Each reads it too, makes all that it needs,
and says that it is ready, or that it is not; only when all are ready they switch. What they say stands in memory that
is shared since before the fork. A digest makes sure that all of them read the same.
"""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Callable, Sequence
from typing import Final

ANSWER_S: Final = 10.0
"""How long the supervisor waits until all are ready, and how long again until all have switched."""
DECISION_S: Final = 3 * ANSWER_S
"""How long a worker waits for the decision; longer than it can take."""
_LOOK_S: Final = 0.01
_READY, _FAILED, _DONE = 1, 2, 3
_COMMIT, _ABORT = 1, 2
_DIGEST_OCTETS: Final = 32


class ReloadBoard:
    """Octets: the decision, the digest, then one for each process."""

    def __init__(self, processes: int) -> None:
        self._memory = mmap.mmap(-1, 1 + _DIGEST_OCTETS + processes)

    # --- the supervisor's side

    def agree(self, digest: bytes, call: Callable[[], Sequence[int]], answer_s: float = ANSWER_S) -> str:
        """Have all processes that `call` calls take over what has this digest; "" when they have.

        `call` returns their numbers. Otherwise, what was the matter; then all of them are as they were.
        """
        self._memory[:] = bytes(1) + digest + bytes(len(self._memory) - 1 - _DIGEST_OCTETS)
        called = call()
        states = self._wait(called, (_READY, _FAILED), answer_s)
        if any(states[number] != _READY for number in called):
            self._memory[0] = _ABORT
            failed = sum(states[number] == _FAILED for number in called)
            if failed:
                return f"{failed} of {len(called)} processes could not take it over; the log says why"
            return f"not all of {len(called)} processes have answered"
        self._memory[0] = _COMMIT
        self._wait(called, (_DONE,), answer_s)
        return ""

    def _wait(self, called: Sequence[int], wanted: tuple[int, ...], patience_s: float) -> bytes:
        until_s = time.monotonic() + patience_s
        while True:
            states = self._memory[1 + _DIGEST_OCTETS :]
            if all(states[number] in wanted for number in called) or time.monotonic() >= until_s:
                return states
            if _FAILED in states and _READY in wanted:
                return states  # no need to hear the rest
            time.sleep(_LOOK_S)

    # --- a worker's side

    def fail(self, number: int) -> None:
        """This process cannot take it over."""
        self._memory[1 + _DIGEST_OCTETS + number] = _FAILED

    def done(self, number: int) -> None:
        """This process has taken it over."""
        self._memory[1 + _DIGEST_OCTETS + number] = _DONE

    async def decided(self, number: int, digest: bytes) -> bool:
        """This process is ready: shall it take over? Not if it has read something else than the supervisor."""
        if self._memory[1 : 1 + _DIGEST_OCTETS] != digest:
            self.fail(number)
            return False
        self._memory[1 + _DIGEST_OCTETS + number] = _READY
        until_s = time.monotonic() + DECISION_S
        while not self._memory[0] and time.monotonic() < until_s:
            await asyncio.sleep(_LOOK_S)
        return self._memory[0] == _COMMIT
