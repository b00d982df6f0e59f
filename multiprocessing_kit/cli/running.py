"""Services that run: what their managers say, in words of a service, and whose they are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from multiprocessing_kit.errors import (
    AlreadyRunningError,
    ManagerConfigError,
    ManagerError,
    NotRunningError,
    ServiceError,
)
from multiprocessing_kit.service.checking import option_problem
from multiprocessing_kit.service.config_file import ConfigFile
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.service import Service

__all__ = ["of_service", "own_service"]


@contextlib.contextmanager
def own_service(path: str) -> Iterator[Service]:
    """The service of a configuration, to be asked; raises in words of a service.

    Raises:
        ServiceError: One of its name runs here, of another configuration.
    """
    file = ConfigFile(path)
    with of_service(file):
        service = Service(file.config)
        _refuse_another(file, service)
        yield service


@contextlib.contextmanager
def of_service(file: ConfigFile) -> Iterator[None]:
    """What its manager raises, in words of the service, and with what to do."""
    name = file.config.name
    try:
        yield
    except ManagerConfigError as error:
        raise file.error([option_problem(error)]) from error
    except AlreadyRunningError as error:
        raise AlreadyRunningError(_already(file, error), pid=error.pid, since=error.since) from error
    except NotRunningError as error:
        hint = (
            "mpkit service start -d starts it. If it does run: name and runtime_dir in the file must be "
            "those that it was started with"
        )
        raise NotRunningError(f"{_reworded(error, name)}; {hint}") from error
    except ManagerError as error:
        raise ManagerError(_reworded(error, name)) from error


def _reworded(error: ManagerError, name: str) -> str:
    return str(error).replace(f"manager {name!r}", f"service {name!r}")


def _already(file: ConfigFile, error: AlreadyRunningError) -> str:
    who = "and just starting"
    if error.pid:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(error.since))
        who = f"as pid {error.pid} since {since}"
    noted = Paths(file.config).started().file
    using = f", with {noted}" if noted else ""
    hint = "mpkit service restart takes up changes"
    if _is_another(noted, file):
        hint = "give one of them another name or runtime_dir"
    return f"service {file.config.name!r} is running already {who}{using}; {hint}"


def _refuse_another(file: ConfigFile, service: Service) -> None:
    noted = Paths(file.config).started().file
    if not _is_another(noted, file):
        return
    with contextlib.suppress(NotRunningError):
        service.manager.status()
        raise ServiceError(
            f"service {file.config.name!r} runs with {noted}, not with {os.path.abspath(file.path)}: "
            f"give one of them another name or runtime_dir (-c {noted} is for the one that runs)"
        )


def _is_another(noted: str, file: ConfigFile) -> bool:
    """Not where the noted one is not known, or no longer there: the file of a service may be moved."""
    try:
        return bool(noted) and not os.path.samefile(noted, file.path)
    except OSError:
        return False
