"""What follows on which end of a worker, and after how long."""

from __future__ import annotations

import math
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiprocessing_kit.supervise.respawn import RECYCLED, Outcome, RespawnPolicy, When

AGAIN, ENDED, FATAL = Outcome.AGAIN, Outcome.ENDED, Outcome.FATAL
KILLED = -signal.SIGKILL
LEAST, MOST = 0.9, 1.1

OUTCOMES = [
    # how it ended    always  on-failure  never
    (0, AGAIN, ENDED, ENDED),
    (3, AGAIN, ENDED, ENDED),
    (4, AGAIN, AGAIN, FATAL),
    (9, FATAL, FATAL, FATAL),
    (RECYCLED, AGAIN, AGAIN, ENDED),
    (KILLED, AGAIN, AGAIN, FATAL),
    (None, AGAIN, AGAIN, FATAL),
]


@pytest.mark.parametrize(("exitcode", "always", "on_failure", "never"), OUTCOMES)
def test_what_follows_on_which_end(
    exitcode: int | None, always: Outcome, on_failure: Outcome, never: Outcome
) -> None:
    """A first end; the status says how it was in each case."""
    for when, wanted in (("always", always), ("on-failure", on_failure), ("never", never)):
        policy = RespawnPolicy(When(when), normal=frozenset({0, 3}), fatal=frozenset({9}))
        outcome, reason = policy.outcome(exitcode, failures=1)
        assert outcome is wanted, when
        assert reason.startswith("it ")


@pytest.mark.parametrize("exitcode", [1, KILLED, None])
@pytest.mark.parametrize("when", [When.ALWAYS, When.ON_FAILURE])
def test_a_worker_is_given_up_at_the_limit(when: When, exitcode: int | None) -> None:
    """Not one failure sooner; and the reason counts them."""
    policy = RespawnPolicy(when, limit=3)
    assert policy.outcome(exitcode, 2)[0] is AGAIN
    outcome, reason = policy.outcome(exitcode, 3)
    assert outcome is FATAL
    assert "3 times in a row" in reason


def test_no_limit_is_no_limit() -> None:
    """0 stands for that."""
    assert RespawnPolicy(limit=0).outcome(1, 10**9)[0] is AGAIN


@pytest.mark.parametrize("exitcode", [0, RECYCLED])
def test_orderly_ends_are_never_given_up(exitcode: int) -> None:
    """However many failures there were before."""
    assert RespawnPolicy(When.ALWAYS, limit=1).outcome(exitcode, 99)[0] is AGAIN


def test_a_fatal_code_goes_before_a_normal_one() -> None:
    """Where somebody has given both."""
    policy = RespawnPolicy(When.ALWAYS, normal=frozenset({5}), fatal=frozenset({5}))
    assert policy.outcome(5, 0)[0] is FATAL


def test_the_schedule_of_restarts() -> None:
    """At once, then 1 s doubling to 60 s."""
    middle = [0, 1, 2, 4, 8, 16, 32, 60, 60]
    policy = RespawnPolicy()
    for failures, seconds in enumerate(middle, 1):
        delays = [policy.delay(failures, lived=0.0) for _ in range(50)]
        assert min(delays) >= seconds * LEAST
        assert max(delays) <= seconds * MOST
        assert seconds == 0 or len(set(delays)) > 1, "without jitter all would start at once"


policies = st.builds(
    RespawnPolicy,
    first=st.floats(0, 1e6),
    longest=st.floats(0, 1e6),
    limit=st.integers(0, 100),
)


@given(policies, st.integers(0, 10**12), st.floats(0, 1e9))
def test_a_delay_is_always_one_to_wait_for(policy: RespawnPolicy, failures: int, lived: float) -> None:
    """Neither negative, nor beyond the longest but for its jitter, however long it fails."""
    delay = policy.delay(failures, lived)
    assert math.isfinite(delay)
    assert 0 <= delay <= max(policy.longest * MOST, policy.first)


@given(policies, st.integers(2, 80))
def test_delays_do_not_get_shorter(policy: RespawnPolicy, failures: int) -> None:
    """But for their jitter."""
    assert policy.delay(failures + 1, 0.0) >= policy.delay(failures, 0.0) * LEAST / MOST * (1 - 1e-9)


@given(policies, st.floats(0, 1e9))
def test_orderly_ends_in_a_row_are_no_storm(policy: RespawnPolicy, lived: float) -> None:
    """From one start to the next there is always the first delay."""
    assert lived + policy.delay(0, lived) >= policy.first * (1 - 1e-9)


exits: Any = st.none() | st.integers(-64, 255)


@given(st.sampled_from(When), exits, st.integers(0, 20), st.integers(0, 20))
def test_never_means_never(when: When, exitcode: int | None, limit: int, failures: int) -> None:
    """And only it does: with the others, each end but a fatal one is followed by something that can go on."""
    policy = RespawnPolicy(when, limit=limit)
    outcome, _ = policy.outcome(exitcode, failures)
    if when is When.NEVER:
        assert outcome is not AGAIN
    elif policy.is_normal(exitcode):
        assert outcome is (ENDED if when is When.ON_FAILURE and exitcode == 0 else AGAIN)
    else:
        assert outcome is (FATAL if limit and failures >= limit else AGAIN)
