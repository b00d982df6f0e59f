"""Where the log of a manager goes. The master alone writes it; workers send their records (see `relay`)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import logging.handlers
import os
import socket
import sys
from pathlib import Path

from multiprocessing_kit.errors import ManagerConfigError
from multiprocessing_kit.manager.safe_files import open_private

__all__ = ["check_logs", "open_logs", "reopen_logs", "send_all_to"]

_BYTES, _FILES = 100_000_000, 5
_FORMAT = "%(asctime)s %(levelname)-7s %(processName)s[%(process)d] %(name)s: %(message)s"
_HALF_CHARACTERS = "backslashreplace"
"""As in the name of a file that is no text: such a line is written too."""

_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG = {"linux": "/dev/log", "darwin": "/var/run/syslog"}

_log = logging.getLogger("multiprocessing_kit.manager")


def open_logs(
    logger: logging.Logger | logging.Handler | str | None,
    default: Path | None,
    formatter: logging.Formatter | None = None,
) -> None:
    """Give the root logger the handler that is wanted.

    Args:
        logger: A logger or handler that the program has set up; the path of a file that is rotated at
            100 MB, with five old ones kept; "stderr", "syslog" or "journal"; None for what the program
            has set up already, and where it has nothing, for `default`.
        default: A file; None for standard error.
        formatter: Of what is opened here; None for the usual one.

    Raises:
        ManagerConfigError: It is none of these, or cannot be opened.
    """
    root = logging.getLogger()
    wanted = _wanted(logger, default)
    if isinstance(logger, logging.Logger):
        handlers = [] if logger is root else list(logger.handlers)
    elif isinstance(logger, logging.Handler):
        handlers = [logger]
    else:
        handlers = [] if wanted is None else [_handler(wanted, formatter)]
    for handler in handlers:
        if handler not in root.handlers:
            root.addHandler(handler)
            for named in _loggers():
                if handler in named.handlers and _reaches_root(named):  # or each record would come twice
                    named.removeHandler(handler)
    if handlers and root.level == logging.WARNING:  # as Python sets it, not the program
        root.setLevel(logging.INFO)


def check_logs(logger: logging.Logger | logging.Handler | str | None, default: Path | None) -> None:
    """Raise what `open_logs` would; nothing is logged differently after it."""
    wanted = _wanted(logger, default)
    if wanted is not None:
        _handler(wanted, None).close()


def _wanted(logger: logging.Logger | logging.Handler | str | None, default: Path | None) -> str | None:
    """What there is to open; None for nothing."""
    if isinstance(logger, str):
        return logger
    if logger is not None or logging.getLogger().handlers:
        return None
    return "stderr" if default is None else str(default)


def _handler(wanted: str, formatter: logging.Formatter | None) -> logging.Handler:
    try:
        handler: logging.Handler
        if wanted == "stderr":
            handler = logging.StreamHandler(sys.stderr)
        elif wanted == "syslog":
            handler = _SyslogHandler(_SYSLOG.get(sys.platform, "/dev/log"))
        elif wanted == "journal":
            handler = JournalHandler()
            handler.setFormatter(formatter)  # by itself it tells all that the usual one does
            return handler
        else:
            handler = _PrivateFileHandler(
                os.path.abspath(wanted), maxBytes=_BYTES, backupCount=_FILES, errors=_HALF_CHARACTERS
            )
    except OSError as error:
        raise ManagerConfigError(f"option logger: cannot open {wanted}: {error}", option="logger") from error
    handler.setFormatter(formatter or logging.Formatter(_FORMAT))
    return handler


def reopen_logs() -> None:
    """Go on in new files where somebody has moved the old ones away (logrotate)."""
    for handler in _all_handlers():
        if isinstance(handler, logging.FileHandler):
            with handler.lock or contextlib.nullcontext():
                stream, handler.stream = handler.stream, None
                if stream is not None:
                    stream.close()
                handler.stream = handler._open()


def send_all_to(handler: logging.Handler) -> None:
    """In a worker: have every record handled by `handler`, and by nothing that was set up before."""
    for before in _all_handlers():
        if isinstance(before, logging.FileHandler):  # a file that is rotated away must not stay open here
            before.close()
    for logger in _loggers():
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger().handlers[:] = [handler]


def _loggers() -> list[logging.Logger]:
    named = logging.Logger.manager.loggerDict.values()
    return [logger for logger in named if isinstance(logger, logging.Logger)]


def _reaches_root(logger: logging.Logger) -> bool:
    while logger.propagate and logger.parent is not None:
        logger = logger.parent
    return logger.parent is None


def _all_handlers() -> set[logging.Handler]:
    return {handler for logger in [logging.getLogger(), *_loggers()] for handler in logger.handlers}


class _PrivateFileHandler(logging.handlers.RotatingFileHandler):
    """Nobody else may read its files, also those that come after a rotation."""

    _missing = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; the first that can be written again is followed by how many could not."""
        missing = self._missing
        super().emit(record)
        if missing and missing == self._missing:
            self._missing = 0
            _log.warning("the log could not be written for a while: up to %d records are missing", missing)

    def handleError(self, record: logging.LogRecord) -> None:
        """A disk that is full is told once: a traceback for each record would fill the next one."""
        error = sys.exc_info()[1]
        if isinstance(error, (OSError, ManagerConfigError)):
            if not self._missing:
                with contextlib.suppress(OSError):
                    print(f"the log cannot be written: {error}", file=sys.stderr, flush=True)
            self._missing += 1
        else:
            super().handleError(record)

    def _open(self) -> io.TextIOWrapper:
        path = Path(self.baseFilename)
        descriptor = open_private(path, "logger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return open(descriptor, "a", encoding=self.encoding, errors=self.errors)

    def doRollover(self) -> None:
        """Where it cannot be, rather one large file than lines lost; tried again when that has grown."""
        try:
            super().doRollover()
        except OSError as error:  # as in a directory where this user may not write
            self.maxBytes += _BYTES
            _log.warning("the log cannot be rotated: %s", error)
        else:
            self.maxBytes = _BYTES


class _SyslogHandler(logging.handlers.SysLogHandler):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode(errors=_HALF_CHARACTERS).decode()


class JournalHandler(logging.Handler):
    """To the journal of systemd, by its own protocol: one datagram of fields, or a file with them.

    Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
    """

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(_JOURNAL)
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        try:
            fields = {
                "MESSAGE": self.format(record),
                "PRIORITY": str(_priority(record.levelno)),
                "SYSLOG_IDENTIFIER": record.name,
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
                "LOGGED_BY_PID": str(record.process),
            }
            self._send(b"".join(_field(name, value) for name, value in fields.items()))
        except Exception:
            self.handleError(record)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            with open(os.memfd_create("mpkit-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
                file.write(data)
                file.flush()
                seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)  # the journal takes no other one
                socket.send_fds(self._socket, [b""], [file.fileno()])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors=_HALF_CHARACTERS)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _priority(level: int) -> int:
    """As syslog counts."""
    limits = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((priority for limit, priority in limits if level >= limit), 7)
