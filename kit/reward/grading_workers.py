"""Worker processes that compare answers with math-verify: a deadline for each answer, a memory limit, no way to hang.

The parent's half (`ask`) leases workers to the calling thread, sends batches, and has the worker killed whose answer is
past the deadline. The worker's half (`serve`) is this file run as a program: it imports math-verify once and forks the
child that does the work, again whenever that one was killed, which takes a hundredth of a second. It never sees the
caller's `__main__`, inherits no pipes but its own two, and ends when its parent does.

The protocol: frames of a 4-byte length and JSON, a list of [gold, answer], go in; letters come out. "r<pid> " is ready;
then for every pair "g" once its gold answer has been parsed and evaluated, and "c" (correct), "w" (wrong), "u" (the gold
cannot be parsed) or "m" (out of memory); "e" after a verdict says that this child ends and another one will be ready.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque

DEADLINE = 1.0  # seconds for one answer, by the clock, once a worker has begun with it
PATIENCE = 2.5  # deadlines a worker is given that a busy machine left without processor time
MEMORY = 1 << 30  # bytes of address space of one worker
BATCH = 16  # answers sent to a worker at once; each has its own deadline
START = 60.0  # seconds a worker may take to start (importing sympy on a busy machine)


class _Worker:
    """One process that compares answers. Its pipes are ours alone: no other child inherits them."""

    def __init__(self) -> None:
        read_requests, self.requests = os.pipe()
        self.replies, write_replies = os.pipe()
        command = [sys.executable, "-P", os.path.abspath(__file__), str(MEMORY), str((PATIENCE + 1) * DEADLINE), str(os.getpid())]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=read_requests,
                stdout=write_replies,
                stderr=subprocess.DEVNULL,
                env={k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")},  # the chain's would fill MEMORY
                start_new_session=True,
            )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(read_requests)
            os.close(write_replies)
        self.child = 0  # the process id of what does the work
        self.ready = False
        self.gold_parsed = False
        self.jobs: deque[int] = deque()
        self.since = self.cpu = 0.0

    def send(self, jobs: list[int], pairs: list[tuple[str, str]]) -> None:
        self.jobs.extend(jobs)
        data = json.dumps([pairs[job] for job in jobs]).encode()  # ASCII: a lone surrogate travels as an escape
        data = struct.pack(">I", len(data)) + data
        self.progressed()
        with contextlib.suppress(BrokenPipeError):  # it died: `ask` reads that from the other pipe
            while data:
                data = data[os.write(self.requests, data) :]

    def progressed(self) -> None:
        self.since, self.cpu = time.monotonic(), self.cpu_seconds()

    def cpu_seconds(self) -> float:
        try:
            with open(f"/proc/{self.child}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return math.inf  # no such file on this system: the clock alone decides

    def expired(self) -> bool:
        """Past its deadline, and not merely because a busy machine gave it no time (then it may take PATIENCE times as long)."""
        waited = time.monotonic() - self.since
        if not self.ready:
            return waited > START
        return waited > PATIENCE * DEADLINE or waited > DEADLINE and not self.cpu_seconds() - self.cpu < DEADLINE / 2

    def restart(self) -> None:
        """End what it is doing. Its next "r" says that it may be given other work; until then letters are stale."""
        self.ready = self.gold_parsed = False
        self.jobs.clear()
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        for descriptor in (self.requests, self.replies):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def stop(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class _Pool:
    """The workers of one process. A forked child has a pool of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []
        self.all: set[_Worker] = set()
        self.queue: deque[threading.Event] = deque()  # threads waiting for a worker, first come first served
        self.failures = 0  # starts in a row that came to nothing

    def lease(self, wait: bool) -> _Worker | None:
        """A worker for this thread alone. None if none is free or others wait for one, unless it shall `wait`."""
        turn: threading.Event | None = None
        while True:
            with self.lock:
                if turn is not None or not self.queue:
                    worker = self._take()
                    if worker:
                        return worker
                if not wait:
                    return None
                turn = threading.Event()
                self.queue.append(turn)
            try:
                turn.wait()
            except BaseException:  # Ctrl-C while waiting: if it just became our turn, it is the next one's
                with self.lock:
                    if turn in self.queue:
                        self.queue.remove(turn)
                    elif self.queue:
                        self.queue.popleft().set()
                raise

    def _take(self) -> _Worker | None:
        while self.idle:
            worker = self.idle.pop()
            if worker.process.poll() is None:
                return worker
            self.all.discard(worker)  # somebody ended it while it was idle
            worker.stop()
        if len(self.all) >= cores():
            return None
        worker = _Worker()
        self.all.add(worker)
        return worker

    def release(self, worker: _Worker, alive: bool) -> None:
        if not alive:
            worker.stop()
        with self.lock:
            if alive:
                self.idle.append(worker)
            else:
                self.all.discard(worker)
            if self.queue:
                self.queue.popleft().set()


