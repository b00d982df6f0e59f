"""Arguments and results as bytes.

    payload = one byte that tells the encoding · the value in it

"j" JSON, "m" msgpack, "p" pickle, signed: 32 bytes of HMAC-SHA256 with the service's secret before it.
A pickle can run any code in who reads it, so only those with a right signature are read, and none without a
secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
from typing import Any

from multiprocessing_kit.errors import PayloadError, ServiceConfigError

__all__ = ["ENCODINGS", "Payloads"]

ENCODINGS = ("json", "msgpack", "pickle")

_DIGEST_BYTES = 32

_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode  # `dumps` makes one each time


class Payloads:
    """Writes in one encoding, and reads all that it may.

    Args:
        encoding: One of `ENCODINGS`.
        secret: That signs pickles; "" allows none.

    Raises:
        ServiceConfigError: There is no such encoding, pickle has no secret, or msgpack is not installed.
    """

    def __init__(self, encoding: str = "json", secret: str = "") -> None:
        if encoding not in ENCODINGS:
            text = f"encoding {encoding!r} is none of {', '.join(ENCODINGS)}"
            raise ServiceConfigError(text, key="encoding")
        if encoding == "pickle" and not secret:
            text = (
                "encoding pickle needs a secret, that signs what is pickled: anyone could send code otherwise"
            )
            raise ServiceConfigError(text, key="secret")
        if encoding == "msgpack":
            try:
                import msgpack  # noqa: F401, PLC0415  # only its users have it
            except ModuleNotFoundError as error:
                text = "encoding msgpack needs msgpack: pip install msgpack"
                raise ServiceConfigError(text, key="encoding") from error
        self.encoding = encoding
        self.secret = secret
        self._key = secret.encode()

    def encode(self, value: Any) -> bytes:
        """As bytes.

        Raises:
            PayloadError: It cannot be written so.
        """
        try:
            if self.encoding == "json":
                return b"j" + _to_json(value).encode()
            if self.encoding == "msgpack":
                import msgpack  # noqa: PLC0415

                return b"m" + bytes(msgpack.packb(value))
            return b"p" + self.signed(pickle.dumps(value, protocol=5))
        except Exception as error:  # whatever its __reduce__ raises
            text = f"{type(value).__name__} {value!r:.100} cannot be written as {self.encoding}: {error}"
            raise PayloadError(text) from error

    def decode(self, payload: bytes) -> Any:
        """From bytes.

        Raises:
            PayloadError: They are none of a known encoding, or may not be read.
        """
        kind, data = payload[:1], payload[1:]
        try:
            if kind == b"j":
                return json.loads(data)
            if kind == b"m":
                import msgpack  # noqa: PLC0415

                return msgpack.unpackb(data)
            if kind == b"p":
                return pickle.loads(self.verified(data))
        except PayloadError:
            raise
        except Exception as error:
            raise PayloadError(f"payload {payload[:60]!r} cannot be read: {error}") from error
        raise PayloadError(f"payload {payload[:60]!r} is of no known encoding")

    @property
    def has_secret(self) -> bool:
        """Whether pickles can be signed."""
        return bool(self._key)

    def signed(self, data: bytes) -> bytes:
        """With its signature before it."""
        return hmac.digest(self._key, data, hashlib.sha256) + data

    def verified(self, data: bytes) -> bytes:
        """Without its signature.

        Raises:
            PayloadError: It is not ours, or there is no secret to tell by.
        """
        if not self._key:
            raise PayloadError("a pickle was sent, and this service has no secret to tell whose it is")
        signature, signed = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if not hmac.compare_digest(signature, hmac.digest(self._key, signed, hashlib.sha256)):
            raise PayloadError("a pickle has no right signature: it was not made with this service's secret")
        return signed
