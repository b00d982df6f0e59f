"""A master in the background, and what its starter hears of its start.

    starter ── fork, new session, fork ──▶ master
       ▲                                     │ it is ready, or why not, or its end
       └───────────────── pipe ◀─────────────┘

Working directory, umask and open files stay what they were, so that the program's own paths and files go on
to mean the same; only standard input, output and error are no longer the terminal's.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

from multiprocessing_kit.errors import KitError, ManagerError
from multiprocessing_kit.manager.safe_files import open_private
from multiprocessing_kit.supervise.descriptors import close_private, make_private
from multiprocessing_kit.supervise.fork import flush_stdio

__all__ = ["start_in_background"]

_Run = Callable[[Callable[[str], None]], int]


def start_in_background(name: str, run: _Run, output: Path, patience: float) -> str:
    """Have `run` called in a process that nothing ties to this one.

    Args:
        name: Of the manager, for messages.
        run: Given a function to call with a text once it is ready; returns the exit status.
        output: What the background writes to stdout and stderr is appended to this file.
        patience: Seconds that it may take to become ready.

    Returns:
        The text.

    Raises:
        ManagerError: It ended before, takes longer, or the file cannot be opened.
        KitError: What `run` raised.
    """
    log = open_private(output, "runtime_dir", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    reading, writing = os.pipe()
    flush_stdio()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.setsid()
        if os.fork():  # its child is no leader of the session, and never gets a terminal again
            os._exit(0)
        os._exit(_live(run, log, writing))
    os.close(writing)
    os.close(log)
    with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored
        os.waitpid(pid, 0)
    with open(reading, "rb", buffering=0) as pipe:
        return _heard(name, pipe, patience)


def _live(run: _Run, log: int, pipe: int) -> int:
    status = 1
    make_private(pipe)  # workers must not keep it open after the master's end
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, standard)
        os.close(nothing)
        os.close(log)
        status = run(lambda text: _tell(pipe, text))
    except KitError as error:
        _tell(pipe, error=error)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    flush_stdio()
    return status


def _tell(pipe: int, ready: str = "", error: KitError | None = None) -> None:
    with contextlib.suppress(OSError):  # the starter is gone
        os.write(pipe, pickle.dumps((ready, error)))
    close_private(pipe)


def _heard(name: str, pipe: IO[bytes], patience: float) -> str:
    if not select.select([pipe], [], [], patience)[0]:
        raise ManagerError(f"manager {name!r} is not ready after {patience:g} s; it goes on starting")
    data = pipe.read(65536)
    if not data:
        raise ManagerError(f"manager {name!r} ended before it was ready; see its log")
    ready, error = pickle.loads(data)  # our own child's
    if error is not None:
        raise error
    return str(ready)
