"""Pushes without a pause, and remembers what the broker has confirmed."""

from __future__ import annotations

import threading

from multiprocessing_kit.errors import BrokerError, DuplicateJobError
from multiprocessing_kit.service.client import Client

__all__ = ["Pusher"]

_AGAIN_SECONDS = 0.1


class Pusher(threading.Thread):
    """Pushes jobs one by one until told to end; what is refused is pushed again under the same id.

    Args:
        client: Its own.
        seconds: That each job takes.
        pause: Seconds between two.

    Attributes:
        confirmed: Numbers of the jobs that are in the broker, or were.
        refused: Pushes that failed.
    """

    def __init__(self, client: Client, seconds: float, pause: float = 0.004) -> None:
        super().__init__(daemon=True)
        self.confirmed: list[int] = []
        self.refused = 0
        self._client = client
        self._seconds = seconds
        self._pause = pause
        self._over = threading.Event()

    def run(self) -> None:
        """In the thread."""
        number = 0
        with self._client:
            while not self._over.wait(self._pause):
                if self._push(number):
                    self.confirmed.append(number)
                    number += 1
                else:
                    self.refused += 1
                    self._over.wait(_AGAIN_SECONDS)

    def end(self) -> None:
        """Push no more, and wait for the last one."""
        self._over.set()
        self.join()

    def _push(self, number: int) -> bool:
        try:
            self._client.push("work", {"number": number, "seconds": self._seconds}, id=f"job-{number}")
        except DuplicateJobError:
            return True  # an earlier try had its effect
        except BrokerError:
            return False
        return True
