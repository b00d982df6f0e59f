"""Six workers that are always there, under a master that does nothing else.

python demo/manager.py                  the whole story: start, status, a kill, a smooth restart, stop
python demo/manager.py COMMAND ...      the manager's own commands: run, start -d, status, scale, stop ...

Each worker "sends mails"; one of them dies with exit status 41 now and then, as if its server had gone.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable

from multiprocessing_kit import Manager
from multiprocessing_kit.manager import Context, Status

log = logging.getLogger("mailer")


def connect(context: Context) -> str:
    """Once in each worker; what it returns is `context.resource`."""
    return f"connection {context.pin}"


manager = Manager(
    "mailer",
    workers=6,
    init=connect,
    execute_sleep=0.1,
    stop_timeout=5.0,
    healthy_seconds=0.5,
    check_interval=0,
    runtime_dir=os.path.join(os.path.realpath(tempfile.gettempdir()), f"mpkit-demo-{os.getuid()}"),
)


@manager
def send_mails(context: Context) -> None:
    """One turn of a worker; the manager calls it again and again."""
    log.info("%s: %d mails sent", context.resource, random.randrange(10))
    if context.pin == 3 and random.random() < 0.05:
        sys.exit(41)


def main() -> None:
    """Tell the story."""
    print(manager.start())
    show("at work")

    victim = manager.status().workers[1]
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda status: status.workers[1].pid not in (0, victim.pid))
    show(f"worker 1 (pid {victim.pid}) was killed")

    wait_until(lambda status: status.workers[3].last_exit == "exited with 41")
    show("worker 3 has died with 41")

    manager.restart()
    show("restarted with the code as it is now, one worker after the other")

    manager.scale(2)
    wait_until(lambda status: len(status.workers) == 2)
    show("two workers will do")

    manager.stop()
    print("\nstopped")


def show(what: str) -> None:
    """Print a status."""
    print(f"\n── {what}\n{manager.status().table()}")


def wait_until(reached: Callable[[Status], bool]) -> None:
    """Look until it is so."""
    while not reached(manager.status()):
        time.sleep(0.05)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        manager.cli()()
    else:
        main()
