"""Worker processes that ask math-verify, or a problem's own verifier: a deadline for each answer, a memory limit, no way to hang.

A pebble pool on a forkserver with math-verify loaded: a killed worker is replaced in tenths of a second. Its own timer kills it,
even inside one long C call, after DEADLINE seconds of processor time for one answer; the pool does after PATIENCE by the clock.
Workers never see the caller's `__main__` and end when the caller does. Any thread may ask; a fork gets workers of its own.
"""

import concurrent.futures
import contextlib
import importlib.util
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing import context, forkserver, util
from typing import Any

from kit.reward import answers, verifiers
from kit.settings import KitError

DEADLINE = 1.0  # seconds of processor time for one answer
PATIENCE = 2.5  # seconds by the clock: a busy machine may leave a worker without processor time
LOCKED = 5.0  # seconds that workers wait for a pipe that a killed one had locked; pebble's minute is passed up to three times
MEMORY = 1 << 30  # bytes of address space of one worker
TASKS = 5_000  # answers after which a worker is replaced: what a parser keeps adds up

_pools: dict[int, Any] = {}  # by process id
_lock = threading.RLock()
_gym = False  # whether workers import reasoning-gym when they start: later, its second would count against an answer


def ask(pairs: Sequence[tuple[str, str, str]]) -> list[str]:
    """The verdicts on (gold, answer, verifier), in order: correct, wrong, unparseable gold, or timeout (too long or large).
    Raises ImportError where workers cannot import math-verify, RuntimeError where they do not start, KitError where a verifier
    needs reasoning-gym and it is not installed."""
    from pebble import ProcessExpired

    global _gym
    if not _gym and any(verifier for _, _, verifier in pairs):
        if importlib.util.find_spec("reasoning_gym") is None:
            raise KitError("these problems are graded by reasoning-gym, which is not installed; pip install -e '.[gym]'")
        _gym = True
        stop_workers()
    results = [""] * len(pairs)
    for attempt in range(4):
        pool = _pool()
        try:
            futures = {n: pool.schedule(_judge, pairs[n], timeout=PATIENCE) for n, result in enumerate(results) if not result}
            for n, future in futures.items():
                while not concurrent.futures.wait([future], timeout=1).done:
                    if not pool.active:
                        raise concurrent.futures.BrokenExecutor
                try:
                    results[n] = future.result()
                except (TimeoutError, ProcessExpired) as error:  # no processor time on a busy machine, or killed: once more
                    stuck = getattr(error, "exitcode", None) == -signal.SIGPROF
                    results[n] = "timeout" if stuck or attempt else ""
        except (concurrent.futures.BrokenExecutor, concurrent.futures.CancelledError, RuntimeError):
            stop_workers(pool)  # another thread's Ctrl-C, or all workers were killed: the rest goes to new ones
        except BaseException:  # Ctrl-C: workers in the middle of something are of no use to the next caller
            stop_workers()
            raise
        if "" not in results:
            return results
    raise RuntimeError("the grading workers do not start")


def stop_workers(pool: Any = None) -> None:
    """End this process's workers (or those of an older pool); the next answer that needs one starts new ones."""
    with _lock:
        pool = pool or _pools.pop(os.getpid(), None)
    if pool:
        pool.stop()
        with contextlib.suppress(RuntimeError, OSError):
            pool.join()


class _Process(context.ForkServerProcess):
    """Starts while `__main__` has no file and no name: multiprocessing would run the caller's script again in every worker."""

    def start(self) -> None:
        main = sys.modules["__main__"].__dict__
        kept = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        main["__spec__"] = None
        try:
            super().start()
        finally:
            main.update(kept)


def _pool() -> Any:
    from pebble import CONSTS, ProcessPool

    CONSTS.channel_lock_timeout = LOCKED
    with _lock:
        pool = _pools.get(os.getpid())
        if pool is None or not pool.active:
            if _pools and os.getpid() not in _pools:  # we are a fork: our parent's forkserver is not ours to talk to
                forkserver._forkserver.__init__()
                _pools.clear()
            _ensure_forkserver()
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            start = context.ForkServerContext()
            start.Process = _Process
            pool = _pools[os.getpid()] = ProcessPool(cores, TASKS, _prepare, (os.getpid(), MEMORY, _gym), start)
        return pool


def _ensure_forkserver() -> None:
    """Its modules come from the installed packages, not from the folder we are in; the chain's MALLOC_* would fill MEMORY."""
    changed = [name for name in os.environ if name.startswith("MALLOC_") or name == "PYTHONSAFEPATH"]
    kept, folder = {name: os.environ.pop(name) for name in changed}, tempfile.tempdir
    os.environ["PYTHONSAFEPATH"] = "1"
    tempfile.tempdir = "/tmp" if len(tempfile.gettempdir()) > 60 else folder  # a socket's whole path must stay below 108
    try:
        util.get_temp_dir()  # of this process's sockets; made once
        forkserver.set_forkserver_preload(["math_verify", "pebble.pool.process"])
        forkserver.ensure_running()
    finally:
        tempfile.tempdir = folder
        del os.environ["PYTHONSAFEPATH"]
        os.environ.update(kept)


def _prepare(caller: int, memory: int, gym: bool) -> None:
    """Runs in a new worker, and `_judge` for every answer."""
    from pebble import CONSTS

    CONSTS.channel_lock_timeout = LOCKED
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends even one long C call
    with contextlib.suppress(ValueError, OSError):  # not every system knows this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    logging.disable(logging.CRITICAL)
    if gym:
        importlib.import_module("reasoning_gym")
    with contextlib.suppress(ImportError):
        answers.by_parser(r"\sqrt{3}x^{2}+e", r"\frac{1}{2}e")  # builds the parser's tables

    def follow() -> None:  # end with the caller, also where a fork of it still holds our pipes
        with contextlib.suppress(OSError):
            while True:
                time.sleep(2)
                os.kill(caller, 0)
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()


def _judge(gold: str, answer: str, verifier: str) -> str:
    signal.setitimer(signal.ITIMER_PROF, DEADLINE)  # SIGPROF ends the process
    try:
        right = verifiers.correct(verifier, answer) if verifier else answers.same(gold, answer, answers.by_parser)
        return "correct" if right else "wrong"
    except answers.Undecided:
        return "unparseable gold"
    except MemoryError:
        os.kill(os.getpid(), signal.SIGPROF)
        raise
    except ImportError:
        raise
    except Exception:  # whatever sympy raises on an answer: it is not equal to the gold
        return "wrong"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
