"""Storms on the queues of the toolkit: many users at once, and kills by the hundred."""

from __future__ import annotations

import time

import pytest

from tests.process.test_toolkit_queues import (
    Maker,
    check_killed_waiters,
    check_kills,
    check_totals,
    makers,
)

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

SECONDS = 30


@makers
def test_twenty_processes(maker: Maker) -> None:
    end = time.monotonic() + SECONDS
    assert check_totals(maker, 20, lambda _: time.monotonic() > end) > 1000


@pytest.mark.parametrize("action", ["put", "get", "both"])
@makers
def test_killed_in_the_middle_500_times(maker: Maker, action: str) -> None:
    check_kills(maker, action, 500)


@pytest.mark.parametrize("action", ["put", "get"])
@makers
def test_killed_while_waiting_500_times(maker: Maker, action: str) -> None:
    check_killed_waiters(maker, action, 500)
