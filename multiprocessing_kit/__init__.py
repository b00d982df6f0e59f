"""Runs jobs across forked processes and loses none of them.

>>> from multiprocessing_kit import Process, Worker
>>> class Square(Worker):
...     def process(self, number):
...         return number * number
>>> [response.body for response in Process(2).map(Square(), [1, 2, 3])]
[1, 4, 9]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from multiprocessing_kit import events
from multiprocessing_kit.errors import (
    AlreadyRunningError,
    BrokerError,
    BrokerUnavailableError,
    CheckpointError,
    ChildError,
    ChildTimeoutError,
    DuplicateJobError,
    IpcError,
    JobCanceledError,
    JobError,
    JobTimeoutError,
    KitError,
    LockerError,
    ManagerConfigError,
    ManagerError,
    NotRunningError,
    PayloadError,
    PipeTimeoutError,
    PoolClosedError,
    PoolError,
    PoolFullError,
    QueueClosedError,
    QueueEmptyError,
    QueueError,
    QueueFullError,
    RemoteError,
    RetriesExhaustedError,
    SerializationError,
    ServiceConfigError,
    ServiceError,
    TableClosedError,
    TableError,
    TableFullError,
    TableOverflowError,
    TableTypeError,
    TableValueError,
    WorkerLostError,
)
from multiprocessing_kit.events import JobEvent
from multiprocessing_kit.lifecycle import JobStatus
from multiprocessing_kit.observer import Observer
from multiprocessing_kit.process import Process
from multiprocessing_kit.queues import (
    FifoQueue,
    LifoQueue,
    NullQueue,
    PriorityQueue,
    Queue,
    SharedMemQueue,
)
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.responses import Responses
from multiprocessing_kit.retry import RetryStrategy, RetryType
from multiprocessing_kit.worker import Worker

if TYPE_CHECKING:
    from multiprocessing_kit.child import Child, current_child, delay
    from multiprocessing_kit.child_events import ChildEvent
    from multiprocessing_kit.executor import ForkExecutor
    from multiprocessing_kit.lockers import (
        ConditionLocker,
        FileLocker,
        Locker,
        LockOwner,
        MutexLocker,
        ReentrantLocker,
        RWLocker,
        SemaphoreLocker,
        SpinLocker,
    )
    from multiprocessing_kit.manager import Manager, ManagerGroup
    from multiprocessing_kit.pipe import Pipe, PipeEnd
    from multiprocessing_kit.pool import Pool
    from multiprocessing_kit.service import Client
    from multiprocessing_kit.shared import Shared
    from multiprocessing_kit.supervise.signal_listener import SignalListener

__all__ = [
    "AlreadyRunningError",
    "BrokerError",
    "BrokerUnavailableError",
    "CheckpointError",
    "Child",
    "ChildError",
    "ChildEvent",
    "ChildTimeoutError",
    "Client",
    "ConditionLocker",
    "DuplicateJobError",
    "FifoQueue",
    "FileLocker",
    "ForkExecutor",
    "IpcError",
    "JobCanceledError",
    "JobError",
    "JobEvent",
    "JobResponse",
    "JobStatus",
    "JobTimeoutError",
    "KitError",
    "LifoQueue",
    "LockOwner",
    "Locker",
    "LockerError",
    "Manager",
    "ManagerConfigError",
    "ManagerError",
    "ManagerGroup",
    "MutexLocker",
    "NotRunningError",
    "NullQueue",
    "Observer",
    "PayloadError",
    "Pipe",
    "PipeEnd",
    "PipeTimeoutError",
    "Pool",
    "PoolClosedError",
    "PoolError",
    "PoolFullError",
    "PriorityQueue",
    "Process",
    "Queue",
    "QueueClosedError",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "RWLocker",
    "ReentrantLocker",
    "RemoteError",
    "Response",
    "Responses",
    "RetriesExhaustedError",
    "RetryStrategy",
    "RetryType",
    "SemaphoreLocker",
    "SerializationError",
    "ServiceConfigError",
    "ServiceError",
    "Shared",
    "SharedMemQueue",
    "SignalListener",
    "SpinLocker",
    "TableClosedError",
    "TableError",
    "TableFullError",
    "TableOverflowError",
    "TableTypeError",
    "TableValueError",
    "Worker",
    "WorkerLostError",
    "current_child",
    "delay",
    "events",
]

# Imported when first asked for: who runs a `Process` does not wait for them.
_LATER = {
    "child": ("Child", "current_child", "delay"),
    "child_events": ("ChildEvent",),
    "executor": ("ForkExecutor",),
    "lockers": (
        "ConditionLocker",
        "FileLocker",
        "LockOwner",
        "Locker",
        "MutexLocker",
        "RWLocker",
        "ReentrantLocker",
        "SemaphoreLocker",
        "SpinLocker",
    ),
    "manager": ("Manager", "ManagerGroup"),
    "service": ("Client",),
    "pipe": ("Pipe", "PipeEnd"),
    "pool": ("Pool",),
    "shared": ("Shared",),
    "supervise.signal_listener": ("SignalListener",),
}
_HOMES = {name: home for home, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
