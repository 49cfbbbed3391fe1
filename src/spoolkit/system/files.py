"""Small files: read only where they are regular files of the right owner, written whole or not at all.

Root looks at spool directories of other users, and writes into them; and whoever owns such a directory may have put
anything there. So nothing here follows a link, waits at a named pipe, or leaves a file that the owner cannot open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import stat
import threading

from spoolkit.errors import SpoolUnavailableError
from spoolkit.system import clock

LIMIT = 64 * 1024
"""Bytes up to which a file is small."""

STRAY_AGE = 3600.0
"""Seconds after which a temporary file can have no writer any more."""

TEMPORARY = r"\.\d+-\d+\.new$"
"""How the name of a small file ends while it is being written, and after a kill then, as a regular expression."""

SERVED = "spoolers"
"""The folder that the first spooler of a directory makes: its owner is the user who runs the jobs."""


class NotOursError(FileNotFoundError):
    """What lies there is no regular file of the right owner: to every reader it is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "no regular file of this directory's owner", path)


def open_regular(path: str, flags: int = os.O_RDONLY, *, linked: bool = False) -> int:
    """A descriptor of the regular file ``path``; with ``linked``, it may have other names.

    Raises ``OSError``, of which :class:`NotOursError` for whatever else lies there.
    """
    # Before it is opened: that alone has an effect on a pipe or a device.
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise NotOursError(path)
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOursError(path) from None
        raise
    try:
        about = os.fstat(fd)
        # A second name may be that of a file elsewhere, which root must neither show nor write to.
        if not stat.S_ISREG(about.st_mode) or (about.st_nlink > 1 and not linked) or not _is_owned(about, path):
            raise NotOursError(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_owned(about: os.stat_result, path: str) -> bool:
    if about.st_uid in (0, os.geteuid()):
        return True
    folder = os.path.dirname(path) or os.curdir
    return about.st_uid in (os.stat(folder).st_uid, owner(folder)[0])


def is_regular(path: str) -> bool:
    """Whether ``path`` is a regular file. Raises ``OSError`` where it may not be looked at."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read(path: str, limit: int = LIMIT) -> bytes | None:
    """The content of a small file; ``None`` where it is gone, larger than ``limit``, or no file of ours.

    Raises ``OSError`` where it is there and cannot be read.
    """
    try:
        fd = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


def create(path: str) -> int:
    """A descriptor of a new file, open to its owner alone, who is the owner of its folder. Raises ``OSError``."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)  # whatever umask a task has set
        give(fd, os.path.dirname(path))
    except BaseException:
        os.close(fd)
        remove(path)
        raise
    return fd


def write(path: str, data: bytes) -> None:
    """Make ``data`` the content of a small file, whole or not at all. Raises ``OSError``."""
    temporary = f"{path}.{os.getpid()}-{threading.get_native_id()}.new"
    remove(temporary)  # of a process of the same number that was killed
    fd = create(temporary)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def sweep(folder: str, temporary: str = TEMPORARY) -> None:
    """Remove the files in ``folder`` that match ``temporary`` and whose writer died long ago. Never raises."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if re.search(temporary, entry.name):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_ctime < clock.now() - STRAY_AGE:
                        os.unlink(entry.path)


def remove(path: str) -> None:
    """Remove the file, if it is there and can be."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def make_folder(path: str) -> None:
    """Make the folder where it is missing, for the owner of the directory that it lies in. Raises ``OSError``.

    Only the last part: a spool directory that is gone must not come back as an empty one that nobody serves.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o700)
        give(fd, os.path.dirname(path))
    finally:
        os.close(fd)


def make_spool_directory(path: str) -> None:
    """Make a spool directory, and what it lies in, where they are missing. Raises ``OSError``."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    make_folder(path)


def owner(directory: str) -> tuple[int, int]:
    """The user and the group that files in ``directory`` belong to. Raises ``OSError``."""
    about = os.stat(directory or os.curdir)
    # Where the directory is root's, or a group's, whoever serves it has made this folder.
    with contextlib.suppress(OSError):
        served = os.lstat(os.path.join(directory, SERVED))
        if served.st_uid and stat.S_ISDIR(served.st_mode):
            about = served
    return about.st_uid, about.st_gid


def give(fd: int, folder: str) -> None:
    """What root has just made in ``folder`` belongs to the folder's owner. Raises ``OSError``."""
    if os.geteuid() == 0:
        uid, gid = owner(folder)
        if os.fstat(fd).st_uid != uid:
            os.fchown(fd, uid, gid)


def check_user(directory: str) -> None:
    """Raise ``PermissionError`` where files of this process's user are of no use to the owner of ``directory``."""
    uid, user = owner(directory)[0], os.geteuid()
    if user not in (0, uid) and uid != 0:
        reason = f"it belongs to {user_name(uid)}, who could not open a file of {user_name(user)}: {as_user(uid)}"
        raise PermissionError(errno.EPERM, reason, directory)


def check_readable(directory: str) -> None:
    """Raise :class:`SpoolUnavailableError` where this process cannot see what lies in the spool directory."""
    try:
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        if not os.access(directory, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
    except OSError as error:
        raise unavailable(directory, error) from error


def unavailable(directory: str, error: OSError) -> SpoolUnavailableError:
    """Why the spool directory cannot be looked at, as an error for people."""
    if isinstance(error, FileNotFoundError):
        what = "is not there: set SPOOLKIT_SPOOL to the one in use; the first job, or `flask spool run`, makes it"
    elif isinstance(error, PermissionError):
        what = f"may not be read by {user_name(os.geteuid())}"
        try:
            uid = owner(directory)[0]
        except OSError:
            what += ", nor what it lies in: be the user who runs uWSGI"
        else:
            what += f"; it belongs to {user_name(uid)}: {as_user(uid)}"
    else:
        what = f"cannot be read: {error.strerror or error}"
    return SpoolUnavailableError(f"the spool directory {directory} {what}", directory=directory, errno=error.errno)


def user_name(uid: int) -> str:
    """The user for people: ``www-data (uid 33)``."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def as_user(uid: int) -> str:
    """How to run a command as that user."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"'#{uid}'"
    return f"run this as that user (sudo -u {name} ...)"
