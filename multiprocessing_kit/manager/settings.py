"""What a manager may be told, checked before anything is forked."""

from __future__ import annotations

import grp
import math
import os
import pwd
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from multiprocessing_kit.errors import ManagerConfigError
from multiprocessing_kit.queues import Queue
from multiprocessing_kit.supervise.respawn import RECYCLED, RespawnPolicy, When
from multiprocessing_kit.worker import Worker

__all__ = ["MOST_WORKERS", "Settings"]

MOST_WORKERS = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECONDS = ("execute_sleep", "limit_seconds", "stop_timeout", "check_interval", "healthy_seconds")
_COUNTS = ("execute_times", "respawn_limit")


@dataclass(frozen=True)
class Settings:
    """Of one manager. Raises `ManagerConfigError`, which names the option, for what makes no sense.

    Attributes:
        name: Of the manager: letters, digits, dots, dashes; in titles and file names.
        workers: How many.
        target: The work; called with a `Context` again and again. Or a `Worker`, for jobs of a `source`.
        source: For a `Worker`: a queue of inputs, or a function that is called with the `Context` and gives
            the next input, None while there is none.
        init: Called with it once in each worker.
        respawn: Which ends of a worker are followed by a new one: "always", "on-failure", "never".
        normal_exit_code: Exit status of an orderly end, or several.
        fatal_exit_code: Exit status after which a worker is not started again, or several.
        execute_times: Calls of `target` in a worker's life, after which it ends in order; 0: no limit.
        execute_sleep: Seconds between two calls.
        limit_seconds: A worker's longest life, after which it is replaced; looked at between calls, up to
            a tenth less by chance; 0: no limit.
        max_memory: Bytes a worker may have resident between calls; beyond them it is replaced.
        check_interval: Seconds between two lines about the manager's state in the log; 0: none.
        stop_timeout: Seconds that running work has at a stop, before it is interrupted, and then killed.
        backoff: Seconds before the second start in a row, and at most; doubled from the one to the other.
        healthy_seconds: So many seconds after `init` a worker's failures so far are forgotten.
        respawn_limit: Failures in a row after which a worker is given up; 0: never.
        lock_file: Locked while the manager runs; by default in `runtime_dir`.
        runtime_dir: For lock, socket and such; by default the user's or the system's.
        title_prefix: Begins the process titles.
        user, group: To become, by name or number; by default who starts it.
        umask: To set; by default that of who starts it.
    """

    name: str
    workers: int
    target: Callable[[Any], object] | Worker
    source: Queue[Any] | Callable[[Any], Any] | None = None
    init: Callable[[Any], object] | None = None
    respawn: str = "on-failure"
    normal_exit_code: int | Iterable[int] = 0
    fatal_exit_code: int | Iterable[int] = ()
    execute_times: int = 0
    execute_sleep: float = 0.2
    limit_seconds: float = 0.0
    max_memory: int | None = None
    check_interval: float = 300.0
    stop_timeout: float = 10.0
    backoff: tuple[float, float] = (1.0, 60.0)
    healthy_seconds: float = 10.0
    respawn_limit: int = 10
    lock_file: str | os.PathLike[str] | None = None
    runtime_dir: str | os.PathLike[str] | None = None
    title_prefix: str = "mpkit"
    user: str | int | None = None
    group: str | int | None = None
    umask: int | None = None
    policy: RespawnPolicy = field(init=False)
    uid: int | None = field(init=False)
    gid: int | None = field(init=False)

    @classmethod
    def checked(cls, name: str, options: dict[str, Any]) -> Settings:
        """From keyword arguments, of which one may be unknown or missing."""
        known = [option.name for option in fields(cls) if option.init and option.name != "name"]
        for option in options:
            if option not in known:
                raise _wrong(option, f"there is no such option; there are {', '.join(known)}")
        for option in ("workers", "target"):
            if option not in options:
                raise _wrong(option, "it must be given")
        return cls(name, **options)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise _wrong("name", f"{self.name!r} is not 1 to 64 letters, digits, dots and dashes")
        _whole("workers", self.workers, 1, MOST_WORKERS)
        self._check_work()
        for option in _SECONDS:
            _seconds(option, getattr(self, option))
        for option in _COUNTS:
            _whole(option, getattr(self, option), 0)
        if self.max_memory is not None:
            _whole("max_memory", self.max_memory, 1)
        if self.umask is not None:
            _whole("umask", self.umask, 0, 0o777)
        for option in ("lock_file", "runtime_dir"):
            _path(option, getattr(self, option))
        if not isinstance(self.title_prefix, str) or "\0" in self.title_prefix:
            raise _wrong("title_prefix", f"{self.title_prefix!r:.100} is no text for a process title")
        object.__setattr__(self, "policy", self._policy())
        object.__setattr__(self, "uid", _user(self.user))
        object.__setattr__(self, "gid", _group(self.group))

    def _check_work(self) -> None:
        if self.init is not None and not callable(self.init):
            raise _wrong("init", f"{self.init!r:.100} is not callable")
        if isinstance(self.target, Worker):
            if not isinstance(self.source, Queue) and not callable(self.source):
                what = "a Worker needs a queue, or a function that gives the next input"
                raise _wrong("source", f"{what}, and not {self.source!r:.100}")
        elif isinstance(self.target, type) and issubclass(self.target, Worker):
            raise _wrong("target", f"{self.target.__name__} is a class; give one of its workers")
        elif not callable(self.target):
            raise _wrong("target", f"{self.target!r:.100} is neither callable nor a Worker")
        elif self.source is not None:
            raise _wrong("source", "only a Worker as target takes its inputs from a source")

    def _policy(self) -> RespawnPolicy:
        try:
            when = When(self.respawn)
        except ValueError:
            known = ", ".join(repr(known.value) for known in When)
            raise _wrong("respawn", f"{self.respawn!r} is none of {known}") from None
        if not isinstance(self.backoff, (tuple, list)) or len(self.backoff) != 2:
            raise _wrong("backoff", f"{self.backoff!r} is not (first seconds, longest seconds)")
        for seconds in self.backoff:
            _seconds("backoff", seconds)
        return RespawnPolicy(
            when,
            _codes("normal_exit_code", self.normal_exit_code),
            _codes("fatal_exit_code", self.fatal_exit_code),
            *self.backoff,
            self.healthy_seconds,
            self.respawn_limit,
        )

    @property
    def orderly(self) -> int:
        """The exit status of a worker that has done all its calls."""
        return min(self.policy.normal, default=0)


