"""The one error tree. Every error the package raises on purpose is a `KitError`.

    KitError
    ├── JobError                    one job went wrong; `job_id` says which
    │   ├── WorkerLostError         its child died while it ran
    │   ├── JobTimeoutError         it took too long
    │   ├── JobCanceledError        `cancel()` ended it
    │   ├── SerializationError      its argument or result cannot be pickled or unpickled
    │   ├── RetriesExhaustedError   the retry strategy still asked for more when they ran out
    │   └── RemoteError             its exception could not travel; also carries the child's traceback
    ├── QueueError                  a queue refused an item or was misused
    │   ├── QueueEmptyError         (also `queue.Empty`)
    │   ├── QueueFullError          (also `queue.Full`)
    │   └── QueueClosedError        (also `ValueError`) it was closed or destroyed
    ├── LockerError                 a locker was misused or destroyed (also RuntimeError and ValueError)
    ├── ChildError                  a `Child` was used in a way it does not allow
    │   └── ChildTimeoutError       (also `TimeoutError`) it did not end, or send a message, in time
    ├── PoolError                   the children as a whole cannot go on
    │   ├── PoolClosedError         (also `RuntimeError`, `ValueError`) it was closed or shut down
    │   └── PoolFullError           it has as many jobs as it may have
    ├── TableError                  a table in shared memory refused a row or was misused
    │   ├── TableFullError          every row is taken, and the key has none
    │   ├── TableValueError         (also `ValueError`) a long or empty key, a long text, no such column
    │   ├── TableTypeError          (also `TypeError`) a key, row or value of another type
    │   ├── TableOverflowError      (also `OverflowError`) a number outside 64 bits
    │   └── TableClosedError        it was closed here, or destroyed by any process
    ├── PipeTimeoutError            (also `TimeoutError`) a message did not come or go in time
    ├── ManagerError                a manager cannot do what it was asked
    │   ├── AlreadyRunningError     one of this name runs
    │   ├── NotRunningError         none does
    │   └── ManagerConfigError      (also `ValueError`) an option makes no sense
    ├── ServiceError                a service of topics cannot do what it was asked
    │   ├── ServiceConfigError      (also `ValueError`) its configuration makes no sense
    │   ├── BrokerError             the broker refused; what it was asked for was not done
    │   │   └── BrokerUnavailableError   it cannot be reached, or does not answer just now
    │   ├── DuplicateJobError       a job of this id is there
    │   └── PayloadError            (also `ValueError`) an argument or result cannot be written or read
    ├── CheckpointError             a file of kept answers cannot be used, or not for this map
    └── IpcError                    the system refused shared memory or semaphores

Each says what happened, to which job, queue or file, and what to do. What the message tells is
also there as attributes. Errors with data of their own survive pickling.
"""

from __future__ import annotations

import queue
import signal

__all__ = [
    "AlreadyRunningError",
    "BrokerError",
    "BrokerUnavailableError",
    "CheckpointError",
    "ChildError",
    "ChildTimeoutError",
    "DuplicateJobError",
    "IpcError",
    "JobCanceledError",
    "JobError",
    "JobTimeoutError",
    "KitError",
    "LockerError",
    "ManagerConfigError",
    "ManagerError",
    "NotRunningError",
    "PayloadError",
    "PipeTimeoutError",
    "PoolClosedError",
    "PoolError",
    "PoolFullError",
    "QueueClosedError",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "RemoteError",
    "RetriesExhaustedError",
    "SerializationError",
    "ServiceConfigError",
    "ServiceError",
    "TableClosedError",
    "TableError",
    "TableFullError",
    "TableOverflowError",
    "TableTypeError",
    "TableValueError",
    "WorkerLostError",
]


class KitError(Exception):
    """Root of every error raised by this package."""


