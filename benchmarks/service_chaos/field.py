"""Where a row of the fault table takes place."""

from __future__ import annotations

import contextlib
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.service_chaos.notes import BEGUN, Notes
from benchmarks.service_chaos.outcome import Outcome
from benchmarks.service_chaos.shop import PATIENCE, Shop, until
from multiprocessing_kit.errors import BrokerError, DuplicateJobError

__all__ = ["Field", "a_field"]

_AT_ONCE = 500
_MARKER = 90_000_000


@dataclass
class Field:
    """One row's own service on a broker that others may use as well.

    Attributes:
        url: Of the broker.
        chance: For random instants.
        name: Of the service.
        notes: Of its jobs.
    """

    url: str
    chance: random.Random
    notes: Notes
    name: str = field(default_factory=lambda: f"chaos-{secrets.token_hex(3)}")
    _markers: int = 0

    def shop(self, **settings: Any) -> Shop:
        """A host with the service; see `Shop`. Each has its own runtime directory."""
        return Shop(settings.pop("url", self.url), self.name, self.notes, **settings)

    def push(self, shop: Shop, jobs: int, seconds: float) -> range:
        """Jobs 0 to `jobs`, each of which takes up to `seconds`."""
        with shop.client() as client:
            for first in range(0, jobs, _AT_ONCE):
                numbers = range(first, min(jobs, first + _AT_ONCE))
                arguments = [{"number": n, "seconds": self.chance.uniform(0, seconds)} for n in numbers]
                client.push_many("work", arguments)
        return range(jobs)

    def wait_for_progress(self, lines: int) -> None:
        """Until jobs have noted so much."""
        until(lambda: self.notes.count >= lines, f"line {lines} of the jobs' notes")

    def back(self, shop: Shop) -> float:
        """Push a job before all others, and return the seconds until it is run, or `PATIENCE`."""
        began = time.monotonic()
        self._markers += 1
        number = _MARKER + self._markers
        with shop.client() as client, contextlib.suppress(TimeoutError):
            while True:
                try:
                    argument = {"number": number, "seconds": 0.0}
                    client.push("work", argument, priority=100, id=f"marker-{number}")
                    break
                except DuplicateJobError:
                    break
                except BrokerError:
                    if time.monotonic() - began > PATIENCE:
                        return PATIENCE
                    time.sleep(0.05)
            until(lambda: any(n.number == number for n in self.notes.last(2000)), "the job after the fault")
        return time.monotonic() - began

    def first_after(self, instant: float, numbers: Collection[int]) -> float | None:
        """Seconds from an instant until a job began; None if all of these had ended, so that none could."""
        wanted = set(numbers)

        def begun() -> list[float]:
            return [n.at for n in self.notes.last(500) if n.kind == BEGUN and n.at > instant]

        with contextlib.suppress(TimeoutError):
            until(lambda: begun() or wanted <= self.notes.ended(), "the first job after the fault")
            return min(began) - instant if (began := begun()) else None
        return PATIENCE

    def finish(self, shop: Shop, outcome: Outcome, numbers: Collection[int], dead: int = 0) -> None:
        """Wait until all are done or nothing happens any more, and fill in what came of them."""
        wanted = set(numbers)
        seen, since = -1, time.monotonic()
        while not wanted <= (ended := self.notes.ended()):
            shop.check()
            if self.notes.count != seen:
                seen, since = self.notes.count, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                break
            time.sleep(0.2)
        outcome.jobs = len(wanted)
        outcome.lost = len(wanted - ended)
        outcome.again = self.notes.runs_again(wanted)
        self._look_for_leftovers(shop, outcome, dead)
        if outcome.problems:
            print(f"--- log of {shop.folder}\n{shop.log()[-10_000:]}", file=sys.stderr)

    def _look_for_leftovers(self, shop: Shop, outcome: Outcome, dead: int) -> None:
        with shop.broker() as broker:
            try:
                until(lambda: _left(broker.backlog("work")) == (0, dead), "an empty broker", 20.0)
            except (TimeoutError, BrokerError) as error:
                outcome.wrong.append(f"{error}: {broker.backlog('work')}")


def _left(backlog: Any) -> tuple[int, int]:
    return backlog.ready + backlog.delayed + (backlog.running or 0), backlog.dead


@contextlib.contextmanager
def a_field(url: str, seed: int) -> Iterator[Field]:
    """One for a row."""
    with tempfile.TemporaryDirectory(prefix="mpkit-chaos-") as folder:
        yield Field(url, random.Random(seed), Notes(Path(folder, "notes")))
