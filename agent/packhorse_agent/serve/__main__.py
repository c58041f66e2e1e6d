"""`PYTHON -m packhorse_agent.serve`: started by the supervisor, not by people."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import socket
import sys

from packhorse_agent.child_process import OrphanedError, harden
from packhorse_agent.contract.exit_codes import ExitCode


def main() -> ExitCode:
    """Become a worker on an inherited control socket."""
    parser = argparse.ArgumentParser(prog="packhorse_agent.serve", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--memory-limit-bytes", type=int)
    arguments = parser.parse_args()
    faulthandler.enable(all_threads=False)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        harden(arguments.parent_pid, arguments.memory_limit_bytes)
    except OrphanedError:
        return ExitCode.OK
    control = socket.socket(fileno=arguments.control_fd)
    return asyncio.run(_work(control))


async def _work(control: socket.socket) -> ExitCode:
    # imported under the memory limit, and with the process tied to its supervisor
    from packhorse_agent.serve.worker import Worker

    return await Worker(control).run()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # native threads of a runtime may outlive the interpreter's own teardown, and some crash in it
    os._exit(code)
