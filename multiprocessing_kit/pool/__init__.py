"""`Pool`: the interface of `multiprocessing.pool.Pool`, on children that may be killed."""

from multiprocessing_kit.pool.pool import Pool

__all__ = ["Pool"]
