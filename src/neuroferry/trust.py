"""Trust in files of other users, and safe access to files in shared folders.

Output and work folders are often shared. A file that determines what is executed, such as a
pickle, a plan or settings, is read only if it belongs to the caller, to root, or to someone named
in the environment variable ``NEUROFERRY_TRUST``, and if nobody else can write to it. Files are
never written through a symbolic link.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from neuroferry.errors import ExitCode, NeuroferryError, UsageError
from neuroferry.files import whole_file

VARIABLE = "NEUROFERRY_TRUST"
# mode of a lock, note or log file, before the umask is applied
_SHARED_MODE = 0o666
# only its owner may write to a file that determines what is executed, whatever the umask
_OWN_MODE = 0o644


@dataclass(frozen=True)
class Trust:
    """Users and groups whose files are trusted like the caller's own.

    Attributes
    ----------
    users, groups : frozenset of int
        Their numeric ids.
    everyone : bool
        Whether everyone is trusted, without any check.
    """

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    everyone: bool = False


def trusted() -> Trust:
    """Read ``NEUROFERRY_TRUST``.

    Raises
    ------
    UsageError
        If it names a user or group that this machine does not know.
    """
    return parse_trust(os.environ.get(VARIABLE, ""))


@lru_cache(maxsize=8)
def parse_trust(text: str) -> Trust:
    """Parse names or numbers of users, ``@group``, or ``all``.

    Raises
    ------
    UsageError
        If one of them is unknown on this machine.

    Examples
    --------
    >>> parse_trust("1001, @2000") == Trust(frozenset({1001}), frozenset({2000}))
    True
    """
    users, groups = set(), set()
    words = [word for word in re.split(r"[,\s]+", text) if word]
    for word in words:
        name = word.removeprefix("@")
        try:
            if word == "all":
                continue
            if word.startswith("@"):
                groups.add(int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid)
            else:
                users.add(int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise UsageError(f"{VARIABLE} names '{word}', which is not known here.") from None
    return Trust(frozenset(users), frozenset(groups), "all" in words)


def find_doubt(about: os.stat_result) -> str | None:
    """Say why a file or folder is not trusted; ``None`` if it is.

    Parameters
    ----------
    about : os.stat_result
        Its status; best of the open file, which cannot be exchanged afterwards.
    """
    return _find_owner(about) or _find_writers(about)


def _find_owner(about: os.stat_result) -> str | None:
    trust = trusted()
    believed = {0, os.getuid(), *trust.users}
    if trust.everyone or about.st_uid in believed or about.st_gid in trust.groups:
        return None
    return f"belongs to {_user_name(about.st_uid)}"


def _find_writers(about: os.stat_result) -> str | None:
    trust = trusted()
    if trust.everyone:
        return None
    if about.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    others = about.st_gid not in trust.groups and not _is_private_group(about.st_gid)
    if about.st_mode & stat.S_IWGRP and others:
        return f"can be written by the group {_group_name(about.st_gid)}"
    return None


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _is_private_group(number: int) -> bool:
    """Tell whether a group is the caller's private one, as many systems give each user."""
    try:
        return (
            number == os.getgid()
            and grp.getgrgid(number).gr_name == pwd.getpwuid(os.getuid()).pw_name
        )
    except KeyError:
        return False


def refuse_foreign(path: Path, what: str) -> None:
    """Refuse a file or folder that is not the caller's, or that others can write to.

    Parameters
    ----------
    path : pathlib.Path
        The file; one that is missing is not refused.
    what : str
        Its name in the message, such as ``"The plan"``.

    Raises
    ------
    NeuroferryError
        With exit code 77.
    """
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    _refuse(path, what, about)


def refuse_foreign_run(run_dir: Path) -> None:
    """Refuse a run whose folder, plan or settings are not the caller's.

    Parameters
    ----------
    run_dir : pathlib.Path
        Folder of its record, ``<out>/logs/<run>``.

    Raises
    ------
    NeuroferryError
        With exit code 77.
    """
    for folder in (run_dir, run_dir / "slurm"):
        refuse_foreign(folder, "The folder")
    refuse_foreign(run_dir / "config.toml", "The file of settings")


def _refuse(path: Path, what: str, about: os.stat_result) -> None:
    if stat.S_ISLNK(about.st_mode):
        if trusted().everyone:
            return
        raise _refusal(f"{what} {path} is a symbolic link, which is not followed here.")
    owner = _find_owner(about)
    if owner is not None:
        raise _refusal(
            f"{what} {path} {owner}, who could use it to run commands as you. "
            f"If you trust them, set {VARIABLE}={owner.split()[-1]}."
        )
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise _refusal(f"{what} {path} is not a file.")
    writers = _find_writers(about)
    if writers is not None and _is_reachable(path) and _keeps_modes(path.parent):
        group = writers.split()[-1]
        choice = "" if group == "everybody" else f", or set {VARIABLE}=@{group}"
        raise _refusal(
            f"{what} {path} {writers}, who could use it to run commands as you. "
            f"If nobody has changed it, remove the permission (chmod -R go-w {path}){choice}."
        )


