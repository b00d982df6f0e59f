"""A set-up that hangs, for as long as it takes until somebody is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.folders import until
from tests.service.services import WORK, Shop

pytestmark = [pytest.mark.stress, pytest.mark.timeout(180)]


def test_a_setup_that_hangs_is_told(tmp_path: Path) -> None:
    jobs = """
        class Hangs(Worker):
            def setup(self):
                while True:
                    signal.pause()

            def process(self, argument):
                return argument
    """
    with Shop(tmp_path, WORK.replace("jobs:work", "jobs:Hangs"), jobs) as shop:
        shop.run()
        until(lambda: "alert: worker work: a worker is not set up after 6" in shop.log, "an alert", 90.0)
