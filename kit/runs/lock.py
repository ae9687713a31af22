"""One run at a time works in a folder: a second is refused with the first's process and machine.

The lock is an advisory `flock` on a file in the folder, whose text says who holds it. The system lets go of it when the process
ends, however it ends, so a killed run leaves no lock behind, only its file, which the next run takes over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from kit.runs import files
from kit.settings import KitError

NAME = ".lock"
HELD = "KIT_LOCKED"  # environment: the folder that the command holds for the notebooks it starts


@contextlib.contextmanager
def hold(folder: Path, shown: str, patience: float = 0.0) -> Iterator[None]:
    """Work in `folder` alone. KitError at once, or after `patience` seconds, while another process does.

    The processes that this one starts (kernels) may enter too. `shown` is how messages call the folder.
    """
    if os.environ.get(HELD) == str(folder):
        yield
        return
    with files.telling(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError):
            raise KitError(f"{folder}: no folder can be made here; KIT_RESULTS=FOLDER puts results elsewhere") from None
        file = _taken(folder / NAME, shown, patience)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        os.close(file)


def _taken(path: Path, shown: str, patience: float) -> int:
    """A descriptor that holds the lock."""
    until = time.monotonic() + patience
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 1000, 0).decode(errors="replace").strip() or "another process"
            os.close(file)
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise KitError(f"{shown}: {holder} is at work here; wait until it has ended, or end it, and run this "
                           "again") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(file)
                raise  # a file system without locks: do without
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file).st_ino == path.stat().st_ino:
                break
        os.close(file)  # its holder has just removed it: begin again with a new one
    os.ftruncate(file, 0)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} (since {now})\n".encode(), 0)
    return file


@contextlib.contextmanager
def for_children(folder: Path) -> Iterator[None]:
    """Let the processes that are started in this block enter what this one holds."""
    os.environ[HELD] = str(folder)
    try:
        yield
    finally:
        del os.environ[HELD]
