"""In which line of a TOML file a key is: what `tomllib` does not tell.

The text was parsed before, so nothing is checked here.
"""

from __future__ import annotations

import re

__all__ = ["Key", "key_lines"]

Key = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_NOTHING = re.compile(r"(?:[\s,]+|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?!")' + r"|'''.*?'''(?!')" + r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'", re.DOTALL
)
_PLAIN = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[Key, int]:
    """The line, from 1, in which each key, table and array element begins.

    Args:
        text: Valid TOML.

    Returns:
        By path, such as `("topics", 0, "timeout")`.
    """
    return _Scan(text).lines


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._counts: dict[Key, int] = {}
        self.lines: dict[Key, int] = {}
        self._document()

    def _document(self) -> None:
        table: Key = ()
        while self._skip(_NOTHING) < len(self._text):
            if self._starts("[["):
                table = self._header(2)
            elif self._starts("["):
                table = self._header(1)
            else:
                self._pair(table)

    def _header(self, brackets: int) -> Key:
        line = self._line()
        self._at += brackets
        path: Key = ()
        names = self._dotted()
        self._at += brackets
        for number, name in enumerate(names, 1):
            path += (name,)
            if number == len(names) and brackets == 2:
                self._counts[path] = self._counts.get(path, 0) + 1
                self.lines.setdefault(path, line)
            if path in self._counts:  # what is said of it is said of its last element
                path += (self._counts[path] - 1,)
        self.lines.setdefault(path, line)
        return path

    def _pair(self, table: Key) -> None:
        line = self._line()
        path = table
        for name in self._dotted():
            path += (name,)
            self.lines.setdefault(path, line)
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Key) -> None:
        if self._starts("["):
            self._at += 1
            number = 0
            while self._skip(_NOTHING) < len(self._text) and not self._starts("]"):
                self.lines[(*path, number)] = self._line()
                self._value((*path, number))
                number += 1
            self._at += 1
        elif self._starts("{"):
            self._at += 1
            while self._skip(_NOTHING) < len(self._text) and not self._starts("}"):
                self._pair(path)
            self._at += 1
        elif (string := _STRING.match(self._text, self._at)) is not None:
            self._at = string.end()
        else:
            self._skip(_PLAIN)

    def _dotted(self) -> list[str]:
        names = []
        while True:
            self._skip(_SPACE)
            found = _STRING.match(self._text, self._at) or _BARE.match(self._text, self._at)
            assert found is not None
            names.append(found[0].strip("\"'"))
            self._at = found.end()
            self._skip(_SPACE)
            if not self._starts("."):
                return names
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._at

    def _starts(self, what: str) -> bool:
        return self._text.startswith(what, self._at)

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1
