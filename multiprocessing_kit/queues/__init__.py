"""Queues between processes, all with the interface of `queue.Queue`."""

from multiprocessing_kit.queues.base import Queue
from multiprocessing_kit.queues.fifo import FifoQueue
from multiprocessing_kit.queues.lifo import LifoQueue
from multiprocessing_kit.queues.null import NullQueue
from multiprocessing_kit.queues.priority import PriorityQueue
from multiprocessing_kit.queues.shared_mem import SharedMemQueue

__all__ = ["FifoQueue", "LifoQueue", "NullQueue", "PriorityQueue", "Queue", "SharedMemQueue"]
