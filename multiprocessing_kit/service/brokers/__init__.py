"""Where jobs wait: one contract, and the brokers that keep it."""

from __future__ import annotations

from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker

__all__ = ["Broker", "open_broker"]
