"""`PYTHON -m packhorse_agent.trust`: the verifier; started by the supervisor, not by people."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from typing import Final

from packhorse_agent.child_process import OrphanedError, harden
from packhorse_agent.contract.exit_codes import ExitCode

MEMORY_LIMIT_BYTES: Final = 512 * 1024**2
"""Of memory that is written to; a trust set of the largest size takes a tenth."""


def main() -> ExitCode:
    """Answer calls on an inherited socket until its end."""
    parser = argparse.ArgumentParser(prog="packhorse_agent.trust", description=__doc__)
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # each of a root's keys that did not sign is noted as if it were a fault; what is one, we say ourselves
    logging.getLogger("tuf").setLevel(logging.WARNING)
    try:
        harden(arguments.parent_pid, MEMORY_LIMIT_BYTES)
    except OrphanedError:
        return ExitCode.OK
    # imported under the memory limit, and with the process tied to its supervisor
    from packhorse_agent.trust.answering import answer_calls

    with socket.socket(fileno=arguments.socket_fd) as stream:
        answer_calls(stream)
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
