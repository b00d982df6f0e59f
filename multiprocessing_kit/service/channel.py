"""Messages between a consumer and one of its workers, over a pair of sockets.

    consumer ──▶ leases: lists of Task       worker ──▶ lists of Answer

The two are one program, forked, so messages are pickles. A message that its sender was killed in is never
read: its length comes first. The consumer does not wait on its end; the worker does on its own.
"""

from __future__ import annotations

import pickle
import signal
import socket
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["HURRY", "Answer", "Channel", "Task", "WorkerEnd"]

HURRY = signal.SIGURG
"""The consumer sends it to a worker that is at a long job with answers unsent. Nothing happens where it has
no handler, as in what a job executes."""

_LENGTH = struct.Struct("=Q")
_READ_BYTES = 1 << 18


class Task(NamedTuple):
    """A job for a worker: what of `Job` it needs."""

    id: str
    topic: str
    payload: bytes
    attempt: int = 1
    crashes: int = 0
    idle_for: float = 0.0
    first_run: float = 0.0
    changes: str = ""


class Answer(NamedTuple):
    """What came of a task; they come in the order of the tasks.

    Attributes:
        kind: "ok", "failed" (for good), "again" (after `delay`), "canceled", "skipped" (it was called back);
            or "tried": the task under way goes on with another attempt; or "broken": to no task, but the
            worker itself ends by an error.
        seconds: That it took.
        result: Encoded; None where nobody may ask for it.
        error: In words.
        attempt: The last one that was made here.
        delay, idle_for, first_run, changes: For the next attempt.
    """

    kind: str
    seconds: float = 0.0
    result: bytes | None = None
    error: str = ""
    attempt: int = 1
    delay: float = 0.0
    idle_for: float = 0.0
    first_run: float = 0.0
    changes: str = ""


@dataclass(eq=False)
class _Frames:
    """Cuts a stream of bytes into messages."""

    data: bytearray

    def take(self) -> list[Any]:
        messages: list[Any] = []
        at = 0
        while len(self.data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self.data, at)
            end = at + _LENGTH.size + length
            if len(self.data) < end:
                break
            messages += pickle.loads(memoryview(self.data)[at + _LENGTH.size : end])
            at = end
        del self.data[:at]
        return messages


class Channel:
    """The consumer's end."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ours.setblocking(False)
        self._frames = _Frames(bytearray())
        self._unsent = bytearray()

    def fileno(self) -> int:
        """Readable when there are answers."""
        return self._ours.fileno()

    @property
    def is_full(self) -> bool:
        """Whether tasks wait for the worker to read earlier ones."""
        return bool(self._unsent)

    def send(self, tasks: list[Task]) -> None:
        """Have a lease sent by `flush`."""
        self._unsent += _message([tuple(task) for task in tasks])

    def flush(self) -> None:
        """Send what is left, as much as fits. To a dead worker it goes nowhere."""
        try:
            while self._unsent:
                del self._unsent[: self._ours.send(memoryview(self._unsent)[: 1 << 20].tobytes())]
        except BlockingIOError:
            pass
        except OSError:  # it is dead, which is told elsewhere
            self._unsent.clear()

    def answers(self) -> list[Answer]:
        """Those that have come; of a dead worker all that it has sent."""
        try:
            while True:
                data = self._ours.recv(_READ_BYTES)
                self._frames.data += data
                if len(data) < _READ_BYTES:
                    break
        except (BlockingIOError, ConnectionError):
            pass
        return [Answer(*answer) for answer in self._frames.take()]

    def close(self) -> None:
        """Both ends, in this process."""
        self._ours.close()
        self.theirs.close()


class WorkerEnd:
    """The worker's end.

    Args:
        channel: The consumer's; its end is closed here.
    """

    def __init__(self, channel: Channel) -> None:
        channel._ours.close()
        self._socket = channel.theirs
        self._frames = _Frames(bytearray())

    def fileno(self) -> int:
        """Readable when there is a lease."""
        return self._socket.fileno()

    def tasks(self) -> list[Task]:
        """Those of the next leases; none if nothing has come. Waits for the rest of one that has begun.

        Raises:
            EOFError: The consumer is gone.
        """
        flags: int = socket.MSG_DONTWAIT
        while True:
            try:
                data = self._socket.recv(_READ_BYTES, flags)
            except BlockingIOError:
                return []
            if not data:
                raise EOFError
            self._frames.data += data
            tasks = self._frames.take()
            if tasks:
                return [Task(*task) for task in tasks]
            flags = 0

    def send(self, answers: list[Answer]) -> None:
        """Send answers; waits while the consumer has too many."""
        self._socket.sendall(_message([tuple(answer) for answer in answers]))


def _message(items: list[Any]) -> bytes:
    data = pickle.dumps(items, protocol=5)
    return _LENGTH.pack(len(data)) + data
