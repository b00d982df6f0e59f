"""`mpkit manage`: the commands of any manager, which the user names."""

from __future__ import annotations

import functools
import importlib
import os
import sys

import click

from multiprocessing_kit.manager import Manager, ManagerGroup
from multiprocessing_kit.manager.cli import commands

__all__ = ["manage"]


def _loaded(reference: str) -> Manager | ManagerGroup:
    """The manager or group that MODULE:OBJECT names; or one of this name in the default runtime directory."""
    module, colon, name = reference.partition(":")
    if not colon:
        return Manager(reference, workers=1)
    if not module or not name or module.startswith("."):
        raise click.UsageError(f"{reference!r} is not MODULE:OBJECT, such as shop.workers:mailer")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise click.UsageError(f"there is no module {module!r} here ({os.getcwd()})") from error
    try:
        found = functools.reduce(getattr, name.split("."), imported)
    except AttributeError as error:
        raise click.UsageError(f"module {module!r} has no {name!r}") from error
    if not isinstance(found, (Manager, ManagerGroup)):
        raise click.UsageError(f"{reference} is a {type(found).__name__}, not a Manager or ManagerGroup")
    return found


manage = commands(_loaded)