def _refusal(text: str) -> NeuroferryError:
    return NeuroferryError(text, exit_code=ExitCode.NO_PERMISSION)


def _is_reachable(path: Path) -> bool:
    """Tell whether others can reach a file; they cannot below a folder of mode 0700."""
    for folder in path.absolute().parents:
        with suppress(OSError):
            about = folder.stat()
            if about.st_uid == os.getuid() and not about.st_mode & 0o077:
                return False
    return True


@lru_cache(maxsize=256)
def _keeps_modes(folder: Path) -> bool:
    """Tell whether the file system stores permissions; exFAT and often CIFS do not."""
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=".write-test-")
    except OSError:
        return True
    try:
        return not os.fstat(handle).st_mode & 0o077
    finally:
        os.close(handle)
        Path(name).unlink()


def open_own(path: Path, what: str) -> IO[bytes]:
    """Open a file for reading if nobody but the caller can have written it.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    what : str
        Its name in the message.

    Returns
    -------
    file
        Open file, checked after it was opened so that it cannot be replaced in between.

    Raises
    ------
    NeuroferryError
        With exit code 77.
    FileNotFoundError
        When there is none.
    """
    follow = 0 if trusted().everyone else os.O_NOFOLLOW
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | follow)
    except OSError as err:
        if err.errno == errno.ELOOP:
            refuse_foreign(path, what)
        raise
    try:
        _refuse(path, what, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_own(path: Path, what: str) -> str:
    """Read a text file if nobody but the caller can have written it; see `open_own`."""
    with open_own(path, what) as stream:
        return stream.read().decode()


def write_own(path: Path, content: str | bytes, mode: int = _OWN_MODE) -> None:
    """Write a file that only its owner can write to, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        The file; a symbolic link of that name is replaced, not followed.
    content : str or bytes
        Text is written as UTF-8.
    mode : int
        Its permissions, before the umask is applied.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with whole_file(path) as beside, os.fdopen(os.open(beside, flags, mode), "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def open_unlinked(path: Path, flags: int, mode: int = _SHARED_MODE) -> int:
    """Open a file for writing, but never through a symbolic link.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    flags, mode : int
        As for :func:`os.open`; without ``O_TRUNC``, as the file is not checked yet.

    Returns
    -------
    int
        The descriptor.

    Raises
    ------
    NeuroferryError
        When it is a symbolic link, or not a file.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise _planted(path, "a symbolic link") from err
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _planted(path, "not a file")
    return handle


def _planted(path: Path, kind: str) -> NeuroferryError:
    return NeuroferryError(
        f"{path} is {kind}, so nothing is written to it. Remove it, and check who can write to "
        f"{path.parent}.",
        exit_code=ExitCode.CANNOT_CREATE,
    )


def make_own_folder(path: Path) -> None:
    """Create a folder that others cannot write to; refuse an existing one that they can.

    Raises
    ------
    NeuroferryError
        With exit code 77 when it exists and is not the caller's own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o755)
    refuse_foreign(path, "The folder")


def make_work_folder(path: Path) -> None:
    """Create the folder for intermediate results, accessible to the caller only.

    Its files are unpickled. With ``NEUROFERRY_TRUST`` its permissions follow the umask, so that
    trusted users can use it as well.

    Raises
    ------
    NeuroferryError
        With exit code 77 when it exists and is not the caller's own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o777 if os.environ.get(VARIABLE) else 0o700)
    if path.is_symlink():  # the user's own link to another disk
        _refuse_link(path)
        path = path.resolve()
    refuse_foreign(path, "The folder for intermediate results")


def refuse_foreign_links(root: Path, below: Iterable[Path]) -> None:
    """Refuse other users' symbolic links among the folders that results are written to.

    Parameters
    ----------
    root : pathlib.Path
        The output folder, which may be a link itself.
    below : iterable of pathlib.Path
        Folders in it, checked with all their subfolders; missing ones are ignored.

    Raises
    ------
    NeuroferryError
        With exit code 77.
    """
    for top in below:
        for path in (top, *_folders_in(top)):
            if path != root and path.is_symlink():
                _refuse_link(path)


def _folders_in(folder: Path) -> Iterable[Path]:
    for where, names, _ in os.walk(folder):
        yield from (Path(where) / name for name in names)


def _refuse_link(path: Path) -> None:
    owner = _find_owner(path.lstat())
    if owner is not None:
        raise _refusal(
            f"The symbolic link {path} {owner}, and results would be written to its target. "
            f"Remove it, or set {VARIABLE}={owner.split()[-1]} if you trust its owner."
        )
