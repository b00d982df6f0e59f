"""Sums over four children: what `Process.map` and a `SharedMemQueue` do, and what they gain.

python demo/sums.py [--numbers N] [--chunk N] [--processes N]
"""

from __future__ import annotations

import argparse
import os
import time

from multiprocessing_kit import Process, Response, SharedMemQueue, Worker


class Sum(Worker):
    """One job: add up one range."""

    def process(self, numbers: range) -> int:
        total = 0
        for number in numbers:
            total += number
        return total


def chunks(last: int, size: int) -> list[range]:
    """1…last in ranges of `size`."""
    return [range(first, min(first + size, last + 1)) for first in range(1, last + 1, size)]


def total(last: int, size: int, processes: int) -> int:
    """The sum of 1…last, one job for each chunk."""
    with SharedMemQueue[Response]() as queue:
        responses = Process(processes, queue).map(Sum(), chunks(last, size))
    return sum(response.body for response in responses)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sums of numbers over several processes.")
    parser.add_argument("--numbers", type=int, default=10_000_000, help="sum 1…N (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=500_000, help="numbers per job (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="children (default: %(default)s)")
    options = parser.parse_args()

    print("sum of 1…100 in chunks of 20:", total(100, 20, options.processes))

    last = options.numbers
    began = time.perf_counter()
    result = total(last, options.chunk, options.processes)
    together = time.perf_counter() - began

    began = time.perf_counter()
    alone = Sum().start(range(1, last + 1)).body
    by_itself = time.perf_counter() - began

    expected = last * (last + 1) // 2
    print(f"sum of 1…{last:,} in chunks of {options.chunk:,}: {result}")
    print(f"n(n+1)/2 says {expected}:", "the same" if result == alone == expected else "WRONG")
    print(
        f"{options.processes} children {together:.2f} s, one process {by_itself:.2f} s: "
        f"{by_itself / together:.1f} times as fast ({os.cpu_count()} CPUs here)"
    )
    if not result == alone == expected:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
