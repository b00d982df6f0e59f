"""Faults done to services and their brokers: `python -m benchmarks.service_chaos`."""
