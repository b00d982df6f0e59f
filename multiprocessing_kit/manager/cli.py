"""The commands of a manager, for `mpkit manage` and for programs of the user's own.

Exit codes: 0 done, 1 could not be done, 2 wrong usage, 3 not running, 75 running already, 78 wrong options.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from multiprocessing_kit.errors import AlreadyRunningError, ManagerConfigError, ManagerError, NotRunningError
from multiprocessing_kit.manager.unit import EXIT_ALREADY_RUNNING, EXIT_CONFIG, systemd_unit

if TYPE_CHECKING:
    from multiprocessing_kit.manager.group import ManagerGroup
    from multiprocessing_kit.manager.manager import Manager

    AnyManager: TypeAlias = Manager | ManagerGroup

__all__ = ["commands"]

EXIT_FAILED, EXIT_NOT_RUNNING = 1, 3

_NEED_THE_PROGRAM = ("run", "start", "systemd")

_STATUSES = [
    (AlreadyRunningError, EXIT_ALREADY_RUNNING),
    (NotRunningError, EXIT_NOT_RUNNING),
    (ManagerConfigError, EXIT_CONFIG),
    (ManagerError, EXIT_FAILED),
]


def commands(manager: AnyManager | Callable[[str], AnyManager]) -> click.Group:
    """All of them.

    Args:
        manager: Whom they are for. Or a function that finds it by the argument that all commands take then,
            MODULE:OBJECT or the name of one that runs.
    """
    group = click.Group("manage", help="Workers that are always there, under one master.")

    find: Callable[[str], AnyManager] | None = manager if inspect.isfunction(manager) else None

    def _found(command: str, reference: str) -> AnyManager:
        assert find is not None
        if command in _NEED_THE_PROGRAM and ":" not in reference:
            raise click.UsageError(f"{command} needs MODULE:OBJECT; a name stands for a manager that runs")
        return find(reference)

    def add(name: str, text: str, act: Callable[..., None], *options: Callable[[Any], Any]) -> None:
        def call(**given: Any) -> None:
            with _exit_codes():
                act(_found(name, given.pop("manager")) if find is not None else manager, **given)

        decorated: Any = call
        for option in reversed(options):
            decorated = option(decorated)
        if find is not None:
            decorated = click.argument("manager", metavar="MODULE:OBJECT|NAME")(decorated)
        group.add_command(click.command(name, help=text)(decorated))

    detach = click.option("-d", "--detach", is_flag=True, help="In the background; returns when it is ready.")
    as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
    workers = click.argument("workers", type=click.IntRange(1))
    add("run", "Run in the foreground.", _run)
    add("start", "Start it, in the foreground unless --detach is given.", _start, detach)
    add("stop", "Let running work end, then end it.", _each("stop"))
    add("exit", "End it at once.", _each("exit"))
    add("restart", "Go on with new code; workers are replaced one by one.", _each("restart"))
    add("reload", "Replace the workers one by one.", _each("reload"))
    add("wakeup", "End every worker's sleep.", _each("wakeup"))
    add("scale", "Have so many WORKERS until the next start.", _scale, workers)
    add("status", "Tell how it is.", _status, as_json)
    add("systemd", "Print a unit for systemd.", _systemd)
    return group


def _run(manager: AnyManager) -> None:
    sys.exit(_single(manager, "run").run())


def _start(manager: AnyManager, detach: bool) -> None:
    if isinstance(manager, Iterable):
        manager.start()
    elif detach:
        click.echo(manager.start())
    else:
        _run(manager)


def _each(name: str) -> Callable[[AnyManager], None]:
    def act_on(manager: AnyManager) -> None:
        if not isinstance(manager, Iterable):
            getattr(manager, name)()
            return
        errors = []
        for one in manager:
            try:
                getattr(one, name)()
            except NotRunningError:
                pass
            except ManagerError as error:  # the others are not to wait for it
                errors.append(str(error))
        if errors:
            raise ManagerError("; ".join(errors))

    return act_on


def _scale(manager: AnyManager, workers: int) -> None:
    _single(manager, "scale").scale(workers)


def _status(manager: AnyManager, as_json: bool) -> None:
    if isinstance(manager, Iterable):
        found = manager.status()
    else:
        found = {manager.name: manager.status()}
    if as_json:
        data = {name: status and status.as_dict() for name, status in found.items()}
        click.echo(json.dumps(data if isinstance(manager, Iterable) else data[manager.name], indent=2))
    else:
        for name, status in found.items():
            click.echo(status.table() if status else f"{name}: not running")


def _systemd(manager: AnyManager) -> None:
    one = _single(manager, "systemd")
    words = list(sys.orig_argv[1:])
    at = len(words) - 1 - words[::-1].index("systemd")
    words[at] = "run"
    click.echo(systemd_unit(one.settings, [sys.executable, *words], os.getcwd()), nl=False)


def _single(manager: AnyManager, command: str) -> Manager:
    if isinstance(manager, Iterable):
        raise ManagerError(f"{command} is for one manager, not for a group of {len(manager)}")
    return manager


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except ManagerError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(next(status for kind, status in _STATUSES if isinstance(error, kind)))
