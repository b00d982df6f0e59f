"""What the first process of a container must do: bury processes whose own parents have died."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from multiprocessing_kit.errors import describe_exit

__all__ = ["reap_orphans"]

_log = logging.getLogger("multiprocessing_kit.manager")


def reap_orphans(own: Collection[int]) -> None:
    """Take the exit statuses of ended children that are not ours; does nothing unless this is process 1.

    Args:
        own: Process ids of the children we have forked, whose statuses others take.
    """
    if os.getpid() != 1:
        return
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:  # ours is taken first, and wakes us again
            return
        _, status = os.waitpid(found.si_pid, 0)
        _log.info("orphan %d %s", found.si_pid, describe_exit(os.waitstatus_to_exitcode(status)))
