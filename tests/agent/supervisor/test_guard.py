"""What the main loop survives."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from packhorse_agent.errors import BadInputError, UntrustedError
from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from packhorse_agent.supervisor.guard import PAUSE_S, REPEAT_S, Guard

FAULTS = [
    StorageFullError("no space"),
    StorageFaultError("read-only", 30),
    UntrustedError("not signed"),
    BadInputError("nonsense"),
    OSError(28, "No space left on device"),
    PermissionError(13, "Permission denied"),
    TimeoutError(),
]
DEFECTS = [KeyError("x"), AssertionError("must not be"), RecursionError(), ValueError("x"), MemoryError()]


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_faults_of_the_machine_are_logged_and_hold_the_loop_back(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    guard = Guard(clock)
    guard.step("storage", raising(error))
    assert caplog.messages == [f"storage: {str(error) or repr(error)}"]
    assert guard.not_before_s == clock.now_s + PAUSE_S


@pytest.mark.parametrize("error", DEFECTS, ids=repr)
def test_defects_end_the_agent(error: Exception) -> None:
    with pytest.raises(type(error)):
        Guard(Clock()).step("storage", raising(error))


@pytest.mark.parametrize("error", [*FAULTS, *DEFECTS], ids=repr)
def test_content_from_outside_costs_only_itself(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    Guard(Clock()).content("message", raising(error))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_order_to_end_is_followed(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Guard(Clock()).content("message", raising(error))


def test_the_same_error_is_not_said_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    clock = Clock()
    guard = Guard(clock)
    for _ in range(5):
        guard.step("storage", raising(OSError("full")))
    assert caplog.messages == ["storage: full"]
    guard.step("storage", raising(OSError("broken")))
    guard.step("slot a", raising(OSError("full")))
    clock.now_s += REPEAT_S
    guard.step("storage", raising(OSError("broken")))
    assert caplog.messages[1:] == ["storage: broken", "slot a: full", "storage: broken"]


def test_what_works_is_not_held_back() -> None:
    done: list[int] = []
    guard = Guard(Clock())
    guard.step("a", lambda: done.append(1))
    guard.content("b", lambda: done.append(2))
    assert (done, guard.not_before_s) == ([1, 2], float("-inf"))
