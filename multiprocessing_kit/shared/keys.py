"""The keys under which rows are kept: any text, as its UTF-8."""

from __future__ import annotations

from multiprocessing_kit.errors import TableTypeError, TableValueError

__all__ = ["Keys"]


class Keys:
    """Checks keys and packs them.

    Args:
        table: How errors call it.
        size: Most bytes of a key.
    """

    def __init__(self, table: str, size: int) -> None:
        self._table = table
        self._size = size

    def pack(self, key: str) -> bytes:
        """A key under which a row is kept.

        Raises:
            TableTypeError: It is no str.
            TableValueError: It is empty, too long, or no valid text.
        """
        if not isinstance(key, str):
            raise TableTypeError(
                f"{self._table}: a key is a str, not {type(key).__name__}; use str(key)", table=self._table
            )
        try:
            packed = key.encode()
        except UnicodeEncodeError as error:
            raise self._wrong(key, f"is no valid text: {error.reason}") from error
        if not packed:
            raise self._wrong(key, "is empty; give it a text")
        if len(packed) > self._size:
            raise self._wrong(
                key,
                f"takes {len(packed)} bytes of UTF-8, and key_size is {self._size}; use a shorter one, or "
                "create the table with a larger key_size",
            )
        return packed

    def _wrong(self, key: str, why: str) -> TableValueError:
        return TableValueError(f"{self._table}: the key {key!r} {why}", table=self._table, key=key)
