"""How often this process has forked, by whomever: our runner, the user, multiprocessing.

System V memory stays shared over a fork, it is not copied on write. Whoever has a view of memory that was
lent to it must know whether a child has inherited that, since the child will not tell when it is done.

Both ends of a fork count: a view that another thread makes while the fork is under way may or may not be
inherited, and counts as inherited. `subprocess` does not fork Python code, and does not count.
"""

from __future__ import annotations

import os

__all__ = ["FORKS", "Forks"]


class Forks:
    """Compare `count` with its value at an earlier time to see whether a fork came between.

    Attributes:
        count: Grows with each fork, here and in the child.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        """One end of a fork."""
        self.count += 1


FORKS = Forks()
"""The forks of this process and, up to its own birth, of its ancestors."""

os.register_at_fork(before=FORKS.note, after_in_parent=FORKS.note)
