"""How are small files read and written safely, in directories that may belong to another user?

A file is written whole or not at all, and read only if it is a regular file of the right owner. Root reads and writes
in the spool directories of other users, who may have put anything there. So nothing here follows a link, blocks on a
named pipe, or leaves a file that the owner of the directory cannot open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import stat
import threading

from spoolkit.errors import SpoolUnavailableError
from spoolkit.system import clock

LIMIT = 64 * 1024
"""The size of a small file in bytes, at most."""

STRAY_AGE = 3600.0
"""Age in seconds at which a temporary file cannot have a writer any more."""

TEMPORARY = r"\.\d+-\d+\.new$"
"""Regular expression: the end of the name of a small file that is being written, or whose writer was killed."""

SPOOLERS = "spoolers"
"""The folder in a spool directory that its first spooler creates: its owner is the user who runs the jobs."""


class NotOursError(FileNotFoundError):
    """The path is not a regular file of the right owner: readers treat it as missing."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "no regular file of this directory's owner", path)


def open_regular(path: str, flags: int = os.O_RDONLY, *, linked: bool = False) -> int:
    """Open the regular file ``path`` and return its descriptor.

    Args:
        path: The file.
        flags: Flags of ``os.open()``.
        linked: Whether the file may have other hard links.

    Raises:
        NotOursError: ``path`` is something else, or has another owner.
        OSError: The file is missing or cannot be opened.
    """
    # Checked before it is opened: opening a pipe or a device has an effect by itself.
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
        # A second link may be that of a file elsewhere, which root must neither reveal nor change.
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
    """Whether ``path`` is a regular file. Raises ``OSError`` if that cannot be determined."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read(path: str, limit: int = LIMIT, *, linked: bool = False) -> bytes | None:
    """Read a small file.

    Args:
        path: The file.
        limit: The largest size in bytes that is read.
        linked: Whether the file may have other hard links.

    Returns:
        The content; ``None`` if the file is missing, larger than ``limit``, or not a regular file of the right owner.

    Raises:
        OSError: The file exists and cannot be read.
    """
    try:
        fd = open_regular(path, linked=linked)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


def create(path: str, owned_by: tuple[int, int] | None = None) -> int:
    """Create a file with mode 0600, and return its descriptor. Raises ``OSError``.

    Args:
        path: The file.
        owned_by: The :func:`owner` of its folder, if the caller knows it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)  # independent of the umask, which a task may have changed
        give(fd, path, owned_by)
    except BaseException:
        os.close(fd)
        remove(path)
        raise
    return fd


def open_or_create(path: str) -> int:
    """Open a file for reading and writing, created as by :func:`create` if it is missing, and return its descriptor.

    Raises ``OSError``, and :class:`NotOursError` if ``path`` is not a regular file of the right owner.
    """
    try:
        return create(path)
    except FileExistsError:
        return open_regular(path, os.O_RDWR)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to the descriptor. Raises ``OSError``."""
    # A file object would ask the kernel three more questions.
    if (written := os.write(fd, data)) < len(data):
        rest = memoryview(data)
        while rest := rest[written:]:
            written = os.write(fd, rest)


def write(path: str, data: bytes, *, fsync: bool = False) -> None:
    """Write ``data`` to a small file, whole or not at all. Raises ``OSError``.

    Args:
        path: The file.
        data: All that it will hold.
        fsync: Whether the data must be on the disk before the file gets its name.
    """
    temporary = f"{path}.{os.getpid()}-{threading.get_native_id()}.new"
    remove(temporary)  # left by a killed process with the same pid
    fd = create(temporary)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if fsync:
                file.flush()
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def write_once(path: str, data: bytes) -> bytes:
    """Write ``data`` to a small file that is never replaced, whole or not at all. Raises ``OSError``.

    Args:
        path: The file.
        data: All that it will hold, if no other process makes it at the same time.

    Returns:
        What the file holds.
    """
    temporary = f"{path}.{os.getpid()}-{threading.get_native_id()}.new"
    write(temporary, data, fsync=True)  # an empty file after a power cut would stay for ever
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        remove(temporary)
    # It has two names until the process that has made it has removed the other one.
    return read(path, linked=True) or b""


def try_lock(fd: int) -> bool:
    """Lock an open file for this process. Returns whether no other process has it locked. Raises ``OSError``.

    By ``fcntl()``, not ``flock()``: a process that a request or a task forks does not inherit the lock, and so cannot
    keep it when this process is dead.
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def has_links(folder: str) -> bool:
    """Return whether a file in ``folder`` can have a second name. Some file systems, such as FAT, have no hard links.

    Raises ``OSError`` if that cannot be known.
    """
    own = f"{os.getpid()}-{threading.get_native_id()}.new"
    first, second = f"{folder}/link.{own}", f"{folder}/linked.{own}"
    remove(first)  # left by a killed process with the same pid
    remove(second)
    os.close(create(first))
    try:
        os.link(first, second)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            return False
        raise
    finally:
        remove(second)
        remove(first)
    return True


