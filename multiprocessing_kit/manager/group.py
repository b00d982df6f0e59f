"""`ManagerGroup`: several managers under one command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from multiprocessing_kit.errors import AlreadyRunningError, ManagerError, NotRunningError
from multiprocessing_kit.manager.manager import Manager
from multiprocessing_kit.manager.status import Status

if TYPE_CHECKING:
    import click

__all__ = ["ManagerGroup"]


class ManagerGroup:
    """Managers by name, in the order they were added. Each is a master of its own, in the background.

    What is done to all is done to each, also where one refuses; the errors come together at the end.

    Args:
        managers: To begin with.

    Raises:
        ManagerError: Two of them have one name.
    """

    def __init__(self, managers: Iterable[Manager] = ()) -> None:
        self._managers: dict[str, Manager] = {}
        for manager in managers:
            self.add(manager)

    def add(self, manager: Manager) -> Manager:
        """Add one, and return it.

        Raises:
            ManagerError: There is one of that name.
        """
        if manager.name in self._managers:
            raise ManagerError(f"there is a manager {manager.name!r} in this group already")
        self._managers[manager.name] = manager
        return manager

    def remove(self, name: str) -> Manager:
        """Take one out, and return it; if it runs, it goes on.

        Raises:
            ManagerError: There is none of that name.
        """
        manager = self.get(name)
        del self._managers[name]
        return manager

    def get(self, name: str) -> Manager:
        """The one of that name.

        Raises:
            ManagerError: There is none.
        """
        if name not in self._managers:
            known = ", ".join(self._managers) or "none"
            raise ManagerError(f"there is no manager {name!r} in this group; there are: {known}")
        return self._managers[name]

    def __iter__(self) -> Iterator[Manager]:
        return iter(list(self._managers.values()))

    def __len__(self) -> int:
        return len(self._managers)

    def start(self) -> None:
        """Start those that do not run, in the background.

        Raises:
            ManagerError: At least one could not be started.
        """
        self._each(Manager.start, AlreadyRunningError)

    def stop(self) -> None:
        """Stop those that run, as `Manager.stop` does.

        Raises:
            ManagerError: At least one did not end.
        """
        self._each(Manager.stop, NotRunningError)

    def restart(self) -> None:
        """Smoothly restart those that run, one after the other.

        Raises:
            ManagerError: At least one goes on as it was.
        """
        self._each(Manager.restart, NotRunningError)

    def status(self) -> dict[str, Status | None]:
        """That of each, by name; None for those that do not run.

        Raises:
            ManagerError: One does not answer.
        """
        found: dict[str, Status | None] = {}
        for manager in self:
            try:
                found[manager.name] = manager.status()
            except NotRunningError:
                found[manager.name] = None
        return found

    def cli(self) -> click.Group:
        """As `Manager.cli`, for all of them."""
        from multiprocessing_kit.manager.cli import commands  # noqa: PLC0415  # click is slow to import

        return commands(self)

    def _each(self, act: Callable[[Manager], object], fine: type[ManagerError]) -> None:
        errors = []
        for manager in self:
            try:
                act(manager)
            except fine:
                pass
            except ManagerError as error:
                errors.append(str(error))
        if errors:
            raise ManagerError("; ".join(errors))