_pools: dict[int, _Pool] = {}  # by process id


def _pool() -> _Pool:
    pool = _pools.get(os.getpid())
    if pool is None:
        for other in _pools.values():  # we are a fork: our parent's workers are not ours to talk to
            for worker in other.all:
                worker.close()
            other.all.clear()
        pool = _pools.setdefault(os.getpid(), _Pool())
        atexit.register(stop_workers)
    return pool


def cores() -> int:
    """How many workers there may be: the CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pids() -> list[int]:
    """The process ids of the workers that are running now, and of their children."""
    running = [worker for worker in list(_pool().all) if worker.process.poll() is None]
    return [pid for worker in running for pid in (worker.process.pid, worker.child) if pid]


def stop_workers() -> None:
    """End this process's workers (done at exit; the next answer that needs one starts new ones)."""
    pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        for worker in list(pool.all):
            worker.stop()


_CODES = {"c": "correct", "w": "wrong", "u": "unparseable gold"}


def ask(pairs: list[tuple[str, str]]) -> tuple[list[str], set[str]]:
    """The workers' verdicts on (gold, answer) pairs, in order, and the golds that were parsed on the way."""
    pool = _pool()
    parsed_golds: set[str] = set()
    verdicts: list[str] = [""] * len(pairs)
    waiting = deque(range(len(pairs)))
    died: Counter[int] = Counter()  # by job
    busy: set[_Worker] = set()
    size = max(1, min(BATCH, math.ceil(len(pairs) / (2 * cores()))))
    selector = selectors.DefaultSelector()

    def give_back(worker: _Worker, alive: bool) -> None:
        selector.unregister(worker.replies)
        busy.discard(worker)
        worker.jobs.clear()
        pool.release(worker, alive)

    def read_replies(worker: _Worker, letters: str) -> bool:
        """Take verdicts in; False if the worker's child ended in the midst of its answers."""
        for letter in re.findall(r"r\d+ |.", letters):
            if letter[0] == "r":
                if worker.ready:
                    return False
                worker.child, worker.ready, pool.failures = int(letter[1:]), True, 0
            elif letter == "e":
                worker.ready = False
            elif worker.ready and letter == "g":
                worker.gold_parsed = True
                parsed_golds.add(pairs[worker.jobs[0]][0])
            elif worker.ready:
                stuck = "timeout" if worker.gold_parsed else "unparseable gold"
                verdicts[worker.jobs.popleft()] = _CODES.get(letter, stuck)
                worker.gold_parsed = False
        return True

    try:
        while waiting or busy:
            while waiting and (worker := pool.lease(wait=not busy)):
                busy.add(worker)
                selector.register(worker.replies, selectors.EVENT_READ, worker)
                worker.send([waiting.popleft() for _ in range(min(size, len(waiting)))], pairs)
            for key, _ in selector.select(timeout=DEADLINE / 20):
                worker = key.data
                letters = os.read(worker.replies, 65536).decode(errors="replace")
                if not letters or letters.startswith("!") or not read_replies(worker, letters):
                    _died(pool, worker, letters, waiting, died, verdicts)
                    give_back(worker, alive=False)
                    continue
                if worker.ready:
                    worker.progressed()
                if not worker.jobs:
                    give_back(worker, alive=True)
            for worker in [worker for worker in busy if worker.expired()]:
                if worker.ready:
                    verdicts[worker.jobs.popleft()] = "timeout" if worker.gold_parsed else "unparseable gold"
                    waiting.extendleft(reversed(worker.jobs))
                    worker.restart()
                    give_back(worker, alive=True)
                else:
                    _died(pool, worker, "", waiting, died, verdicts)
                    give_back(worker, alive=False)
    except BaseException:  # Ctrl-C too: a worker in the middle of something is of no use to the next caller
        for worker in list(busy):
            give_back(worker, alive=False)
        raise
    finally:
        selector.close()
    return verdicts, parsed_golds


