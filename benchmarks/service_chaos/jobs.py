"""The work of the services under fire."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from benchmarks.service_chaos.notes import BEGUN, ENDED, note

__all__ = ["work"]


def work(argument: dict[str, Any]) -> None:
    """Take some time, and note it; or kill the worker."""
    note(BEGUN, argument["number"])
    if argument.get("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(argument["seconds"])
    note(ENDED, argument["number"])
