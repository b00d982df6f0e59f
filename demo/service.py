"""A service on an SQLite file: 10,000 jobs are done while their workers are killed.

python demo/service.py [--jobs N] [--kills N]

Each job "sends a mail": it notes its number in a file. One mail is poison, and kills its worker each time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiprocessing_kit import Worker
from multiprocessing_kit.errors import NotRunningError
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.config_file import load_config
from multiprocessing_kit.service.service import Service
from multiprocessing_kit.service.status import ServiceStatus, StatusReader

SENT = "MPKIT_DEMO_SENT"
POISON = -1
PATIENCE = 120.0

CONFIG = """\
name = "mails"
broker = "sqlite:///mails.db"
runtime_dir = "run"
stop_timeout = 5.0
scale_seconds = 0.5

[[topics]]
name = "mail"
worker = "service:SendMail"
workers = { min = 1, max = 4 }
backlog = { per_worker = 100 }
retry = { crashes = 5 }
"""


class SendMail(Worker):
    """A topic's work is a Worker, or a function."""

    def setup(self) -> None:
        """Once in each worker."""
        self.sent = os.open(os.environ[SENT], os.O_WRONLY | os.O_APPEND)

    def process(self, mail: dict[str, Any]) -> None:
        """Once for each job."""
        if mail["number"] == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)
        os.write(self.sent, b"%d %d\n" % (mail["number"], os.getpid()))


def main() -> int:
    """Tell the story."""
    options = parsed()
    with tempfile.TemporaryDirectory(prefix="mpkit-demo-") as name:
        folder = Path(os.path.realpath(name))
        sent = folder / "sent"
        sent.touch()
        os.environ[SENT] = str(sent)
        (folder / "service.toml").write_text(CONFIG)
        print(f"── service.toml\n{CONFIG}")
        service = Service(load_config(folder / "service.toml"))
        print(f"── mpkit service start -d\n{service.manager.start()}", flush=True)
        try:
            return story(service, sent, options.jobs, options.kills)
        finally:
            with contextlib.suppress(NotRunningError):
                service.manager.exit()


def story(service: Service, sent: Path, jobs: int, kills: int) -> int:
    """What happens while it runs."""
    began = time.monotonic()
    with service.client() as client:
        ids = client.push_many("mail", ({"number": number} for number in range(jobs)))
        poison = client.push("mail", {"number": POISON}, priority=5)
    print(f"\n── {len(ids):,} mails and a poisonous one were pushed in {time.monotonic() - began:.2f} s")
    show(service)

    killed: list[int] = []
    while len(killed) < kills:
        # The k-th when so many mails are sent, so that they are spread over the time.
        wait_until(lambda: len(lines(sent)) > jobs * (len(killed) + 0.5) / kills)
        _, pid = lines(sent)[-1]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        if len(killed) == kills // 2:
            print(f"\n── {len(killed)} workers were killed so far")
            show(service)
    wait_until(lambda: {number for number, _ in lines(sent)} >= set(range(jobs)))
    seconds = time.monotonic() - began
    wait_until(lambda: left(service) == (0, 1) and status(service).topic("mail").done >= jobs)
    print("\n── all is done")
    show(service)

    with open_broker(service.config.broker_url, service.config.name) as broker:
        (letter,) = broker.dead_letters("mail", 10)
    assert letter.job.id == poison
    last = letter.job.history[-1]
    print(f"\nthe poisonous one is a dead letter: in attempt {last.attempt}, too, {last.error}")
    times = Counter(number for number, _ in lines(sent))
    print(f"{kills} workers were killed, and {sum(times.values()) - jobs} mails were sent twice for that")
    print(f"{len(times):,} of {jobs:,} are done, in {seconds:.1f} s")
    service.manager.stop()
    print("stopped")
    return 0


def lines(sent: Path) -> list[tuple[int, int]]:
    """Number and worker of each mail that was sent."""
    return [(int(number), int(pid)) for number, pid in map(str.split, sent.read_text().splitlines())]


def left(service: Service) -> tuple[int, int]:
    """Jobs that are not done, and dead letters."""
    with open_broker(service.config.broker_url, service.config.name) as broker:
        backlog = broker.backlog("mail")
    return backlog.ready + backlog.delayed + (backlog.running or 0), backlog.dead


def show(service: Service) -> None:
    """What `mpkit service status` prints."""
    print(status(service).table(), flush=True)


def status(service: Service) -> ServiceStatus:
    """How it is; what workers tell is up to 2 seconds old."""
    with contextlib.closing(StatusReader(service.config, service.manager)) as reader:
        return reader.read()


def wait_until(reached: Callable[[], bool]) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it is not so after {PATIENCE:g} s")
        time.sleep(0.05)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
