"""The worker that runs the jobs of a topic: the user's, or one that makes the calls which jobs name."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from multiprocessing_kit.errors import PayloadError
from multiprocessing_kit.service.topic_config import TopicConfig
from multiprocessing_kit.worker import FunctionWorker, Worker, as_worker

__all__ = ["CallWorker", "loaded", "topic_worker"]

_EXPECTED = "a worker is a Worker subclass, an instance of one, or a function of one argument"


def loaded(reference: str) -> Any:
    """What MODULE:NAME stands for.

    Raises:
        ImportError, AttributeError: There is none.
    """
    module, _, name = reference.partition(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def topic_worker(topic: TopicConfig) -> Worker:
    """The worker that runs the jobs of a topic, with the topic's retries unless it has its own.

    Raises:
        ImportError, AttributeError, TypeError: There is none, or it cannot be called with a job's argument.
    """
    worker = CallWorker(topic) if topic.worker is None else _worker_of(loaded(topic.worker))
    worker.name = worker.name or topic.name
    if worker.retry is None:
        worker.retry = topic.retry.strategy()
    return worker


def _worker_of(found: Any) -> Worker:
    if isinstance(found, type):
        if not issubclass(found, Worker):
            what = f"{found.__name__} is a class, but none of Worker's subclasses"
            raise TypeError(f"{what}; {_EXPECTED}")
        found = found()
    worker = as_worker(found)
    is_function = isinstance(worker, FunctionWorker)
    if not is_function and getattr(worker.process, "__func__", None) is Worker.process:
        raise TypeError(f"{type(worker).__name__} has no process(argument) of its own, which does a job")
    called = worker.function if isinstance(worker, FunctionWorker) else worker.process
    try:
        signature = inspect.signature(called)
    except (ValueError, TypeError):
        return worker  # not every built-in one tells
    try:
        signature.bind(None)
    except TypeError as error:
        name = worker.name if is_function else f"{type(worker).__name__}.process"
        raise TypeError(f"{name}{signature} is called with one argument, the job's: {error}") from error
    return worker


class CallWorker(Worker):
    """Runs jobs that name what to call: {"class": "module:Class", "method": "send", "params": [] or {}}.

    Without a class, "method" is MODULE:NAME of a function. Only what the topic's `calls` allow is imported.
    """

    def __init__(self, topic: TopicConfig) -> None:
        super().__init__(topic.name)
        self._allowed = topic.calls

    def process(self, argument: Any) -> Any:
        """Call it."""
        owner, method, params = argument.get("class"), argument["method"], argument.get("params", [])
        function: Callable[..., Any]
        if owner is not None:
            function = getattr(loaded(owner)(), method)
        else:
            function = loaded(method)
        return function(**params) if isinstance(params, dict) else function(*params)

    def check(self, argument: Any) -> None:
        """See that it is a call, and may be made.

        Raises:
            PayloadError: It is none, or may not.
        """
        if not isinstance(argument, dict) or not isinstance(argument.get("method"), str):
            raise PayloadError(f"a call is {{class, method, params}}, and not {argument!r:.200}")
        owner, method = argument.get("class"), argument["method"]
        if not isinstance(argument.get("params", []), (dict, list, tuple)):
            raise PayloadError(f"params are an array or an object, and not {argument['params']!r:.200}")
        reference = f"{owner}.{method}" if owner is not None else method
        if not any(_allows(pattern, reference) for pattern in self._allowed):
            raise PayloadError(f"call of {reference!r:.200} is not allowed; the topic allows {self._allowed}")


def _allows(pattern: str, reference: str) -> bool:
    """Whether one of a topic's `calls` is this one, or stands for it."""
    if not pattern.endswith(".*"):
        return reference == pattern
    owner, _, name = reference.rpartition(".")
    # One name: by more of them, such as `send.__globals__.get`, all that a module has could be reached.
    return owner == pattern[:-2] and name[:1] not in ("", "_")
