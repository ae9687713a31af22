"""One run at a time works in a folder: a second is refused with the first's process and machine.

The system lets go of the lock when its process ends, however it ends; a killed run leaves only the file, which the next one
takes over.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kit.runs import files, manifest
from kit.settings import KitError

NAME = ".lock"
HELD = "KIT_LOCKED"  # environment: the folder that the command which started this process holds, and lets it enter


@contextlib.contextmanager
def hold(folder: Path, shown: str, patience: float = 0.0) -> Iterator[None]:
    """Work in `folder` alone. KitError at once, or after `patience` seconds, while another process does.

    `shown` is how messages call it.
    """
    if os.environ.get(HELD) == str(folder):
        yield
        return
    path = folder / NAME
    with files.telling(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=patience, poll_interval=0.2)
        except Timeout:
            holder = path.read_text().strip() if path.is_file() else ""
            raise KitError(f"{shown}: {holder or 'another process'} is at work here; wait until it has ended, or end it, and run "
                           "this again") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise  # a file system without locks: do without
        path.write_text(f"process {os.getpid()} on {socket.gethostname()} (since {manifest.now()})\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before others can take it
        lock.release()
