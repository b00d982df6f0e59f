"""`mpkit service`: the commands of a service. What they do is in `service_commands`.

That is imported by a command that runs, for `mpkit --help` is not to wait for pydantic and all the rest.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NoReturn

import click

from multiprocessing_kit.cli.options import as_json, config_file, detach

__all__ = ["service"]


@click.group()
def service() -> None:
    """Topics of jobs, over SQLite, Redis or RabbitMQ.

    Exit codes: 0 done, 1 could not be done, 2 wrong usage, 3 not running, 75 running already, 78 the
    configuration makes no sense.
    """


_topic = click.argument("topic")
_topics = click.argument("topics", nargs=-1, metavar="[TOPIC]...")
_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_everything = click.option("--all", "everything", is_flag=True, help="All dead letters of the topic.")


def _add(group: click.Group, name: str, text: str, *options: Any) -> None:
    prefix = "" if group is service else f"{group.name}_"

    def call(**given: Any) -> None:
        acting = _imported()
        with acting.exit_codes():
            getattr(acting, f"{prefix}{name}")(**given)

    command = functools.reduce(lambda made, option: option(made), reversed((config_file, *options)), call)
    group.add_command(click.command(name, help=text)(command))


def _imported() -> Any:
    try:
        return importlib.import_module("multiprocessing_kit.cli.service_commands")
    except ModuleNotFoundError as error:
        if error.name not in ("pydantic", "pydantic_core", "tomli"):
            raise
        _refuse(error.name)


def _refuse(module: str) -> NoReturn:
    text = f"a service needs {module}: pip install 'multiprocessing_kit[service]'"
    raise click.ClickException(text)


_add(service, "check", "Tell whether the configuration is fine, also what it imports.")
_add(
    service,
    "start",
    "Start it, in the foreground unless --detach is given.",
    detach,
)
_add(service, "stop", "Let running jobs end, then end it.")
_add(service, "exit", "End it at once; jobs that are cut off run again later.")
_add(service, "restart", "Go on with the configuration and the code as they are now.")
_add(service, "reload", "Replace the workers, with new code; the configuration stays as it is.")
_add(service, "pause", "Take no more jobs of these topics on this host, of all if none is named.", _topics)
_add(service, "resume", "Take jobs of these topics again, of all if none is named.", _topics)
_add(
    service,
    "status",
    "Tell how it is; of one that is not running, what the broker counts.",
    as_json,
    click.option("--watch", is_flag=True, help="Again every 2 seconds, until Ctrl-C."),
)
_add(
    service,
    "push",
    "Add a job to TOPIC, with the argument JSON, and print its id.",
    _topic,
    click.argument("argument", metavar="JSON"),
    click.option("--delay", type=click.FloatRange(0), metavar="SECONDS", help="Not before so long."),
    click.option("--at", metavar="TIME", help="Not before this time, such as 2030-01-31T08:00+01:00."),
    click.option("--priority", type=click.IntRange(-100, 100), default=0, help="Higher first; 0 by default."),
    click.option("--id", "job_id", metavar="ID", help="Its id; refused while a job has it that is not done."),
    click.option("--wait", type=click.FloatRange(0), metavar="SECONDS", help="For its result; print that."),
)
_add(
    service,
    "purge",
    "Drop the ready and delayed jobs of TOPIC.",
    _topic,
    click.confirmation_option(prompt="Drop the jobs that wait?", help="Do not ask."),
)
_add(service, "systemd", "Print a unit for systemd.")


@service.group()
def dead() -> None:
    """Jobs that have failed for good."""


_add(
    dead,
    "list",
    "List the dead letters of TOPIC, the oldest first.",
    _topic,
    click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many at most."),
)
_add(dead, "show", "Print dead letters with their history and argument.", _topic, _ids, _everything)
_add(dead, "retry", "Make dead letters ready again.", _topic, _ids, _everything)
_add(dead, "purge", "Drop dead letters.", _topic, _ids, _everything)
