"""The progress bar, as it stands on stderr at the end."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import pytest

from multiprocessing_kit import Process, RetryStrategy, Worker


class Failing(Worker):
    """Fails as often as its argument says."""

    def process(self, argument: int) -> None:
        if self.attempt <= argument:
            raise ValueError(f"attempt {self.attempt}")


@pytest.mark.parametrize(
    ("make", "total"), [(list, "4/4"), (iter, "4/4"), (lambda numbers: (n for n in numbers), "4job")]
)
def test_the_progress_bar(
    make: Callable[[list[int]], Iterable[int]], total: str, capsys: pytest.CaptureFixture[str]
) -> None:
    process = Process(2, progress=True, name="nightly")
    responses = process.map(Failing(retry=RetryStrategy(2)), make([0, 1, 2, 9]))
    assert [response.ok for response in responses] == [True, True, True, False]
    last = capsys.readouterr().err.split("\r")[-1]
    assert "nightly" in last
    assert total in last
    assert "failures=1, retries=5" in last


def test_inputs_whose_length_raises(capsys: pytest.CaptureFixture[str]) -> None:
    class Lazy(list[int]):
        def __len__(self) -> int:
            raise ValueError("not loaded yet")

    process = Process(1, progress=True)
    assert [response.ok for response in process.map(Failing(), Lazy([0, 0]))] == [True, True]
    assert "2job" in capsys.readouterr().err


def test_a_bar_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The responses are there all the same."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if not left:
                raise BrokenPipeError
            return len(text)

    def inputs() -> Iterator[int]:
        yield from range(100)
        left.clear()

    left = [True]
    monkeypatch.setattr(sys, "stderr", Gone())
    assert len(Process(2, progress=True).map(abs, inputs())) == 100
    assert "progress bar could not be closed" in caplog.text


def test_progress_ends_with_its_map(capsys: pytest.CaptureFixture[str]) -> None:
    process = Process(1, progress=True)
    stream = process.imap(Failing("named"), itertools.count())
    next(stream)
    cast(Any, stream).close()
    assert "named" in capsys.readouterr().err
    assert process._listened() == 0, "the bar has let go"
    process.map(Failing("another"), [0])
    assert "1/1" in capsys.readouterr().err.split("another")[-1]
