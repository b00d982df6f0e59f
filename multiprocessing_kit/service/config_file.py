"""Reading `service.toml`: each error with its line, its key, what is there, and what was expected."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from multiprocessing_kit.errors import ServiceConfigError
from multiprocessing_kit.service.config import ServiceConfig, known_keys
from multiprocessing_kit.service.config_fields import PATTERNS
from multiprocessing_kit.service.toml_lines import Key, key_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ConfigFile", "Problem", "load_config"]

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

_KINDS = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array [ … ]",
    "model_type": "a table { … }",
    "finite_number": "a finite number",
}


class Problem(NamedTuple):
    """Something that is wrong in a configuration.

    Attributes:
        key: Where, such as `("topics", 0, "timeout")`; `()` for all of it.
        text: What.
    """

    key: Key
    text: str


def load_config(path: str | os.PathLike[str]) -> ServiceConfig:
    """The configuration in a TOML file.

    What is relative in it is so to the file's directory: `broker = "sqlite:///FILE"`, `log`, `runtime_dir`,
    and the modules of `setup` and the topics.

    Raises:
        ServiceConfigError: The file cannot be read, is no TOML, or says what makes no sense: a line for each
            fault, such as `service.toml:12: topics.0.timeout: -1 is not greater than 0`.
    """
    return ConfigFile(path).config


class ConfigFile:
    """A configuration, and where in its file it says what.

    Args:
        path: Of the file.

    Attributes:
        path: As given.
        config: What it says.

    Raises:
        ServiceConfigError: See `load_config`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lines: dict[Key, int] = {}
        data = self._parsed(self._text())
        directory = os.path.dirname(os.path.realpath(path))
        try:
            self.config = ServiceConfig.model_validate(data, context={"directory": directory})
        except ValidationError as error:
            raise self.error(_problems(error)) from None

    def error(self, problems: Iterable[Problem]) -> ServiceConfigError:
        """An error that tells of all of them, in the order of their lines."""
        found = sorted(problems, key=lambda problem: self._line(problem.key))
        text = "\n".join(self._told(problem) for problem in found)
        return ServiceConfigError(text, file=self.path, key=_dotted(found[0].key))

    def _text(self) -> str:
        try:
            return Path(self.path).read_text(encoding="utf-8")
        except OSError as error:
            what = f"{self.path}: cannot be read: {error.strerror}"
            raise ServiceConfigError(what, file=self.path) from error
        except UnicodeDecodeError as error:
            what = f"{self.path}: is not UTF-8: {error.reason} at byte {error.start}"
            raise ServiceConfigError(what, file=self.path) from error

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            what = str(error)
            found = _AT_LINE.search(what)
            line = text.count("\n") + 1
            if found is not None:
                line, what = int(found[1] or line), what[: found.start()]
            raise ServiceConfigError(f"{self.path}:{line}: no TOML: {what}", file=self.path) from error
        self._lines = key_lines(text)
        return data

    def _line(self, key: Key) -> int:
        """Where it is; where it is missing, what it is missing in; 0 for the whole file."""
        while key and key not in self._lines:
            key = key[:-1]
        return self._lines.get(key, 0)

    def _told(self, problem: Problem) -> str:
        line = self._line(problem.key)
        where = [f"{self.path}:{line}" if line else self.path, _dotted(problem.key)]
        return ": ".join([*filter(None, where), problem.text])


def _problems(error: ValidationError) -> Iterator[Problem]:
    for details in error.errors(include_url=False):
        key: Key = details["loc"]
        raised = details.get("ctx", {}).get("error")
        for more, text in getattr(raised, "problems", [((), "")]):
            yield Problem((*key, *more), text or _expected(key, details))


def _expected(key: Key, details: ErrorDetails) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    value = _shown(given)
    if kind in _KINDS:
        return f"{value} is not {_KINDS[kind]}"
    simple: dict[str, Callable[[], str]] = {
        "missing": lambda: "it must be given",
        "extra_forbidden": lambda: _unknown(key),
        "greater_than": lambda: f"{value} is not greater than {context['gt']:g}",
        "greater_than_equal": lambda: f"{value} is not {context['ge']:g} or more",
        "less_than_equal": lambda: f"{value} is not {context['le']:g} or less",
        "literal_error": lambda: f"{value} is not {context['expected']}",
        "string_pattern_mismatch": lambda: f"{value} is not {PATTERNS[context['pattern']]}",
        "too_short": lambda: f"it has {context['actual_length']} of at least {context['min_length']}",
        "value_error": lambda: str(context["error"]),
    }
    told = simple.get(kind)
    return told() if told is not None else f"{value}: {details['msg']}"


def _unknown(key: Key) -> str:
    known = known_keys(key[:-1])
    like = difflib.get_close_matches(str(key[-1]), known, 1)
    hint = f"did you mean {like[0]}? " if like else ""
    return f"there is no such key; {hint}there are {', '.join(known)}"


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    assert text is not None
    return text if len(text) <= 100 else f"{text[:100]}…"


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))
