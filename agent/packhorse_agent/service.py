"""The supervisor: one main thread that drains a queue of events, and owns every decision on the device.

Run as `python -m packhorse_agent.service CONFIG [LOG_LEVEL]` (what `packhorse-agent run` becomes). It never
imports a runtime, numpy, python-tuf or anything that reads command lines: models live in worker processes,
metadata is verified in another one, and what stays in memory here stays for months.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from packhorse_agent.config import load_config
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.errors import AgentError
from packhorse_agent.supervisor.supervisor import Supervisor

_log = logging.getLogger(__name__)


def main(config: Path, log_level: str = "info") -> int:
    """Run the agent until SIGTERM or SIGINT; the exit code says whose fault an early end is."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        supervisor = Supervisor(load_config(config))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.request_stop())
        supervisor.run()
    except AgentError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(str(error), ExitCode.ENVIRONMENT)
    except Exception as error:
        _log.exception("the agent ends")
        return _fail(f"a defect in Packhorse, please report it: {error!r}", ExitCode.BUG)
    return ExitCode.OK


def _fail(text: str, code: ExitCode) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
