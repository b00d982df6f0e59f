"""Gates at which jobs and children wait until others let them go on."""

from __future__ import annotations

import os
import select

__all__ = ["Gate"]

PATIENCE = 30  # seconds; only ever used up by a failing test


class Gate:
    """Opened once, for all who wait: in this process, and in those forked while it is there."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def wait(self) -> bool:
        """Until it is open, which is True. Fails if it never is."""
        ready, _, _ = select.select([self._reading], [], [], PATIENCE)
        assert ready, "nobody has opened the gate"
        return True

    def open(self) -> None:
        os.write(self._writing, b".")

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._reading)
        os.close(self._writing)
