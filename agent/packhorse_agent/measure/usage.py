"""CPU time that workers used, from their running totals."""

from __future__ import annotations

from collections.abc import Collection


class CpuUsage:
    """CPU seconds since the last look, worker by worker."""

    def __init__(self) -> None:
        self._totals_s: dict[int, float] = {}

    def spent_s(self, worker_pid: int, total_s: float) -> float:
        """Seconds used since the last call for this worker; all of them at the first call.

        A total below the last one is another process under the same number, counted from zero.
        """
        before_s = self._totals_s.get(worker_pid, 0.0)
        self._totals_s[worker_pid] = total_s
        return total_s - before_s if total_s >= before_s else total_s

    def forget_all_but(self, worker_pids: Collection[int]) -> None:
        """Drop the totals of workers that ended."""
        self._totals_s = {pid: total for pid, total in self._totals_s.items() if pid in worker_pids}
