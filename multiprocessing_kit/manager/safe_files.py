"""Files in places where others may have put something: no symbolic link is followed, nobody else may read.

A path is walked from the root, one directory after the other, each opened within the one before, so that
nothing can be exchanged between a look and the opening.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import tempfile
from pathlib import Path

from multiprocessing_kit.errors import ManagerConfigError

__all__ = ["open_directory", "open_private", "runtime_directory"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def runtime_directory(wanted: str | os.PathLike[str] | None, user: int | None = None) -> Path:
    """Where a manager's lock and socket are; made if it is not there.

    Args:
        wanted: By the user; None for `$XDG_RUNTIME_DIR/mpkit`, else for root `/run/mpkit`, else for others
            a directory of their own among the temporary ones.
        user: Whom the manager becomes, if root starts it for another: by default it is in `/run/mpkit-UID`
            then. That user must be able to write there, also after a rotation or a restart.

    Raises:
        ManagerConfigError: It cannot be made or written to, is no directory of this user's, or has a symbolic
            link in its path.
    """
    path = Path(os.path.abspath(wanted)) if wanted is not None else _default(user)
    owner = os.geteuid() if user is None else user
    is_new = not os.path.lexists(path)  # which raises nothing where this user may not look
    descriptor = open_directory(path, "runtime_dir", make=True)
    try:
        if is_new and owner != os.geteuid() == 0:
            os.chown(descriptor, owner, -1)
        found = os.fstat(descriptor)
        if wanted is None and found.st_uid != owner:
            raise _wrong("runtime_dir", f"{path} belongs to user {found.st_uid}; give another one")
        may = os.access(descriptor if os.access in os.supports_fd else path, os.W_OK | os.X_OK)
        if not may or (owner != os.geteuid() and not _may_write(owner, found)):
            raise _wrong("runtime_dir", f"{path} is not writable for user {owner}")
    finally:
        os.close(descriptor)
    return path


def _may_write(user: int, found: os.stat_result) -> bool:
    if found.st_uid == user:
        return found.st_mode & 0o300 == 0o300
    entry = pwd.getpwuid(user)
    if found.st_gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        return found.st_mode & 0o030 == 0o030
    return found.st_mode & 0o003 == 0o003


def _default(user: int | None) -> Path:
    if user is not None and user != 0:
        by_root = Path(f"/run/mpkit-{user}")
        if os.geteuid() == 0 or (os.geteuid() == user and by_root.exists()):
            return by_root
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own and os.path.isdir(own) and os.access(own, os.W_OK):
        return Path(os.path.realpath(own), "mpkit")
    if os.geteuid() == 0 and os.path.isdir("/run"):
        return Path("/run/mpkit")
    return Path(os.path.realpath(tempfile.gettempdir()), f"mpkit-{os.geteuid()}")


def open_directory(path: Path, option: str, *, make: bool = False) -> int:
    """A descriptor of the directory.

    Args:
        path: Absolute.
        option: Which it comes from, for messages.
        make: Whether to make it, and those above, where they are missing.

    Raises:
        ManagerConfigError: It is not there and cannot be made, or a part of the path is a symbolic link.
    """
    descriptor = os.open("/", _DIRECTORY)
    for at, part in enumerate(path.parts[1:], 2):
        here = Path(*path.parts[:at])
        try:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
            except FileNotFoundError:
                if not make:
                    raise
                os.mkdir(part, 0o700, dir_fd=descriptor)
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
        except FileExistsError:  # another start has made it meanwhile
            below = os.open(part, _DIRECTORY, dir_fd=descriptor)
        except OSError as error:
            raise _refused(option, here, error) from error
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def open_private(path: Path, option: str, flags: int) -> int:
    """Open a regular file of this user's, made with mode 0600 if it is not there and `flags` say so.

    Args:
        path: Absolute.
        option: Which it comes from, for messages.
        flags: As `os.open` takes them.

    Raises:
        ManagerConfigError: It is something else, somebody else's, or has a symbolic link in its path.
    """
    directory = open_directory(path.parent, option)
    try:
        descriptor = os.open(path.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(option, path, error) from error
    finally:
        os.close(directory)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in (0, os.geteuid()):
        os.close(descriptor)
        raise _wrong(option, f"{path} is not a plain file of this user's; remove it, or use another place")
    return descriptor


def _refused(option: str, path: Path, error: OSError) -> ManagerConfigError:
    if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and path.is_symlink()):
        return _wrong(option, f"{path} is a symbolic link, which is not followed; give the real path")
    return _wrong(option, f"cannot open {path}: {error.strerror}")


def _wrong(option: str, what: str) -> ManagerConfigError:
    return ManagerConfigError(f"option {option}: {what}", option=option)
