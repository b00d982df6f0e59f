"""What the tables of `service.toml` are made of."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from multiprocessing_kit.errors import ServiceConfigError

__all__ = [
    "CALLS",
    "PATTERNS",
    "Fault",
    "Misfit",
    "Model",
    "Name",
    "Reference",
    "Seconds",
    "from_environment",
]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
CALLS = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\.\*)?$"

PATTERNS = {
    NAME: "1 to 64 letters, digits, dots, dashes and underscores",
    REFERENCE: "MODULE:NAME, such as shop.jobs:SendMail",
    CALLS: "MODULE:NAME, or MODULE:CLASS.* for all of its methods",
}
"""In words."""

Fault = tuple[tuple[str | int, ...], str]
"""Path of the key at fault within what was checked, and what is wrong."""

Name = Annotated[str, Field(pattern=NAME)]
Reference = Annotated[str, Field(pattern=REFERENCE)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Model(BaseModel):
    """Takes no key that it does not know, and no value of another type; cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Misfit(ValueError):
    """Values that do not go together.

    Attributes:
        problems: For each, the path of the key at fault within what was checked, and what is wrong.
    """

    def __init__(self, *problems: Fault) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


def from_environment(value: str, key: str) -> str:
    """What "env:NAME" stands for; other values as they are.

    Raises:
        ServiceConfigError: There is no such variable.
    """
    if not value.startswith("env:"):
        return value
    found = os.environ.get(value[4:])
    if not found:
        raise ServiceConfigError(
            f"{key}: {value!r}: there is no variable {value[4:]} in the environment", key=key
        )
    return found
