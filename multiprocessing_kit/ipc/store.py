"""Buffers on their way to other processes: each copied into the arena once, however many jobs take it.

The same array in the arguments of many jobs is recognised by its address and length, and then compared with
what was copied earlier. So it does not matter whether it was changed meanwhile, or whether another object
has come to lie there: the block found holds these very bytes, or another one is filled. To compare takes
about as long as to copy into warm memory; what it saves is memory, and the time to get pages.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from multiprocessing_kit.ipc.arena import Arena, Block
from multiprocessing_kit.ipc.pages import address_of, equal

__all__ = ["Store"]


class Store:
    """Puts buffers into an arena; by its owner only, and by one thread at a time.

    Args:
        arena: Where the blocks come from.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        # Nothing of the source is kept, and a block goes from here when its last holder forgets it.
        self._blocks: WeakValueDictionary[tuple[int, int], Block] = WeakValueDictionary()

    def place(self, buffer: memoryview) -> Block:
        """A block with the bytes of `buffer`, held for the caller; others may hold it too, nobody may write.

        Args:
            buffer: Contiguous, format "B", not empty.

        Raises:
            IpcError: As for `Arena.allocate`.
        """
        size = len(buffer)
        address = address_of(buffer)
        block = self._blocks.get((address, size))
        if block is not None and block.hold():
            if equal(address, block.address, size):
                return block
            block.release()
        block = self._arena.allocate(size)
        block.memory[:] = buffer
        self._blocks[address, size] = block
        return block
