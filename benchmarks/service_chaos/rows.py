"""The rows of the fault table: each does one fault again and again, and says what came of the jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import psutil

from benchmarks.servers import Server
from benchmarks.service_chaos.field import Field
from benchmarks.service_chaos.notes import BEGUN
from benchmarks.service_chaos.outcome import Outcome
from benchmarks.service_chaos.proxy import Proxy, proxied
from benchmarks.service_chaos.pusher import Pusher
from benchmarks.service_chaos.shop import Shop, until

__all__ = [
    "broker_killed",
    "broker_paused",
    "connections_reset",
    "consumer_killed",
    "ended_anywhere",
    "host_paused",
    "long_job",
    "master_killed",
    "poison",
    "service_killed",
    "storm",
    "terminated",
    "two_hosts",
    "workers_killed",
]

IN_FLIGHT = 64
"""Jobs that one worker has at most."""

AGAIN = 2
"""Runs again for each kill of a worker: the job under way, what was done in the last 10 ms. Measured: 1.8."""

AGAIN_OF_ALL = 20
"""For each kill of a consumer with its workers: also what was answered and not settled. Measured: 5 to 10."""

_SECONDS = 0.006
_OFTEN = {"crashes": 1000}


@contextlib.contextmanager
def _timed(fault: str) -> Iterator[Outcome]:
    outcome = Outcome(fault)
    began = time.monotonic()
    yield outcome
    outcome.seconds = time.monotonic() - began


def _most_again(kills: int, each: int) -> int:
    """One of them may have come at the worst moment."""
    return kills * each + IN_FLIGHT


def workers_killed(field: Field, jobs: int, kills: int) -> Outcome:
    """SIGKILL workers that are at work, one after the other."""
    with _timed("a worker is killed") as outcome, field.shop(topic={"retry": _OFTEN}) as shop:
        numbers = field.push(shop, jobs, _SECONDS)
        killed: set[int] = set()
        for kill in range(kills):
            field.wait_for_progress(2 * jobs * kill // (kills + 1) + 1)
            time.sleep(field.chance.uniform(0, 0.01))
            _kill_worker(field, killed)
        outcome.faults, outcome.most_again = kills, _most_again(kills, AGAIN)
        field.finish(shop, outcome, numbers)
    return outcome


def _kill_worker(field: Field, killed: set[int]) -> None:
    """One that has noted something lately, and was not killed before."""

    def kill() -> bool:
        notes = [note for note in field.notes.last(60) if note.pid not in killed]
        for note in field.chance.sample(notes, len(notes)):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker = psutil.Process(note.pid)
                if worker.ppid() == note.parent:  # it is still that one
                    worker.kill()
                    killed.add(note.pid)
                    return True
        return False

    until(kill, "a worker to be killed")


def master_killed(field: Field, jobs: int, kills: int) -> Outcome:
    """SIGKILL the master; start the service again."""
    return _restarted("the master is killed", field, jobs, kills, lambda shop: shop.end(signal.SIGKILL))


def consumer_killed(field: Field, jobs: int, kills: int) -> Outcome:
    """SIGKILL the consumer; its workers die with it, and the master starts another one."""
    with _timed("a consumer is killed") as outcome, field.shop(topic={"retry": _OFTEN}) as shop:
        numbers = field.push(shop, jobs, _SECONDS)
        for kill in range(kills):
            field.wait_for_progress(2 * jobs * kill // (kills + 1) + 1)
            _kill_consumer(shop)
            outcome.note_back(field.first_after(time.monotonic(), numbers))
        outcome.faults, outcome.most_again = kills, _most_again(kills, AGAIN_OF_ALL)
        field.finish(shop, outcome, numbers)
    return outcome


def _kill_consumer(shop: Shop) -> None:
    """And wait until there is another one."""
    (killed,) = shop.consumers()
    os.kill(killed, signal.SIGKILL)
    until(lambda: shop.consumers() not in ([], [killed]), "another consumer")


def service_killed(field: Field, jobs: int, kills: int) -> Outcome:
    """SIGKILL master, consumers and workers; start the service again."""
    return _restarted("the whole service is killed", field, jobs, kills, Shop.kill_all)


def terminated(field: Field, jobs: int, times: int) -> Outcome:
    """SIGTERM the master under load; start the service again."""
    outcome = _restarted("TERM under load", field, jobs, times, _terminate)
    outcome.most_again = 0  # what has begun has ended
    return outcome


def _terminate(shop: Shop) -> None:
    if status := shop.end(signal.SIGTERM):
        raise AssertionError(f"a service that was asked to end exits with {status}")


def _restarted(fault: str, field: Field, jobs: int, times: int, end: Callable[[Shop], object]) -> Outcome:
    with _timed(fault) as outcome, field.shop(topic={"retry": _OFTEN}) as shop:
        numbers = field.push(shop, jobs, _SECONDS)
        for time_ in range(times):
            field.wait_for_progress(2 * jobs * time_ // (times + 1) + 1)
            time.sleep(field.chance.uniform(0, 0.1))
            end(shop)
            shop.start()
            outcome.note_back(_first_job(field, shop, numbers))
        outcome.faults, outcome.most_again = times, _most_again(times, AGAIN_OF_ALL)
        field.finish(shop, outcome, numbers)
    return outcome


def ended_anywhere(field: Field, jobs: int, times: int, signum: int) -> Outcome:
    """Send a signal to the master at any instant, also while it starts; start the service again."""
    what = f"{signal.Signals(signum).name} at any instant"
    with _timed(what) as outcome, field.shop(topic={"retry": _OFTEN}) as shop:
        numbers = field.push(shop, jobs, _SECONDS)
        for _ in range(times):
            time.sleep(field.chance.uniform(0, 1.5))
            shop.end(signum)
            shop.start()
        outcome.faults, outcome.most_again = times, _most_again(times, AGAIN_OF_ALL)
        field.finish(shop, outcome, numbers)
    return outcome


def _first_job(field: Field, shop: Shop, numbers: Collection[int]) -> float | None:
    """Seconds from when there is a consumer again; None if no job was left for it."""
    if not field.notes.count:
        return None
    until(shop.consumers, "a consumer")
    return field.first_after(time.monotonic(), numbers)


def broker_killed(field: Field, server: Server, times: int) -> Outcome:
    """SIGKILL the broker while jobs are pushed and run; start it again."""
    return _hurt("the broker is killed", field, field.url, [lambda: _kill(field, server)] * times)


def broker_paused(
    field: Field, server: Server, seconds: float, times: int = 1, lease: float = 30.0
) -> Outcome:
    """SIGSTOP the broker for a while."""
    what = f"the broker is paused for {seconds:g} s"
    return _hurt(what, field, field.url, [lambda: _pause(server, seconds)] * times, lease)


def connections_reset(field: Field, every: float, times: int) -> Outcome:
    """Reset all connections, each few seconds."""
    with proxied(field.url) as proxy:

        def cut() -> None:
            time.sleep(every)
            proxy.cut()

        return _hurt(f"connections are reset every {every:g} s", field, proxy.url, [cut] * times)


def _hurt(
    fault: str, field: Field, url: str, faults: Sequence[Callable[[], None]], lease: float = 30.0
) -> Outcome:
    with _timed(fault) as outcome, field.shop(url=url, lease=lease, topic={"retry": _OFTEN}) as shop:
        pusher = Pusher(shop.client(), _SECONDS / 3)
        pusher.start()
        try:
            field.wait_for_progress(20)
            for hurt in faults:
                hurt()
                outcome.back.append(field.back(shop))
        finally:
            pusher.end()
        outcome.faults = len(faults)
        field.finish(shop, outcome, pusher.confirmed)
    return outcome


def storm(field: Field, server: Server | None, faults: int) -> Outcome:
    """All of it, in any order, with hardly a rest, while jobs are pushed."""
    with contextlib.ExitStack() as stack:
        outcome = stack.enter_context(_timed("all of this in any order"))
        proxy = None if server is None else stack.enter_context(proxied(field.url))
        url = field.url if proxy is None else proxy.url
        shop = stack.enter_context(field.shop(url=url, lease=3.0, topic={"retry": _OFTEN}))
        pusher = Pusher(shop.client(), _SECONDS / 3)
        pusher.start()
        try:
            field.wait_for_progress(20)
            for _ in range(faults):
                time.sleep(field.chance.uniform(0, 1.0))
                field.chance.choice(_blows(field, shop, server, proxy))()
        finally:
            pusher.end()
        outcome.faults = faults
        outcome.back.append(field.back(shop))
        field.finish(shop, outcome, pusher.confirmed)
    return outcome


def _blows(
    field: Field, shop: Shop, server: Server | None, proxy: Proxy | None
) -> list[Callable[[], object]]:
    def again(signum: int) -> None:
        shop.end(signum)
        shop.start()

    def kill_consumer() -> None:
        with contextlib.suppress(ProcessLookupError):
            for consumer in shop.consumers():
                os.kill(consumer, signal.SIGKILL)

    blows: list[Callable[[], object]] = [lambda: _kill_worker(field, set())] * 4
    blows += [kill_consumer, lambda: again(signal.SIGKILL), lambda: again(signal.SIGTERM)]
    if server is not None and proxy is not None:
        blows += [proxy.cut] * 3 + [lambda: _kill(field, server), lambda: _pause(server, 2.0)]
    return blows


def _kill(field: Field, server: Server) -> None:
    server.kill()
    time.sleep(field.chance.uniform(0.1, 1.0))
    server.start()


def _pause(server: Server, seconds: float) -> None:
    server.stop()
    try:
        time.sleep(seconds)
    finally:
        server.go_on()


def long_job(field: Field, seconds: float, lease: float = 3.0) -> Outcome:
    """A job longer than the lease, while another host would take it if it could."""
    with (
        _timed(f"a job of {seconds:g} s, under a lease of {lease:g} s") as outcome,
        field.shop(lease=lease) as one,
        field.shop(lease=lease),
    ):
        with one.client() as client:
            for number in range(2):
                client.push("work", {"number": number, "seconds": seconds})
        outcome.faults, outcome.most_again = 2, 0
        field.finish(one, outcome, range(2))
    return outcome


def poison(field: Field, jobs: int, crashes: int = 3) -> Outcome:
    """A job that kills its worker each time, among others."""
    with (
        _timed("a job kills its worker") as outcome,
        field.shop(topic={"retry": {"crashes": crashes}}) as shop,
    ):
        with shop.client() as client:
            bad = client.push("work", {"number": jobs, "seconds": 0.0, "kills": True})
        numbers = field.push(shop, jobs, _SECONDS)
        outcome.faults, outcome.most_again = crashes, crashes * IN_FLIGHT
        field.finish(shop, outcome, numbers, dead=1)
        with shop.broker() as broker:
            letters = [letter.job for letter in broker.dead_letters("work", 10)]
        if [job.id for job in letters] != [bad]:
            outcome.wrong.append(f"dead letters: {letters}")
        elif [event.kind for event in letters[0].history] != ["crashed"] * crashes:
            outcome.wrong.append(f"its history: {letters[0].history}")
        elif len(field.notes.begun(jobs)) != crashes:
            outcome.wrong.append(f"it began {len(field.notes.begun(jobs))} times")
    return outcome


def two_hosts(field: Field, jobs: int, lease: float = 3.0) -> Outcome:
    """Two hosts on one broker; one vanishes."""
    with (
        _timed("one of two hosts vanishes") as outcome,
        field.shop(lease=lease) as stays,
        field.shop(lease=lease) as vanishes,
    ):
        numbers = field.push(stays, jobs, 3 * _SECONDS)
        until(lambda: len(_consumers(field)) == 2, "jobs on both hosts")
        vanishes.kill_all()
        outcome.faults, outcome.most_again = 1, 3 * IN_FLIGHT
        field.finish(stays, outcome, numbers)
    return outcome


def host_paused(field: Field, jobs: int, lease: float = 3.0) -> Outcome:
    """SIGSTOP all of one of two hosts for longer than its lease: what it says afterwards comes too late."""
    with (
        _timed("one of two hosts is paused beyond its lease") as outcome,
        field.shop(lease=lease) as stays,
        field.shop(lease=lease) as pauses,
    ):
        numbers = field.push(stays, jobs, 3 * _SECONDS)
        until(lambda: len(_consumers(field)) == 2, "jobs on both hosts")
        family = pauses.living()
        for process in family:
            process.suspend()
        until(lambda: set(numbers) <= field.notes.ended(), "all jobs, on the other host")
        for process in family:
            process.resume()
        outcome.faults, outcome.most_again = 1, 3 * IN_FLIGHT
        field.finish(stays, outcome, numbers)
        outcome.back.append(field.back(pauses))
    return outcome


def _consumers(field: Field) -> set[int]:
    return {note.parent for note in field.notes.last(1000) if note.kind == BEGUN}
