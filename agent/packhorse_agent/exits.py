"""How both command lines end: errors as one line on standard error and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.errors import AgentError


def end_with_exit_code(run: Callable[[], object]) -> NoReturn:
    """Run a command line; always ends in `SystemExit` with an `ExitCode`."""
    try:
        run()
    except AgentError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(str(error), ExitCode.ENVIRONMENT)
    except KeyboardInterrupt:
        _fail("interrupted", ExitCode.INTERRUPTED)
    except Exception as error:
        traceback.print_exc()
        _fail(f"a defect in Packhorse, please report it: {error!r}", ExitCode.BUG)
    sys.exit(ExitCode.OK)


def _fail(text: str, code: ExitCode) -> NoReturn:
    sys.stderr.write(f"error: {text}\n")
    sys.exit(code)