def fsync_folder(folder: str) -> None:
    """Wait until the names in ``folder`` are on the disk. Raises ``OSError``."""
    fsync(folder, os.O_DIRECTORY)


def fsync(path: str, flags: int = 0) -> None:
    """Wait until what was written to the file is on the disk. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep(folder: str, temporary: str = TEMPORARY) -> None:
    """Remove old files in ``folder`` whose names match ``temporary``: their writers have died. Never raises."""
    is_temporary = re.compile(temporary).search
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_temporary(entry.name):
                remove_stray(entry)


def remove_stray(entry: os.DirEntry[str]) -> None:
    """Remove a temporary file that is so old that its writer has died. Never raises ``OSError``."""
    with contextlib.suppress(OSError):
        # By the time of the last change, not of the content: that may already be the time at which a job is due.
        if entry.stat(follow_symlinks=False).st_ctime < clock.now() - STRAY_AGE:
            os.unlink(entry.path)


def remove(path: str) -> None:
    """Remove the file if that is possible. Never raises ``OSError``."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def make_folder(path: str, owned_by: tuple[int, int] | None = None) -> None:
    """Create the folder ``path`` if it is missing; it belongs to the owner of the folder above. Raises ``OSError``.

    The folder above must exist: a spool directory that was removed must not come back as an empty one that no spooler
    serves.

    Args:
        path: The folder.
        owned_by: The user id and the group id to which it belongs instead.
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
        give(fd, path, owned_by)
    finally:
        os.close(fd)


def make_spool_directory(path: str) -> None:
    """Create a spool directory and the folders above it if they are missing. Raises ``OSError``."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    make_folder(path)


def make_queue_directory(path: str, spool_dir: str) -> None:
    """Create the spool directory of another queue, for the user to whom ``spool_dir`` belongs. Raises ``OSError``.

    ``spool_dir`` is created as well, and so is the folder above ``path`` if it is beside ``spool_dir``.
    """
    if not os.path.isdir(spool_dir):
        make_spool_directory(spool_dir)
    owned_by, above = owner(spool_dir), os.path.dirname(path)
    if os.path.dirname(above) == os.path.dirname(spool_dir):
        make_folder(above, owned_by)
    make_folder(path, owned_by)


def owner(directory: str) -> tuple[int, int]:
    """Return the user id and the group id to which files in ``directory`` belong. Raises ``OSError``."""
    directory = directory or os.curdir
    # The directory may belong to root, or be shared by a group: this folder belongs to the user of the spoolers.
    try:
        about = os.lstat(f"{directory}/{SPOOLERS}")
        if about.st_uid and stat.S_ISDIR(about.st_mode):
            return about.st_uid, about.st_gid
    except OSError:
        pass
    about = os.stat(directory)
    return about.st_uid, about.st_gid


def give(fd: int, path: str, owned_by: tuple[int, int] | None = None) -> None:
    """If this is root, give a file that it has just created to the owner of its folder. Raises ``OSError``."""
    if os.geteuid() == 0:
        uid, gid = owned_by or owner(path[: path.rfind("/") + 1])
        if uid:
            os.fchown(fd, uid, gid)


def check_user(directory: str) -> None:
    """Raise ``PermissionError`` if the owner of ``directory`` could not open files that this process creates there."""
    user = os.geteuid()
    if user and user != (uid := owner(directory)[0]) and uid:
        reason = f"it belongs to {user_name(uid)}, who could not open a file of {user_name(user)}: {as_user(uid)}"
        raise PermissionError(errno.EPERM, reason, directory)


def check_readable(directory: str) -> None:
    """Raise :class:`SpoolUnavailableError` if this process cannot list the spool directory."""
    try:
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        if not os.access(directory, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
    except OSError as error:
        raise unavailable(directory, error) from error


def unavailable(directory: str, error: OSError) -> SpoolUnavailableError:
    """Return an error that explains to people why the spool directory cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        problem = "is not there: set SPOOLKIT_SPOOL to the one in use; the first job, or `flask spool run`, creates it"
    elif isinstance(error, PermissionError):
        problem = f"may not be read by {user_name(os.geteuid())}"
        try:
            uid = owner(directory)[0]
        except OSError:
            problem += ", nor may the folder above it: run this as the user who runs uWSGI"
        else:
            problem += f"; it belongs to {user_name(uid)}: {as_user(uid)}"
    else:
        problem = f"cannot be read: {error.strerror or error}"
    return SpoolUnavailableError(f"the spool directory {directory} {problem}", directory=directory, errno=error.errno)


def user_name(uid: int) -> str:
    """Return the user as people write it: ``www-data (uid 33)``."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def as_user(uid: int) -> str:
    """Return advice for people: how to run a command as the user ``uid``."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"'#{uid}'"
    return f"run this as that user (sudo -u {name} ...)"
