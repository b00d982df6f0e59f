"""Jobs that are calls of any function: what pools and executors run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from multiprocessing_kit.ipc.codec import PackedException, pack_exception
from multiprocessing_kit.response import JobResponse, is_response
from multiprocessing_kit.worker import Worker

__all__ = ["Call", "CallWorker", "call_each", "chunks"]

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""Function, arguments, keyword arguments."""


class CallWorker(Worker):
    """Makes calls.

    Args:
        name: For the children's titles.
        initializer: Called once in each child before its first call, with `initargs`.
    """

    def __init__(
        self, name: str = "", initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(name)
        self._initializer = initializer
        self._initargs = initargs

    def setup(self) -> None:
        """Call the initializer."""
        if self._initializer is not None:
            self._initializer(*self._initargs)

    def process(self, argument: Call) -> Any:
        """Make the call. What looks like a `Response` is what was returned, and no more."""
        function, args, kwargs = argument
        result = function(*args, **kwargs)
        return JobResponse(result) if is_response(result) and function is not call_each else result


def call_each(
    function: Callable[..., Any], items: Iterable[Any], star: bool
) -> JobResponse | tuple[list[Any], PackedException | None]:
    """Call the function for each item until one call raises.

    Args:
        function: Of one argument; with `star`, of as many as an item has.
        items: The arguments.
        star: Whether an item is a tuple of arguments.

    Returns:
        What the calls returned before that, and what it raised, fit to travel: as the body of a failed
        response, if one did.
    """
    results: list[Any] = []
    try:
        if star:
            for item in items:
                results.append(function(*item))
        else:
            results.extend(map(function, items))
    except Exception as error:
        return JobResponse((results, pack_exception(error)), exit_code=1)
    return results, None


def chunks(items: Sequence[Any], processes: int, size: int | None) -> Iterable[Sequence[Any]]:
    """Cut the items into parts.

    Without a size, each is a share of what is left, so that they become smaller towards the end and the
    children finish together (guided self-scheduling, Polychronopoulos and Kuck 1987).

    Args:
        items: All.
        processes: Who shares them.
        size: Items in each part; None to adapt.
    """
    at, count = 0, len(items)
    while at < count:
        part = size or max(1, (count - at) // (4 * processes))
        yield items[at : at + part]
        at += part
