"""Many slow answers at a time, given out as they come: an asyncio loop in its own thread (a notebook's own loop is taken)."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from kit.settings import KitError

T = TypeVar("T")


class Background:
    """The loop. `close` ends it; it also ends with the process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Any) -> Any:
        """The result of one coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stream(self, jobs: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> Iterator[tuple[int, T]]:
        """(index, result) of each job as it ends, `at_once` at a time, started in their order.

        After a KitError no further job is started, those under way may end, and then it is raised. Whoever stops listening
        (`close` of this iterator, Ctrl-C) cancels what is under way.
        """
        found: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
        todo = iter(enumerate(jobs))
        failed: list[KitError] = []

        async def worker() -> None:
            while not failed and (next_one := next(todo, None)):
                try:
                    found.put((next_one[0], await next_one[1]()))
                except KitError as error:
                    failed.append(error)

        async def everyone() -> None:
            try:
                await asyncio.gather(*(worker() for _ in range(min(at_once, len(jobs)))))
            finally:
                found.put(None)

        running = asyncio.run_coroutine_threadsafe(everyone(), self.loop)
        try:
            while (item := found.get()) is not None:
                yield item
            running.result()
            if failed:
                raise failed[0]
        finally:
            running.cancel()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
