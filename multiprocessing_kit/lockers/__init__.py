"""Locks between processes that are free again when their owner dies."""

from multiprocessing_kit.lockers.base import Locker, LockOwner
from multiprocessing_kit.lockers.condition import ConditionLocker
from multiprocessing_kit.lockers.file import FileLocker
from multiprocessing_kit.lockers.mutex import MutexLocker
from multiprocessing_kit.lockers.reentrant import ReentrantLocker
from multiprocessing_kit.lockers.rw import RWLocker
from multiprocessing_kit.lockers.semaphore import SemaphoreLocker
from multiprocessing_kit.lockers.spin import SpinLocker

__all__ = [
    "ConditionLocker",
    "FileLocker",
    "LockOwner",
    "Locker",
    "MutexLocker",
    "RWLocker",
    "ReentrantLocker",
    "SemaphoreLocker",
    "SpinLocker",
]
