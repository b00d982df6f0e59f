"""Stop children in steps: ask, wait, terminate, wait, kill."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from multiprocessing_kit.supervise.child import ForkedChild

__all__ = ["Hurry", "StopSteps", "stop_children"]


@dataclass(frozen=True)
class StopSteps:
    """How long each step waits, in seconds; None waits for ever."""

    asked: float | None
    terminated: float


class Hurry(Protocol):
    """Somebody who may lose patience: a descriptor that becomes readable when they might have."""

    def fileno(self) -> int:
        """The descriptor."""

    def wanted(self) -> bool:
        """Whether to go to the next step now; takes the descriptor's message away."""


def stop_children(
    children: Iterable[ForkedChild],
    steps: StopSteps,
    *,
    ask: Callable[[], None],
    hurry: Hurry | None = None,
) -> None:
    """End `children` and take their exit statuses.

    Args:
        children: Those to end; ended ones are fine.
        steps: The patience with each step.
        ask: Tells all of them to end in their own time.
        hurry: May cut the patience short.
    """
    left = [child for child in children if not child.poll()]
    ask()
    left = _wait(left, steps.asked, hurry)
    for child in left:
        child.terminate()
    left = _wait(left, steps.terminated, hurry)
    for child in left:
        child.kill()
    for child in left:
        child.wait()  # SIGKILL cannot be refused


def _wait(children: list[ForkedChild], patience: float | None, hurry: Hurry | None) -> list[ForkedChild]:
    deadline = None if patience is None else time.monotonic() + patience
    while children := [child for child in children if not child.poll()]:
        timeouts = [child.recheck for child in children if child.recheck is not None]
        if deadline is not None:
            timeouts.append(deadline - time.monotonic())
        if (hurry is not None and hurry.wanted()) or (timeouts and min(timeouts) <= 0):
            break
        poll = select.poll()
        for child in children:
            poll.register(child, select.POLLIN)
        if hurry is not None:
            poll.register(hurry, select.POLLIN)
        poll.poll(min(timeouts) * 1000 if timeouts else None)
    return children
