"""Files written whole or not at all, one run at a time in a folder; broken disks and damaged tables told in one line."""

import contextlib
import errno
import json
import os
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from kit.settings import KitError

BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST,
          errno.EIO}
LOCK = ".lock"
HELD = "KIT_LOCKED"  # environment: the folder that the command which started this process holds, and lets it enter


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def first_line(error: BaseException) -> str:
    """What an error of some library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Say in one line when the disk is full, read-only, forbidden or broken, or a folder cannot be made."""
    try:
        yield
    except OSError as error:
        if error.errno not in BROKEN:
            raise
        why = os.strerror(error.errno).lower()
        raise KitError(f"{error.filename or path}: {why}; what was finished is kept. Make room or mend it and run this again; "
                       "KIT_RESULTS=FOLDER puts results elsewhere") from None


@contextlib.contextmanager
def hold(folder: Path, shown: str, patience: float = 0.0) -> Iterator[None]:
    """Work in `folder` alone; KitError, which names the other process and calls the folder `shown`, at once or after `patience`
    seconds while another one does. The system lets go of the lock when its process ends, however it ends: a killed run leaves
    only the file, which the next one takes over."""
    if os.environ.get(HELD) == str(folder):
        yield
        return
    path = folder / LOCK
    with telling(folder):
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
        path.write_text(f"process {os.getpid()} on {socket.gethostname()} (since {now()})\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before others can take it
        lock.release()


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Write a file whole or not at all: into a neighbour first, then renamed over `path`."""
    neighbour = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with neighbour.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(neighbour, path)
        except BaseException:
            neighbour.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> Path:
    """A text, atomically; returns the path."""
    with atomic(path) as file:
        file.write(text)
    return path


def write_json(path: Path, value: Any) -> None:
    """JSON, readable, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """KitError when a file that should be the kit's own is not there or something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"{path}: not there yet; what makes it has not been run, or not to its end") from None
    except ValueError:
        raise KitError(f"{path}: cannot be read as JSON; it is left as it is, move it away and run this again") from None


def write_csv(path: Path, frame: Any) -> None:
    """A pandas DataFrame as CSV, atomically; floats with six significant digits so that reruns compare equal."""
    with atomic(path) as file:
        frame.to_csv(file, index=False, float_format="%.6g")


def read_csv(path: Path, **how: Any) -> Any:
    """A results file as a DataFrame, read with pandas' options `how`; KitError when it is not there or cannot be read."""
    import pandas as pd

    if not path.is_file():
        raise KitError(f"{path}: not there yet; run the notebooks before this one first, or notebooks/00_run_all.ipynb")
    try:
        return pd.read_csv(path, **how)
    except ValueError:
        raise KitError(f"{path}: damaged; run the notebook that makes it again") from None
