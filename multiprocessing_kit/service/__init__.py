"""Topics of jobs over SQLite, Redis or RabbitMQ."""

from __future__ import annotations

from multiprocessing_kit.service.client import Client, JobId

__all__ = ["Client", "JobId"]