def _died(pool: _Pool, worker: _Worker, message: str, waiting: deque[int], died: Counter[int], verdicts: list[str]) -> None:
    """A worker ended by itself. Its answer gets a second chance with another one: it may not have been to blame."""
    jobs = list(worker.jobs)
    if not worker.ready:
        pool.failures += 1
        if pool.failures >= 3:
            pool.failures = 0
            raise RuntimeError(f"the grading worker does not start: {message[1:] or ' '.join(worker.process.args)}")
    elif jobs:
        died[jobs[0]] += 1
        if died[jobs[0]] > 1:
            verdicts[jobs.pop(0)] = "timeout" if worker.gold_parsed else "unparseable gold"
    waiting.extendleft(reversed(jobs))


def serve(memory: int, deadline: float, parent: int) -> None:
    """The worker: `memory` bytes of address space, `deadline` seconds for one pair. Ends with the process `parent`."""
    import logging
    import resource
    import select

    child = 0
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not land in the protocol
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(ValueError, OSError):  # not every system knows this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import math_verify  # noqa: F401

        from kit.reward.symbolic import parsed
    except Exception as error:
        os.write(replies, f"!cannot import math_verify: {error}".encode())
        sys.exit(1)
    logging.disable(logging.CRITICAL)
    parsed(r"\sqrt{3}x^{2}+e", r"\frac{1}{2}e")  # builds the parser's tables

    def end_child(*_: object) -> None:
        if child:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, end_child)
    while os.getppid() == parent:
        ended, alive = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ended)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            try:
                _work(replies, memory, deadline)
            except BrokenPipeError:  # nobody listens any more
                os._exit(0)
            finally:
                os._exit(1)
        os.close(alive)
        while not select.select([ended], [], [], 5.0)[0]:  # readable once the child is gone
            if os.getppid() != parent:  # killed without a word, and a fork of it may still hold our pipe
                end_child()
                sys.exit(0)
        os.close(ended)
        _, status = os.waitpid(child, 0)
        child = 0
        if os.waitstatus_to_exitcode(status) == 0:
            sys.exit(0)


def _work(replies: int, memory: int, deadline: float) -> None:
    """The worker's child: answers frames until its input ends (exit code 0), or until it has grown too large (1)."""
    import resource
    import select

    from kit.reward.symbolic import gold_parses, judge

    supervisor = os.getppid()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills even inside one long C call, should nobody else

    def receive(size: int) -> bytes:
        data = b""
        while len(data) < size:
            while not select.select([0], [], [], 5.0)[0]:
                if os.getppid() != supervisor:
                    os._exit(0)
            part = os.read(0, size - len(data))
            if not part:
                os._exit(0)
            data += part
        return data

    os.write(replies, f"r{os.getpid()} ".encode())
    while True:
        (size,) = struct.unpack(">I", receive(4))
        pairs = json.loads(receive(size))
        for number, (gold, answer) in enumerate(pairs, start=1):
            signal.setitimer(signal.ITIMER_REAL, deadline)
            try:
                try:
                    parses = gold_parses(gold)
                except MemoryError:
                    raise
                except Exception:
                    parses = False
                if parses:
                    os.write(replies, b"g")
                    signal.setitimer(signal.ITIMER_REAL, deadline)
                code = judge(gold, answer) if parses else "u"
            except MemoryError:
                code = "m"
            signal.setitimer(signal.ITIMER_REAL, 0)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > memory / 2  # ordinary answers need room
            ends = grown and number == len(pairs)
            os.write(replies, (code + "e" * ends).encode())
            if ends:
                return


if __name__ == "__main__":
    # The package's folder leads only while its own modules are found: a user's folder may hold any name.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import kit.reward.symbolic  # noqa: F401

    sys.path.pop(0)
    serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
