"""The progress bar: an observer in the caller, and nothing else."""

from __future__ import annotations

from multiprocessing_kit.observer import EventSource, Observer

__all__ = ["ProgressBar"]


class ProgressBar(Observer):
    """A tqdm bar on stderr that counts answered jobs, retries and failures.

    Args:
        source: What to observe until `close`.
        total: Number of jobs; None if it is not known.
        label: Written before the bar.
    """

    def __init__(self, source: EventSource, total: int | None, label: str) -> None:
        import tqdm  # noqa: PLC0415  # 80 ms that only those who want a bar should pay

        tqdm.tqdm.monitor_interval = 0  # its monitor is a thread, and threads and fork do not mix
        self._bar = tqdm.tqdm(total=total, desc=label or None, unit="job")
        self._retries = 0
        self._failures = 0
        self._source = source
        source.attach(self)

    def retry(self, source: object) -> None:
        """Count a retry."""
        self._retries += 1
        self._show()

    def success(self, source: object) -> None:
        """Count a job."""
        self._bar.update()

    def failed(self, source: object) -> None:
        """Count a job and a failure."""
        self._failures += 1
        self._bar.update()
        self._show()

    def canceled(self, source: object) -> None:
        """Count a job."""
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it stands, and stop observing."""
        self._source.detach(self)
        self._bar.close()

    def _show(self) -> None:
        self._bar.set_postfix(retries=self._retries, failures=self._failures, refresh=False)