class JobError(KitError):
    """One job went wrong.

    Attributes:
        job_id: The job, or `""` where the error was made outside any job.
    """

    def __init__(self, message: str, *, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class WorkerLostError(JobError):
    """The child that ran this job died before it answered.

    Attributes:
        pid: The child's process id.
        exitcode: Its exit status; minus the signal number when a signal ended it; None if unknown.
        attempts: How often the job was begun.
        peak_memory: Bytes that the child had resident at most; 0 if unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str = "",
        pid: int = 0,
        exitcode: int | None = None,
        attempts: int = 1,
        peak_memory: int = 0,
    ) -> None:
        super().__init__(message, job_id=job_id)
        self.pid = pid
        self.exitcode = exitcode
        self.attempts = attempts
        self.peak_memory = peak_memory

    @property
    def signal_name(self) -> str:
        """Such as "SIGKILL"; "" if no signal ended the child."""
        return _signal_name(self.exitcode) if self.exitcode is not None and self.exitcode < 0 else ""

    @classmethod
    def of_child(
        cls,
        job_id: str,
        pid: int,
        exitcode: int | None,
        *,
        attempts: int = 1,
        peak_memory: int = 0,
        killed_for: int | None = None,
    ) -> WorkerLostError:
        """The error for a job whose child ended with `exitcode` (as in `subprocess`).

        Args:
            job_id: The job.
            pid: Of the child.
            exitcode: Its own, or minus a signal.
            attempts: How often the job was begun.
            peak_memory: Bytes that the child had at most.
            killed_for: Bytes that it had when we killed it because of these.
        """
        message = f"job {job_id}: child {pid} {describe_exit(exitcode)} while it ran this job"
        if attempts > 1:
            message += f" (attempt {attempts})"
        if killed_for is not None:
            message += f": it had {_megabytes(killed_for)}, over twice the max_memory_per_child"
        elif exitcode == -signal.SIGKILL:
            message += "; if nobody killed it, the system may have run out of memory (see the kernel log)"
            if peak_memory:
                message += f": it had {_megabytes(peak_memory)} resident at most"
        return cls(
            message, job_id=job_id, pid=pid, exitcode=exitcode, attempts=attempts, peak_memory=peak_memory
        )


class JobTimeoutError(JobError, TimeoutError):
    """An attempt of the job took longer than `timeout`, and its child was killed.

    Attributes:
        pid: Of that child.
        timeout: Seconds it had.
        stacks: Where the child was, as `faulthandler` writes it: all threads, innermost call first; "" if it
            could not tell (it was stopped).
    """

    def __init__(
        self, message: str, *, job_id: str = "", pid: int = 0, timeout: float = 0.0, stacks: str = ""
    ) -> None:
        super().__init__(message, job_id=job_id)
        self.pid = pid
        self.timeout = timeout
        self.stacks = stacks

    @classmethod
    def of_child(cls, job_id: str, pid: int, timeout: float, stacks: str) -> JobTimeoutError:
        """The error for a job that a child was killed for."""
        message = f"job {job_id}: not done after {timeout:g} s, so its child {pid} was killed"
        return cls(message, job_id=job_id, pid=pid, timeout=timeout, stacks=stacks)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; it was here:\n{self.stacks}" if self.stacks else text


class JobCanceledError(JobError):
    """The job was ended by `worker.cancel()` or `process.cancel()`, or `process()` raised this itself."""


class SerializationError(JobError):
    """A job's argument, result or exception cannot be pickled, or not unpickled again."""


class RetriesExhaustedError(JobError):
    """The last attempt raised nothing, but the retry strategy did not accept its result either."""


class RemoteError(JobError):
    """Stands for an exception of a child.

    Found in two places: as the `__cause__` of an exception that came from a child, where it carries
    the traceback; and in the exception's own place when that could not be pickled and unpickled.

    Attributes:
        type_name: Qualified class name of the original exception.
        traceback_text: The child's traceback, as `traceback.format_exception` wrote it.
    """

    def __init__(
        self, message: str, *, job_id: str = "", type_name: str = "", traceback_text: str = ""
    ) -> None:
        super().__init__(message, job_id=job_id)
        self.type_name = type_name
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\n{self.traceback_text}" if self.traceback_text else text


class QueueError(KitError):
    """A queue refused an item or was used in a way it does not allow."""


class QueueEmptyError(QueueError, queue.Empty):
    """Nothing in the queue, and the caller would not wait (longer)."""


class QueueFullError(QueueError, queue.Full):
    """No room in the queue, and the caller would not wait (longer)."""


class QueueClosedError(QueueError, ValueError):
    """The queue was closed or destroyed, here or by another process.

    `multiprocessing.Queue` raises `ValueError` then.
    """


class LockerError(KitError, RuntimeError, ValueError):
    """A locker was misused, or was destroyed.

    `threading`'s locks raise RuntimeError for misuse, its BoundedSemaphore and those of `multiprocessing`
    ValueError.

    Attributes:
        reason: "not acquired", "another owner", "held", "destroyed" or "another value".
        pid: Of the process that has it, where that is the reason; else 0.
    """

    def __init__(self, message: str, *, reason: str = "", pid: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.pid = pid


class ChildError(KitError):
    """A `Child` was used in a way it does not allow: started twice, waited for by another process."""


class ChildTimeoutError(ChildError, TimeoutError):
    """A child did not end, or send a message, in the time that the caller would wait."""


class PoolError(KitError):
    """The children as a whole cannot go on (`setup()` fails, they die before their first job)."""


class PoolClosedError(PoolError, RuntimeError, ValueError):
    """The pool or executor takes no more calls.

    The standard library's executors raise `RuntimeError` then, its pools `ValueError`.
    """


class PoolFullError(PoolError):
    """The pool has as many unanswered jobs as it may have.

    Attributes:
        maxsize: So many.
    """

    def __init__(self, message: str, *, maxsize: int = 0) -> None:
        super().__init__(message)
        self.maxsize = maxsize


class TableError(KitError):
    """A table in shared memory refused a row or was used in a way it does not allow.

    Attributes:
        table: Its name or, without one, its System V key.
        key: Of the row; "" where it is not about one.
        column: "" where it is not about one.
    """

    def __init__(self, message: str, *, table: str = "", key: str = "", column: str = "") -> None:
        super().__init__(message)
        self.table = table
        self.key = key
        self.column = column


class TableFullError(TableError):
    """Every row is taken, and the key has none."""


class TableValueError(TableError, ValueError):
    """A key or value is too long, the key is empty, or there is no such column."""


class TableTypeError(TableError, TypeError):
    """A key, row or value has a type that the table does not hold there."""


class TableOverflowError(TableError, OverflowError):
    """A number is outside what 64 bits hold. The row is as it was."""


class TableClosedError(TableError):
    """The table was closed here, or destroyed by any process."""


class PipeTimeoutError(KitError, TimeoutError):
    """A message did not come, or could not be sent, in time.

    Attributes:
        begun: Whether a part of it has come, or has gone out. The next `recv` goes on with what has come. The
            rest of what has gone out in part goes before the next message, so it is not to be sent again.
    """

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun


class ManagerError(KitError):
    """A manager cannot do what it was asked."""


class AlreadyRunningError(ManagerError):
    """A manager of this name runs.

    Attributes:
        pid: Of its master; 0 if it is just starting.
        since: When it was started, by `time.time()`.
    """

    def __init__(self, message: str, *, pid: int = 0, since: float = 0.0) -> None:
        super().__init__(message)
        self.pid = pid
        self.since = since


class NotRunningError(ManagerError):
    """No manager of this name runs."""


class ManagerConfigError(ManagerError, ValueError):
    """An option of a manager makes no sense.

    Attributes:
        option: Its name.
    """

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class ServiceError(KitError):
    """A service of topics cannot do what it was asked."""


class ServiceConfigError(ServiceError, ValueError):
    """The configuration of a service makes no sense.

    Attributes:
        file: That it was read from; `""` if it was not.
        key: What is wrong there, such as `topics.0.timeout`; `""` if it is not about one.
    """

    def __init__(self, message: str, *, file: str = "", key: str = "") -> None:
        super().__init__(message)
        self.file = file
        self.key = key


class BrokerError(ServiceError):
    """The broker refused, or what it holds makes no sense.

    Attributes:
        broker: Its URL, without a password.
    """

    def __init__(self, message: str, *, broker: str = "") -> None:
        super().__init__(message)
        self.broker = broker


class BrokerUnavailableError(BrokerError):
    """The broker cannot be reached, or does not answer just now; calling again may go well, and is safe."""


class DuplicateJobError(ServiceError):
    """A job of this id is there, or was there not long ago.

    Attributes:
        job_id: The id.
    """

    def __init__(self, message: str, *, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class PayloadError(ServiceError, ValueError):
    """An argument or a result cannot be written in the encoding that is used, or not be read."""


class CheckpointError(KitError):
    """A checkpoint cannot be read or written, is in use, or belongs to another worker or other inputs.

    Attributes:
        path: The file.
        position: Of the input that differs; None if it is not about one.
    """

    def __init__(self, message: str, *, path: str = "", position: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.position = position


class IpcError(KitError, OSError):
    """The system refused shared memory or a semaphore.

    Attributes:
        errno: The system's error number.
        limit: Name of the kernel limit that was hit, such as `kernel.shmmni`; `""` if none was.
    """

    def __init__(self, errno: int, message: str, *, limit: str = "") -> None:
        super().__init__(errno, message)
        self.limit = limit


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, in words: "exited with 3", "was killed by SIGSEGV"."""
    if exitcode is None:
        return "ended with an unknown status"
    if exitcode >= 0:
        return f"exited with {exitcode}"
    return f"was killed by {_signal_name(exitcode)}"


def _signal_name(exitcode: int) -> str:
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
