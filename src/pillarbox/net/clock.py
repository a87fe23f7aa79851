"""The real clock behind `model.clock.Clock`."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's wall clock and its monotonic one."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
