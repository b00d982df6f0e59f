"""The systemd unit of a manager, as text."""

from __future__ import annotations

import getpass
import os
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
    settings: Settings,
    command: Sequence[str],
    directory: str,
    *,
    keeps_runtime: bool = False,
    variables: Sequence[str] = (),
) -> str:
    """The unit.

    Args:
        settings: The manager's.
        command: What runs it in the foreground; the first is an absolute path.
        directory: Where to run it.
        keeps_runtime: Whether what is in the runtime directory outlives the end of it.
        variables: Of the environment, that must come from somewhere: systemd passes on none of them.
    """
    user = getpass.getuser() if settings.user is None else settings.user
    group = [] if settings.group is None else [f"Group={settings.group}"]
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
            *([f"# EnvironmentFile=/etc/{settings.name}.env  ({', '.join(variables)})"] if variables else []),
            f"ExecStart={' '.join(map(_quoted, command))}",
            "ExecReload=/bin/kill -HUP $MAINPID",
            *_runtime(settings, directory, keeps_runtime),
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


def _runtime(settings: Settings, directory: str, keeps: bool) -> list[str]:
    lines = []
    if settings.runtime_dir is None:
        made = f"mpkit-{settings.name}"
        lines = [f"RuntimeDirectory={made}", f"Environment=XDG_RUNTIME_DIR=%t/{made}"]
    else:
        path = os.path.normpath(os.path.join(directory, settings.runtime_dir))
        if path.startswith("/run/"):  # which a boot empties, and where only root may make one
            lines = [f"RuntimeDirectory={_word(path[5:].replace('%', '%%'))}", "RuntimeDirectoryMode=0700"]
            keeps = True  # a manager that systemd has not started may have its lock and socket there
    return [*lines, "RuntimeDirectoryPreserve=yes"] if keeps else lines


def _quoted(word: str) -> str:
    """For a command line of systemd, whose %, $ and quotes are not those of a shell."""
    return _word(word.replace("%", "%%").replace("$", "$$"))


def _word(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
