"""Fork a child that starts clean and can end in one way only, `os._exit`.

    parent                                    child
    ──────                                    ─────
    flush stdout and stderr                   (they are copied with what they hold)
    hold every signal ──────┐
    fork ───────────────────┼───────────────▶ handlers back to default, then unblock
    note the pid            │                 tie its life to the parent's
    let them in ────────────┘                 new random seeds, no inherited exit work
                                              run(), flush, os._exit

No Python signal handler of the parent ever runs in the child, and no `KeyboardInterrupt` can come
between a fork and the note of its pid: the child is never lost. Who calls `fork_child` where handlers may
raise holds them until it has made its own note, too.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import traceback

# `signal` makes a member of an enum of each number, which takes 0.3 ms for all of them.
from _signal import SIG_BLOCK, SIG_SETMASK, getsignal, pthread_sigmask, valid_signals  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from multiprocessing_kit.supervise import death
from multiprocessing_kit.supervise.child import ForkedChild, have_pidfd
from multiprocessing_kit.supervise.descriptors import close_private, make_private
from multiprocessing_kit.supervise.held_signals import HeldSignals
from multiprocessing_kit.supervise.log_locks import no_thread_logs

__all__ = ["flush_stdio", "fork_child"]

_log = logging.getLogger("multiprocessing_kit.supervise")
_FAILED = 1


def fork_child(run: Callable[[int], int], *, title: str) -> ForkedChild:
    """Fork a child that calls `run` and exits with what it returns.

    Args:
        run: Runs in the child. Its argument is the read end of the liveness pipe: readable (at its
            end) once the parent is dead. What it raises is written to stderr, and the child exits with 1.
        title: The child's process title.

    Returns:
        The child, running.

    Raises:
        OSError: The system cannot fork (its message names the limit), or has no descriptor left.
    """
    import setproctitle  # noqa: PLC0415  # 20 ms, which only those who fork should pay

    death.prepare()
    by_main_thread = death.forked_by_main_thread()
    parent = os.getpid()
    flush_stdio()
    with HeldSignals(), no_thread_logs():
        pipes = _Pipes()
        mask = pthread_sigmask(SIG_BLOCK, valid_signals())
        try:
            pid = os.fork()
        except BaseException:
            pthread_sigmask(SIG_SETMASK, mask)
            pipes.close()
            raise
        if pid == 0:
            try:
                _reset_signals(mask)
                death.die_with_parent(parent, pipes.liveness_read, by_main_thread)
                _start_clean()
                setproctitle.setproctitle(title)
                _leave(run(pipes.liveness_read), parent)
            except BaseException:
                traceback.print_exc()
                _leave(_FAILED, parent)
        pthread_sigmask(SIG_SETMASK, mask)  # which also has Python look for what other threads took
        return _adopt(pid, pipes)


def _adopt(pid: int, pipes: _Pipes) -> ForkedChild:
    try:
        return pipes.child(pid)
    except BaseException:  # no descriptor left for its pidfd: a child nobody can watch must not be
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # SIGCHLD is ignored
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        pipes.close()
        raise


class _Pipes:
    """The liveness pipe (parent holds the write end) and, without pidfd, the exit pipe (child does)."""

    def __init__(self) -> None:
        self.liveness_read, write = os.pipe()
        self._liveness = make_private(write)
        self._exit: tuple[int, int] | None = None
        if not have_pidfd():
            try:
                read, write = os.pipe()
            except BaseException:
                self.close()
                raise
            self._exit = make_private(read), write

    def child(self, pid: int) -> ForkedChild:
        """Hand our ends over to the child's record, and close its own."""
        try:
            child = ForkedChild(pid, self._liveness, self._exit[0] if self._exit else None)
        except ProcessLookupError:  # it has ended, and SIGCHLD is ignored, so that it is reaped, too
            self._exit = os.pipe()
            child = ForkedChild(pid, self._liveness, make_private(self._exit[0]))
        self._close_child_ends()
        return child

    def close(self) -> None:
        self._close_child_ends()
        close_private(self._liveness)
        if self._exit:
            close_private(self._exit[0])

    def _close_child_ends(self) -> None:
        os.close(self.liveness_read)
        if self._exit:
            os.close(self._exit[1])


def _reset_signals(mask: set[int]) -> None:
    """Drop the parent's handlers, then let signals in again as the parent had them."""
    signal.set_wakeup_fd(-1)
    HeldSignals.forget()
    for signum in valid_signals():
        if callable(getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    # Ctrl-C goes to the whole group; the parent decides when its children stop. A handler, and
    # not SIG_IGN, because programs that a job starts would inherit the latter.
    signal.signal(signal.SIGINT, _leave_it_to_the_parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pthread_sigmask(SIG_SETMASK, mask - {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})


def _leave_it_to_the_parent(_signum: int, _frame: FrameType | None) -> None:
    pass


def _start_clean() -> None:
    atexit._clear()
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # Python leaves the parent's
    gc.freeze()  # the parent's garbage is the parent's to finalize
    # Python's own `random` seeds itself anew in a forked child; numpy's does not.
    numpy_random = sys.modules.get("numpy.random")  # imported later, it seeds itself
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))


def _leave(status: int, parent: int) -> NoReturn:
    try:
        flush_stdio()
        death.end_group(parent)
    finally:
        os._exit(status)


def flush_stdio() -> None:
    """Flush stdout and stderr; a broken one is logged, for it is not worth a child."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            _log.warning("cannot flush %r: %s", getattr(stream, "name", stream), error)
