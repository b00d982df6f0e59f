"""`mpkit http`: the door of a service for other programs."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from multiprocessing_kit.cli.options import as_json, config_file, detach
from multiprocessing_kit.errors import ServiceConfigError

if TYPE_CHECKING:
    from multiprocessing_kit.service.http.server import HttpService

__all__ = ["http"]


@click.group()
def http() -> None:
    """HTTP for the topics of a service: [http] in its configuration.

    Exit codes: 0 done, 1 could not be done, 2 wrong usage, 3 not running, 75 running already, 78 the
    configuration makes no sense.
    """


def _command(text: str, *options: Callable[[Any], Any]) -> Callable[[Callable[..., None]], None]:
    def add(act: Callable[..., None]) -> None:
        def call(file: str, **given: Any) -> None:
            with _loaded(file) as service:
                act(service, **given)

        made = functools.reduce(lambda done, option: option(done), (*options, config_file), call)
        http.add_command(click.command(act.__name__.strip("_"), help=text)(made))

    return add


@contextlib.contextmanager
def _loaded(file: str) -> Iterator[HttpService]:
    try:
        # Slow to import, and not all that have this command have what it needs.
        from multiprocessing_kit.cli.service_commands import exit_codes  # noqa: PLC0415
        from multiprocessing_kit.service.config_file import ConfigFile, Problem  # noqa: PLC0415
        from multiprocessing_kit.service.http.server import HttpService  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "multiprocessing_kit":
            raise
        text = f"HTTP needs {error.name}: pip install 'multiprocessing_kit[service]'"
        raise click.ClickException(text) from error
    with exit_codes():
        found = ConfigFile(file)
        try:
            yield HttpService(found.config)
        except ServiceConfigError as error:
            key = tuple(filter(None, error.key.split(".")))
            raise found.error([Problem(key, str(error).removeprefix(f"{error.key}: "))]) from error


@_command("Start it, in the foreground unless --detach is given.", detach)
def _start(service: HttpService, detach: bool) -> None:
    service.check()
    if detach:
        service.manager.start()
        click.echo(f"manager {service.manager.name!r} listens at {service.address}")
    else:
        sys.exit(service.manager.run())


@_command("Answer what is asked already, then end it.")
def _stop(service: HttpService) -> None:
    service.manager.stop()


@_command("Go on with the configuration and the code as they are now.")
def _restart(service: HttpService) -> None:
    service.manager.restart()


@_command("Tell how it is.", as_json)
def _status(service: HttpService, as_json: bool) -> None:
    status = service.manager.status()
    if as_json:
        click.echo(json.dumps({"address": service.address, **status.as_dict()}, indent=2))
    else:
        table = status.table(without=("STATE", "CALLS"))  # it is always at its only one
        click.echo(f"{service.address}\n{table}")
