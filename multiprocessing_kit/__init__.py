"""Runs jobs across forked processes and loses none of them.

>>> from multiprocessing_kit import Process, Worker
>>> class Square(Worker):
...     def process(self, number):
...         return number * number
>>> [response.body for response in Process(2).map(Square(), [1, 2, 3])]
[1, 4, 9]
"""

from multiprocessing_kit import events
from multiprocessing_kit.errors import (
    CheckpointError,
    IpcError,
    JobCanceledError,
    JobError,
    JobTimeoutError,
    KitError,
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
    WorkerLostError,
)
from multiprocessing_kit.events import JobEvent
from multiprocessing_kit.executor import ForkExecutor
from multiprocessing_kit.lifecycle import JobStatus
from multiprocessing_kit.observer import Observer
from multiprocessing_kit.pool import Pool
from multiprocessing_kit.process import Process
from multiprocessing_kit.queues import NullQueue, Queue, SharedMemQueue
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.responses import Responses
from multiprocessing_kit.retry import RetryStrategy, RetryType
from multiprocessing_kit.worker import Worker

__all__ = [
    "CheckpointError",
    "ForkExecutor",
    "IpcError",
    "JobCanceledError",
    "JobError",
    "JobEvent",
    "JobResponse",
    "JobStatus",
    "JobTimeoutError",
    "KitError",
    "NullQueue",
    "Observer",
    "Pool",
    "PoolClosedError",
    "PoolError",
    "PoolFullError",
    "Process",
    "Queue",
    "QueueClosedError",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "RemoteError",
    "Response",
    "Responses",
    "RetriesExhaustedError",
    "RetryStrategy",
    "RetryType",
    "SerializationError",
    "SharedMemQueue",
    "Worker",
    "WorkerLostError",
    "events",
]
