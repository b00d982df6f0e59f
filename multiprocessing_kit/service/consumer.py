"""The process that serves topics: takes jobs from the broker, has workers run them, says what came of each.

    broker ──reserve──▶ buffer ──deal──▶ crew ──answers, deaths──▶ settling ──settle──▶ broker
       ▲                                                                                  │
       └── extend the lease, count the backlog ◀── timers                                 └ fenced off: told

It does no work of the user's, so that nothing of the user's can keep it from extending its leases. A broker
that is away is asked again twice a second; meanwhile workers go on with what they have, and what they answer
is kept. Killed, its workers die with it, and the next one of its name takes back what it held.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import setproctitle

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError
from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.manager.relay import name_worker
from multiprocessing_kit.service.alerts import Alerts
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.channel import Channel, WorkerEnd
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.crew import Crew, Done
from multiprocessing_kit.service.job import Backlog, Delivery, Outcome, Settlement
from multiprocessing_kit.service.logs import mark_records
from multiprocessing_kit.service.marks import Mark
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.scaling import Scaling
from multiprocessing_kit.service.schedules import Schedules
from multiprocessing_kit.service.settling import Settling
from multiprocessing_kit.service.stats import Stats
from multiprocessing_kit.service.topic_order import TopicOrder
from multiprocessing_kit.service.work import live

__all__ = ["consume"]

_RETRY_SECONDS = 0.5
"""Between two tries to reach a broker that is away."""

_AWAY_SECONDS = 10.0
"""After which a broker that is away is worth an alert."""

_LONG_START = 60.0
"""Seconds after which a worker that is not set up is worth an alert: its set-up may hang."""

_LAST_SECONDS = 2.0
"""That a broker which is away has at our end; then it takes the jobs back itself."""

_LONGEST_EXTEND = 10.0
_STATS_SECONDS = 2.0
_STATS_SOON = 0.2
"""After something came: who asks for the status is about to look for it."""

_LONGEST_WAIT = 3600.0

_log = logging.getLogger("multiprocessing_kit.service")

T = TypeVar("T")


def consume(config: ServiceConfig, crew: str, consumer: str, context: Context) -> None:
    """Serve the topics of one crew until the context is to stop.

    Args:
        config: Of the service.
        crew: Name of the pool or topic, as in `ServiceConfig.crews`.
        consumer: Unique among all that serve this crew, the same after a restart.
        context: Of the manager's worker that this is.
    """
    name_worker(f"consumer {crew}")
    setproctitle.setproctitle(f"mpkit: consumer {config.name} {crew}")
    _Consumer(config, crew, consumer, context).run()


class _Consumer:
    def __init__(self, config: ServiceConfig, crew: str, consumer: str, context: Context) -> None:
        self._config = config
        self._name = crew
        self._context = context
        workers, self._topics = config.crews()[crew]
        self._workers = workers
        self._paths = Paths(config)
        self._broker: Broker = open_broker(config.broker_url, config.name)
        self._consumer = consumer
        self._joined = False
        self._selector = selectors.DefaultSelector()
        self._bell: int | None = None
        self._crew = Crew(
            workers.max,
            self._live,
            self._title,
            self._timeouts(),
            selector=self._selector,
            before_fork=self._detach,
        )
        self._scaling = Scaling(workers.min, workers.max, min(t.backlog.per_worker for t in self._topics))
        self._order = TopicOrder(self._topics)
        self._settling = Settling(self._topics, config.payloads())
        self._schedules = Schedules(config, self._topics)
        self._alerts = Alerts(config, self._selector)
        self._stats = Stats(self._paths.stats(crew), self._topics)
        self._buffer: deque[Delivery] = deque()
        self._unsettled: list[Settlement] = []
        self._backlogs: dict[str, Backlog] = {}
        self._paused: frozenset[str] = frozenset()
        self._away: dict[str, float] = {}
        self._ask_again = 0.0
        self._has_more = True
        self._look_again = 0.0
        self._next_extend = self._next_scale = self._next_stats = self._stats_soon = 0.0

    def run(self) -> None:
        """Until the context is to stop, and all jobs are settled."""
        self._selector.register(self._context, selectors.EVENT_READ, self._woken)
        self._paused = self._own_paused()
        self._crew.scale(self._workers.min, self._config.stop_timeout)
        try:
            while not self._context.stopping:
                self._turn()
                self._wait()
            self._drain()
        finally:
            self._crew.stop(0.0)
            self._stats.close()
            self._alerts.close()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def _turn(self) -> None:
        self._look()
        now = time.monotonic()
        if not self._joined:
            if now >= self._ask_again:
                self._try(self._join)
            self._timers(now)
            return
        if self._unsettled and now >= self._ask_again:
            self._try(self._settle)
        if now >= self._next_extend:
            self._try(self._extend)
        if (self._has_more or now >= self._look_again) and now >= self._ask_again:
            self._try(self._reserve)
        self._crew.deal(self._buffer)
        self._timers(now)

    def _timers(self, now: float) -> None:
        if now >= self._next_scale:
            self._next_scale = now + self._config.scale_seconds
            if self._joined and self._try(self._count):
                self._try(self._push_schedules)
            self._check()
        if now >= self._next_stats:
            self._next_stats, self._stats_soon = now + _STATS_SECONDS, now + _STATS_SOON
            held = [delivery.job.topic for delivery in (*self._crew.held, *self._buffer)]
            self._stats.write(self._crew.states(), self._crew.wanted, self._is_away, held)
        self._alerts.look()

    def _wait(self) -> None:
        now = time.monotonic()
        times = [self._next_scale - now, self._next_stats - now]
        listens = self._joined and not self._is_away and self._crew.room() > 0 and not self._buffer
        if listens:
            times.append(0.0 if self._has_more else self._look_again - now)
        self._listen(self._broker.fileno() if listens else None)
        if self._joined:
            times.append(self._next_extend - now)
        if self._is_away:
            times.append(self._ask_again - now)
        if (seconds := self._crew.timeout()) is not None:
            times.append(seconds)
        for key, _ in self._selector.select(min(max(0.0, min(times)), _LONGEST_WAIT)):
            key.data()
            self._next_stats = min(self._next_stats, self._stats_soon)

    def _listen(self, bell: int | None) -> None:
        """Only while there is room: a bell that nobody answers would keep the loop awake."""
        if bell == self._bell:
            return
        if self._bell is not None:
            self._selector.unregister(self._bell)
        if bell is not None:
            self._selector.register(bell, selectors.EVENT_READ, self._rung)
        self._bell = bell

    def _rung(self) -> None:
        self._has_more = True

    def _woken(self) -> None:
        """The manager wants us to end, or to look whether topics are paused."""
        self._context.clear()
        paused = self._own_paused()
        if paused != self._paused:
            self._paused = paused
            self._has_more = True
            held = [delivery for delivery in self._buffer if delivery.job.topic in paused]
            self._unsettled += [Settlement(delivery, Outcome.RELEASE) for delivery in held]
            self._buffer = deque(delivery for delivery in self._buffer if delivery not in held)
            _log.info("paused topics of %s: %s", self._name, ", ".join(sorted(paused)) or "none")

    def _own_paused(self) -> frozenset[str]:
        return self._paths.paused() & {topic.name for topic in self._topics}

    # ── the broker ────────────────────────────────────────────────────────────────────────────────

    @property
    def _is_away(self) -> bool:
        return bool(self._away)

    def _try(self, call: Callable[[], T]) -> T | None:
        """Ask the broker; where it is away, later calls wait.

        It is away until what it did not do is done: that it does something else is no sign of health.
        """
        name = call.__name__
        try:
            found = call()
        except BrokerError as error:
            now = time.monotonic()
            self._ask_again = now + _RETRY_SECONDS
            if not self._away:
                self._ask_again = now  # a connection that was cut: the next one is as good
                _log.warning("the broker is away: %s", error)
            self._away.setdefault(name, now)
            self._next_extend = max(self._next_extend, self._ask_again)
            if call in (self._count, self._push_schedules):
                self._next_scale = self._ask_again
            self._listen(None)  # its descriptor is closed
            self._backlogs = {}
            self._has_more = True
            return None
        if (since := self._away.pop(name, None)) is not None and not self._away:
            _log.info("the broker is back after %.1f s", time.monotonic() - since)
        return found

    def _join(self) -> None:
        self._broker.join(self._consumer, [topic.name for topic in self._topics], self._config.lease)
        self._joined = self._has_more = True
        self._next_extend = time.monotonic() + min(self._config.lease / 3, _LONGEST_EXTEND)

    def _reserve(self) -> None:
        room = self._crew.room()
        if room <= 0 or self._buffer:
            return
        found = self._broker.reserve(room, self._order.names(self._paused))
        self._order.served(found)
        self._has_more = len(found) >= room
        self._look_again = time.monotonic() + self._broker.idle()
        self._buffer.extend(found)

    def _settle(self) -> None:
        settlements = list(self._unsettled)
        try:
            fenced = self._broker.settle(settlements)
        except BrokerUnavailableError:
            raise
        except BrokerError:
            self._settle_each(settlements)
            return
        self._settled(settlements, fenced)

    def _settle_each(self, settlements: list[Settlement]) -> None:
        """One by one: what the broker will not have, such as a result too large, is nobody else's trouble."""
        for settlement in settlements:
            said = settlement
            try:
                fenced = self._broker.settle([said])
            except BrokerUnavailableError:
                raise
            except BrokerError as error:
                self._broker.backlog(said.delivery.job.topic)  # raises where it is not this job's fault
                said = self._settling.refused(settlement, str(error))
                fenced = self._broker.settle([said])
            self._settled([said], fenced)

    def _settled(self, settlements: list[Settlement], fenced: list[Delivery]) -> None:
        """The broker has taken note of the oldest that are unsettled."""
        del self._unsettled[: len(settlements)]
        for job in (delivery.job for delivery in fenced):
            _log.warning(
                "job %s of topic %s: its lease was over, and others have it: what came of it here is dropped",
                job.id,
                job.topic,
                extra={"job_id": job.id, "topic": job.topic},
            )
        for settlement in settlements:
            if settlement.delivery not in fenced:
                self._stats.count(settlement)
                if settlement.outcome == Outcome.DEAD:
                    job = settlement.delivery.job
                    self._alerts.tell("dead", job.topic, f"job {job.id}: {job.history[-1].error}")

    def _extend(self) -> None:
        self._broker.extend()
        self._next_extend = time.monotonic() + min(self._config.lease / 3, _LONGEST_EXTEND)

    def _count(self) -> bool:
        self._backlogs = {topic.name: self._broker.backlog(topic.name) for topic in self._topics}
        return True

    def _push_schedules(self) -> None:
        try:
            self._schedules.push(self._broker)
        except BrokerUnavailableError:
            raise
        except BrokerError as error:  # its memory is full: what is there can be run all the same
            self._alerts.tell("broker", self._name, f"jobs of schedules cannot be pushed: {error}")

    # ── workers ───────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        for done in self._crew.look():
            self._take(done)

    def _take(self, done: Done) -> None:
        goes_on = self._joined and not self._context.stopping and done.delivery.job.topic not in self._paused
        if done.answer is None and not done.lost and goes_on:
            self._buffer.appendleft(done.delivery)  # not begun, and still ours: for another worker
            return
        self._unsettled.append(self._settling.of(done))

    def _check(self) -> None:
        """Numbers of workers, and what somebody should know."""
        if not self._context.stopping:
            counted = [b for name, b in self._backlogs.items() if name not in self._paused]
            ready = sum(backlog.ready for backlog in counted) + len(self._buffer)
            states = self._crew.states()
            busy = sum(state.state == "busy" for state in states)
            wanted = self._scaling.wanted(self._crew.wanted, ready, busy)
            if wanted != self._crew.wanted:
                _log.info("%s has %d workers, for %d ready jobs", self._name, wanted, ready)
                self._crew.scale(wanted, self._config.stop_timeout)
        for topic in self._topics:
            backlog = self._backlogs.get(topic.name)
            if backlog is not None and topic.backlog.alert and backlog.ready > topic.backlog.alert:
                self._alerts.tell("backlog", topic.name, f"{backlog.ready} jobs are ready")
        for how in self._crew.failing[:1]:
            self._alerts.tell("worker", self._name, f"a worker fails again and again: it {how}")
        if (seconds := self._crew.slowest_start) > _LONG_START:
            self._alerts.tell("worker", self._name, f"a worker is not set up after {seconds:.0f} s")
        if self._away and time.monotonic() - min(self._away.values()) > _AWAY_SECONDS:
            self._alerts.tell("broker", self._name, "the broker cannot be reached")

    def _live(self, pin: int, liveness: int, channel: Channel, mark: Mark) -> int:
        """In the worker."""
        name_worker(f"{self._name} #{pin}")
        mark_records()
        context = Context(self._config.name, pin, liveness)
        return live(self._config, self._topics, context, WorkerEnd(channel), mark)

    def _detach(self) -> None:
        self._listen(None)
        self._broker.detach()

    def _title(self, pin: int) -> str:
        return f"mpkit: worker {self._config.name} {self._name} #{pin}"

    def _timeouts(self) -> dict[str, float | None]:
        return {topic.name: topic.timeout for topic in self._topics}

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def _give_back(self) -> None:
        self._unsettled += [Settlement(delivery, Outcome.RELEASE) for delivery in self._buffer]
        self._buffer.clear()
        if self._unsettled:
            self._settle()

    def _drain(self) -> None:
        """Let jobs end that have begun; give the others back."""
        self._listen(None)
        self._crew.stop(self._config.stop_timeout)
        if self._joined:
            self._try(self._give_back)
        while not self._crew.is_over:
            for key, _ in self._selector.select(min(self._crew.timeout() or 1.0, 1.0)):
                key.data()
            self._look()
            now = time.monotonic()
            if self._joined and now >= self._ask_again and (self._unsettled or now >= self._next_extend):
                self._try(self._settle)
                self._try(self._extend)
        self._look()
        until = time.monotonic() + _LAST_SECONDS
        while self._joined and self._unsettled and time.monotonic() < until:
            if self._try(self._settle) is None and self._unsettled:
                time.sleep(_RETRY_SECONDS / 5)
        with contextlib.suppress(BrokerError):  # it will see by itself that we are gone
            self._broker.close()
        self._crew.close()
