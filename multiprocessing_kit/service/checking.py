"""Whether a configuration fits what is around it: environment, libraries, and the modules that it names."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from multiprocessing_kit.errors import KitError, ManagerConfigError, ServiceConfigError, describe_exit
from multiprocessing_kit.manager.safe_files import open_directory
from multiprocessing_kit.service.alerts import wrong_url
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.config import LOGS, ServiceConfig
from multiprocessing_kit.service.config_fields import from_environment
from multiprocessing_kit.service.config_file import ConfigFile, Problem
from multiprocessing_kit.service.service import Service
from multiprocessing_kit.service.toml_lines import Key
from multiprocessing_kit.service.topic_config import TopicConfig
from multiprocessing_kit.service.topic_worker import loaded, topic_worker
from multiprocessing_kit.supervise.fork import fork_child

__all__ = ["checked", "option_problem", "wrong_around", "wrong_imports", "wrong_imports_in_a_child"]

_PACKAGE = os.path.dirname(os.path.dirname(__file__))


def checked(path: str | os.PathLike[str]) -> ServiceConfig:
    """The configuration in a file, if a service could start with it here.

    A child process does what each worker does before its first job: it calls `setup` and makes the workers.

    Raises:
        ServiceConfigError: It could not; with a line for each reason.
    """
    file = ConfigFile(path)
    config = file.config
    problems = [*wrong_around(config), *_wrong_token(config), *_wrong_alerts(config)]
    if problems := [*problems, *wrong_imports_in_a_child(config)]:
        raise file.error(problems)
    return config


def wrong_around(config: ServiceConfig) -> list[Problem]:
    """What a service misses in the environment and the libraries; nothing is connected to or imported."""
    return list(_around(config))


def wrong_imports(config: ServiceConfig) -> list[Problem]:
    """What keeps workers from starting, found out by importing and making them in this process."""
    return list(_imports(config))


def option_problem(error: ManagerConfigError) -> Problem:
    """What a manager says of one of its options, by the service's key for it."""
    key = "log" if error.option == "logger" else error.option
    return Problem((key,), str(error).partition(": ")[2])


def _around(config: ServiceConfig) -> Iterator[Problem]:
    tries: list[tuple[Key, Callable[[], object]]] = [
        (("broker",), lambda: _broker(config)),
        (("secret",), config.payloads),
        (("log",), lambda: _log(config.log)),
        (("name",), lambda: Service(config)),
    ]
    for number, url in enumerate(config.alerts.urls if config.alerts is not None else ()):
        tries.append((("alerts", "urls", number), partial(from_environment, url, f"alerts.urls.{number}")))
    for where, call in tries:
        try:
            call()
        except ManagerConfigError as error:
            yield option_problem(error)
        except ServiceConfigError as error:
            yield Problem(where, str(error).removeprefix(f"{error.key}: "))
        except KitError as error:
            yield Problem(where, str(error))


def _wrong_token(config: ServiceConfig) -> Iterator[Problem]:
    """The door is another process than the service, which runs without its token."""
    try:
        if config.http is not None:
            from_environment(config.http.token, "http.token")
    except ServiceConfigError as error:
        yield Problem(("http", "token"), str(error).removeprefix(f"{error.key}: "))


def _broker(config: ServiceConfig) -> None:
    open_broker(config.broker_url, config.name).close()
    if config.broker_url.startswith("sqlite:"):
        from multiprocessing_kit.service.brokers.sqlite.database import Database  # noqa: PLC0415  # as there

        if why := Database(config.broker_url).unwritable():
            raise ServiceConfigError(why, key="broker")


def _log(log: str | None) -> None:
    """See that the file can be made or written, which it is not yet."""
    if log is None or log in LOGS:
        return
    path = Path(os.path.abspath(log))
    os.close(open_directory(path.parent, "log"))
    place = path if os.path.exists(path) else path.parent
    if not os.access(place, os.W_OK):
        raise ServiceConfigError(f"cannot write {place}", key="log")


def _wrong_alerts(config: ServiceConfig) -> Iterator[Problem]:
    """A service runs without them, and logs what they would have told."""
    for number, url in enumerate(config.alerts.urls if config.alerts is not None else ()):
        with contextlib.suppress(ServiceConfigError):  # it is not in the environment, which is told elsewhere
            what = wrong_url(from_environment(url, ""))
            if what:
                yield Problem(("alerts", "urls", number), what)


def wrong_imports_in_a_child(config: ServiceConfig) -> list[Problem]:
    """As `wrong_imports`, in a process of its own: its end is told too, and nothing is imported here."""
    with tempfile.TemporaryFile("w+") as file:

        def run(_liveness: int) -> int:
            json.dump(wrong_imports(config), file)
            file.flush()
            return 0

        child = fork_child(run, title=f"mpkit: check {config.name}")
        try:
            child.wait()
            exitcode = child.exitcode
        finally:
            child.kill()
            child.wait()
            child.close()
        file.seek(0)
        text = file.read()
    if not text:
        return [Problem((), f"a process that imports what it names {describe_exit(exitcode)}")]
    return [Problem(tuple(key), what) for key, what in json.loads(text)]


def _imports(config: ServiceConfig) -> Iterator[Problem]:
    if config.directory not in sys.path:
        sys.path.insert(0, config.directory)
    if config.setup is not None:
        what = _tried(_called, config.setup, config)
        if what:
            yield Problem(("setup",), what)
            return  # what it would have set up, the workers would miss
    for number, topic in enumerate(config.topics):
        if topic.worker is not None:
            what = _tried(partial(_made, topic), topic.worker, config)
            if what:
                yield Problem(("topics", number, "worker"), what)
        for index, call in enumerate(topic.calls):
            what = _tried(_found, call, config)
            if what:
                yield Problem(("topics", number, "calls", index), what)


def _called(reference: str) -> None:
    loaded(reference)()


def _found(call: str) -> None:
    loaded(call.removesuffix(".*"))


def _made(topic: TopicConfig, _reference: str) -> None:
    topic_worker(topic)


def _tried(act: Callable[[str], None], reference: str, config: ServiceConfig) -> str:
    try:
        act(reference)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also the SystemExit of a program that was no module
        return f"{reference!r}: {_told(error, reference, config)}"
    return ""


def _told(error: BaseException, reference: str, config: ServiceConfig) -> str:
    module = reference.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r} in {config.directory}, nor where Python looks"
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return what
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_PACKAGE, "<"))
    ]
    own = [frame for frame in frames if frame.filename.startswith(config.directory)] or frames
    return f"{what} ({own[-1].filename}:{own[-1].lineno})" if own else what
