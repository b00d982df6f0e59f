"""How a manager and its workers are, as data, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from multiprocessing_kit.manager.board import Row
from multiprocessing_kit.supervise.memory import resident_memory
from multiprocessing_kit.supervise.supervisor import Place, State

__all__ = ["Status", "WorkerStatus"]


@dataclass(frozen=True)
class WorkerStatus:
    """One worker's place.

    Attributes:
        pin: Its index.
        pid: Process id; 0 if nobody is there.
        state: "starting" (in `init`), "idle", "busy", "stopping", "backoff", "ended", "fatal" or "stopped".
        age: Seconds since it was started; 0.0 if nobody is there.
        executions: Calls of `target` that it has completed.
        restarts: How many have had this PIN before.
        memory: Bytes resident.
        last_exit: How the one before ended; "" if there was none.
        reason: Why it was given up; "" if it was not.
    """

    pin: int
    pid: int
    state: str
    age: float
    executions: int
    restarts: int
    memory: int
    last_exit: str
    reason: str

    @classmethod
    def of(cls, place: Place, row: Row) -> WorkerStatus:
        """From what the master knows, and what the worker has noted."""
        ready, executions, busy_since = row.read()
        state = place.state.value
        if place.state is State.RUNNING:
            state = "starting" if not ready else "busy" if busy_since else "idle"
        elif place.state is State.IDLE:
            state = "stopped"
        child = place.child
        return cls(
            pin=place.pin,
            pid=0 if child is None else child.pid,
            state=state,
            age=0.0 if child is None else time.time() - place.started,
            executions=executions,
            restarts=place.restarts,
            memory=0 if child is None else resident_memory(child.pid),
            last_exit=place.last_exit,
            reason=place.reason,
        )


@dataclass(frozen=True)
class Status:
    """One manager.

    Attributes:
        name: Its name.
        state: "starting", "running", "restarting" (workers are being replaced) or "stopping".
        pid: Of the master.
        uptime: Seconds since the first start; a smooth restart goes on with it.
        memory: Bytes that the master has resident.
        starts: How many workers were started in all.
        restarts: How often it went on with new code.
        problem: Why the last restart was not made; "" if it was.
        workers: Theirs, by PIN.
    """

    name: str
    state: str
    pid: int
    uptime: float
    memory: int
    starts: int
    restarts: int
    problem: str
    workers: tuple[WorkerStatus, ...]

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Status:
        """From what `as_dict` gave."""
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        workers = tuple(WorkerStatus(**worker) for worker in data["workers"])
        return cls(**{**fields, "workers": workers})

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return dataclasses.asdict(self)

    def table(self, without: Collection[str] = ()) -> str:
        """For people; `without` columns that tell nothing of these workers."""
        head = (
            f"{self.name}: {self.state}, pid {self.pid}, up {_span(self.uptime)}, "
            f"{self.memory / 1e6:.0f} MB, {len(self.workers)} workers, {self.starts} started"
        )
        rows = [("PIN", "PID", "STATE", "AGE", "CALLS", "RESTARTS", "MEMORY", "LAST EXIT")]
        for worker in self.workers:
            living = worker.pid != 0
            rows.append(
                (
                    str(worker.pin),
                    str(worker.pid) if living else "-",
                    worker.state,
                    _span(worker.age) if living else "-",
                    str(worker.executions),
                    str(worker.restarts),
                    f"{worker.memory / 1e6:.0f} MB" if living else "-",
                    worker.reason or worker.last_exit or "-",
                )
            )
        columns = [column for column in zip(*rows, strict=True) if column[0] not in without]
        widths = [max(map(len, column)) for column in columns]
        kept = zip(*columns, strict=True)
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in kept]
        problem = [f"not restarted: {self.problem}"] if self.problem else []
        return "\n".join([head, *problem, *(line.rstrip() for line in lines)])


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return time.strftime("%H:%M h", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} d"
