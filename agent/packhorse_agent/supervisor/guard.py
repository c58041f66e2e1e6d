"""What the supervisor survives, decided in one place.

Faults of the machine and refusals (a full disk, a folder without rights, damaged content) cost the step in
which they occur: they are logged, and what serves goes on serving. Content from outside may cost no more
than itself, whatever it triggers. Everything else is a defect: it ends the agent, in order and with exit
code 1, so that the service manager starts a fresh one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from packhorse_agent.errors import AgentError

PAUSE_S = 1.0
"""After a failed step nothing is due earlier than this: a step that fails again must not spin."""

REPEAT_S = 60.0
"""The same error of the same step is logged again after this."""

_log = logging.getLogger(__name__)


class Guard:
    """Runs the steps of the main loop; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[str, tuple[str, float]] = {}
        self.not_before_s = float("-inf")
        """No step has to be taken before, on the clock, unless an event comes."""

    def step(self, name: str, action: Callable[[], object]) -> None:
        """Run one step; errors that the machine is to blame for are logged."""
        try:
            action()
        except (AgentError, OSError) as error:
            self.not_before_s = self._clock() + PAUSE_S
            self._note(name, error)

    def content(self, name: str, action: Callable[[], object]) -> None:
        """Take something in from outside; any error costs that content only."""
        try:
            self.step(name, action)
        except Exception:
            _log.exception("%s: dropped, and please report this", name)

    def _note(self, name: str, error: Exception) -> None:
        text, now_s = f"{name}: {str(error) or repr(error)}", self._clock()
        last, at_s = self._logged.get(name, ("", 0.0))
        if text != last or now_s >= at_s + REPEAT_S:
            self._logged[name] = (text, now_s)
            _log.error("%s", text)
