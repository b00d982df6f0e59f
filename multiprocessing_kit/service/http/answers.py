"""Responses in JSON."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

__all__ = ["answer", "problem"]


def answer(status: int, data: Any, headers: dict[str, str] | None = None) -> Response:
    """With this status.

    Raises:
        TypeError, ValueError: The data are no JSON.
    """
    return Response(json.dumps(data, allow_nan=False), status, headers, "application/json")


def problem(status: int, error: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """That tells in words what is wrong."""
    return answer(status, {"error": error, **more}, headers)
