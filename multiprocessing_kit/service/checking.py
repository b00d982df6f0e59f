"""Whether a configuration fits what is around it: environment, libraries, and the modules that it names."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial

from multiprocessing_kit.errors import KitError, ManagerConfigError, ServiceConfigError, describe_exit
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.config_fields import from_environment
from multiprocessing_kit.service.config_file import ConfigFile, Problem
from multiprocessing_kit.service.service import Service
from multiprocessing_kit.service.toml_lines import Key
from multiprocessing_kit.service.topic_config import TopicConfig
from multiprocessing_kit.service.work import loaded, topic_worker
from multiprocessing_kit.supervise.fork import fork_child

__all__ = ["checked", "option_problem", "wrong_around", "wrong_imports"]

_PACKAGE = os.path.dirname(os.path.dirname(__file__))


def checked(path: str | os.PathLike[str]) -> ServiceConfig:
    """The configuration in a file, if a service could start with it here.

    A child process does what each worker does before its first job: it calls `setup` and makes the workers.

    Raises:
        ServiceConfigError: It could not; with a line for each reason.
    """
    file = ConfigFile(path)
    if problems := [*wrong_around(file.config), *_in_a_child(file.config)]:
        raise file.error(problems)
    return file.config


def wrong_around(config: ServiceConfig) -> list[Problem]:
    """What is missing in the environment and the libraries; nothing is connected to, nothing imported."""
    return list(_around(config))


def wrong_imports(config: ServiceConfig) -> list[Problem]:
    """What keeps workers from starting, found out by importing and making them in this process."""
    return list(_imports(config))


def option_problem(error: ManagerConfigError) -> Problem:
    """What a manager says of one of its options, which have the names of the service's keys."""
    return Problem((error.option,), str(error).partition(": ")[2])


def _around(config: ServiceConfig) -> Iterator[Problem]:
    tries: list[tuple[Key, Callable[[], object]]] = [
        (("broker",), lambda: open_broker(config.broker_url, config.name).close()),
        (("secret",), config.payloads),
        (("name",), lambda: Service(config)),
    ]
    if config.http is not None:
        tries.append((("http", "token"), partial(from_environment, config.http.token, "http.token")))
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


def _in_a_child(config: ServiceConfig) -> list[Problem]:
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
