"""Values whose own code raises while they are pickled or unpickled."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["Reduces", "Restores"]


class Reduces:
    """Raises when pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


class Restores:
    """Raises when unpickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __setstate__(self, state: dict[str, Any]) -> NoReturn:
        raise state["error"]
