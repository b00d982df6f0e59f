"""The systemd unit of a manager, as text."""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence

from multiprocessing_kit.manager.settings import Settings

__all__ = ["EXIT_ALREADY_RUNNING", "EXIT_CONFIG", "systemd_unit"]

EXIT_ALREADY_RUNNING = 75  # EX_TEMPFAIL
EXIT_CONFIG = 78  # EX_CONFIG

_WATCHDOG_SECONDS = 30
_AFTER_STOP_SECONDS = 10

_PLAIN = re.compile(r"[\w@%$+=:,./-]+")


def systemd_unit(
    settings: Settings, command: Sequence[str], directory: str, *, keeps_runtime: bool = False
) -> str:
    """The unit.

    Args:
        settings: The manager's.
        command: What runs it in the foreground; the first is an absolute path.
        directory: Where to run it.
        keeps_runtime: Whether what is in the runtime directory outlives the end of it.
    """
    user = getpass.getuser() if settings.user is None else settings.user
    group = [] if settings.group is None else [f"Group={settings.group}"]
    preserve = ["RuntimeDirectoryPreserve=yes"] if keeps_runtime else []
    return "\n".join(
        [
            "[Unit]",
            f"Description=Workers of {settings.name}",
            "After=network.target",
            "",
            "[Service]",
            "Type=notify",
            "NotifyAccess=main",
            f"User={user}",
            *group,
            f"WorkingDirectory={directory.replace('%', '%%')}",
            f"ExecStart={' '.join(map(_quoted, command))}",
            "ExecReload=/bin/kill -HUP $MAINPID",
            f"RuntimeDirectory=mpkit-{settings.name}",
            *preserve,
            f"Environment=XDG_RUNTIME_DIR=%t/mpkit-{settings.name}",
            "KillMode=mixed",
            f"TimeoutStopSec={settings.stop_timeout + _AFTER_STOP_SECONDS:g}",
            f"WatchdogSec={_WATCHDOG_SECONDS}",
            "Restart=on-failure",
            f"RestartPreventExitStatus={EXIT_ALREADY_RUNNING} {EXIT_CONFIG}",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _quoted(word: str) -> str:
    """For a command line of systemd, whose %, $ and quotes are not those of a shell."""
    word = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
