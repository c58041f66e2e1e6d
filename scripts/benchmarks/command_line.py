"""How long a person waits for `packhorse --help`: the whole process, and its imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import options, publish, spread

_RUNS = 9


def main() -> None:
    """Time both command lines against an interpreter that does nothing."""
    parsed = options("Whole-process time of --help, beside an empty interpreter.").parse_args()
    folder = Path(sys.executable).parent
    commands = {
        "empty interpreter": [sys.executable, "-c", ""],
        "packhorse --help": [str(folder / "packhorse"), "--help"],
        "packhorse-agent --help": [str(folder / "packhorse-agent"), "--help"],
    }
    times_s: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(_RUNS):
        for name, command in commands.items():
            times_s[name].append(_time_s(command))
    lines = [(name, f"{spread(values, 3)} s") for name, values in times_s.items()]
    publish({"times_s": times_s}, lines, parsed.json)


def _time_s(command: list[str]) -> float:
    began_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