def _codes(option: str, value: int | Iterable[int]) -> frozenset[int]:
    codes = (value,) if isinstance(value, int) else value
    try:
        found = frozenset(codes)
    except TypeError:
        raise _wrong(option, f"{value!r:.100} is neither a number nor a set of numbers") from None
    for code in found:
        _whole(option, code, 0, 255)
        if code == RECYCLED:
            raise _wrong(option, f"{code} is what a worker that is to be replaced exits with")
    return found


def _user(user: str | int | None) -> int | None:
    if user is None:
        return None
    try:
        return pwd.getpwuid(user).pw_uid if isinstance(user, int) else pwd.getpwnam(user).pw_uid
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _wrong("user", f"there is no user {user!r:.100} on this system") from None


def _group(group: str | int | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrgid(group).gr_gid if isinstance(group, int) else grp.getgrnam(group).gr_gid
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _wrong("group", f"there is no group {group!r:.100} on this system") from None


def _path(option: str, value: object) -> None:
    if value is None:
        return
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise _wrong(option, f"{value!r:.100} is not a path")


def _whole(option: str, value: object, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or value > (most or value):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise _wrong(option, f"{value!r:.100} is not a whole number, {limits}")


def _seconds(option: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise _wrong(option, f"{value!r:.100} is not a number of seconds, 0 or more")


def _wrong(option: str, what: str) -> ManagerConfigError:
    return ManagerConfigError(f"option {option}: {what}", option=option)
