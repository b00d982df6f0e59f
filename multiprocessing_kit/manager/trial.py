"""The new code is tried in a process of its own before the master becomes it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from multiprocessing_kit.errors import describe_exit
from multiprocessing_kit.manager.handover import REACHED, execute_trial
from multiprocessing_kit.supervise.fork import fork_child

__all__ = ["Trial"]

_MOST_OUTPUT = 2000


class Trial:
    """One trial, begun.

    Args:
        name: Of the manager whose start it must reach.
        paths: Of its files that must stay where they are.

    Attributes:
        child: The process; it exits with `REACHED` when it has got that far.

    Raises:
        OSError: The system cannot fork.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the trial
        descriptor = self._output.fileno()
        self.child = fork_child(
            lambda _: execute_trial(name, paths, descriptor), title=f"mpkit: trial {name}"
        )

    def failure(self) -> str:
        """Why the new code will not do; "" if it will. After its end."""
        if self.child.exitcode == REACHED:
            return ""
        self._output.seek(0)
        written = self._output.read()[-_MOST_OUTPUT:].decode(errors="replace").strip()
        return f"the new code {describe_exit(self.child.exitcode)} before it started the manager: {written}"

    def close(self) -> None:
        """End it, if it has not ended."""
        self.child.kill()
        self.child.wait()
        self.child.close()
        self._output.close()
