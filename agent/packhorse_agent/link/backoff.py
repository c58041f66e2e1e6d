"""How long to wait before the next try to connect."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Exponential back-off with full jitter, so that a fleet does not return all at once.

    The n-th wait (from 0) lies between `minimum_s` and `4 * minimum_s * 2**n`, at most `maximum_s`.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter"), with a floor.
    """

    minimum_s: float = 0.25
    maximum_s: float = 60.0
    random: random.Random = field(default_factory=random.Random)
    _failures: int = 0

    def next_delay_s(self) -> float:
        """The wait after one more failure, in seconds."""
        ceiling = min(self.maximum_s, 4 * self.minimum_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self.random.uniform(self.minimum_s, max(ceiling, self.minimum_s))

    def reset(self) -> None:
        """Begin again after a success."""
        self._failures = 0
