"""Ours and the peers side by side, in one run: `python -m benchmarks`.

A case is a file in `cases/`, a contender in it a function that measures one round. Nothing is
asserted: goals are shown beside the numbers.
"""
