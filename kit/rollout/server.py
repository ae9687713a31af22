"""A client of an OpenAI-compatible server, for the engine and for the labelling model (behavior/judge): package openai.

The library asks again after a broken connection, a deadline, 408, 409, 429 and 5xx, with pauses that grow or that the server
asks for (Retry-After). Here an answer that is none is asked for again too, and what stays wrong is a KitError of one line.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kit.settings import KitError

T = TypeVar("T")
Request = Callable[[Any], Awaitable[Any]]  # the library's client -> its answer, such as client.completions.create(…)
PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds after an answer that was none, doubled with each; the library's own are the same
UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class Refused(KitError):
    """The server says that the request is wrong; asking again would not help. `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unanswered(KitError):
    """The server gave no usable answer, however often it was asked."""


class Server:
    """The server at `url`; close it after use.

    `concurrency` requests are under way at a time. Each try has `timeout` seconds, and a request is tried `retries` times more.
    The key, if any, is in the environment variable `key_variable`; `where` is what messages call these settings.
    """

    def __init__(
        self, url: str, key_variable: str, timeout: float, retries: int, concurrency: int, where: str = "engine"
    ) -> None:
        import openai

        if key_variable and not os.environ.get(key_variable):
            raise KitError(f"`{where}.key_variable`: there is no environment variable {key_variable}, or it is empty")
        self.url, self.timeout, self.retries, self.concurrency = url.rstrip("/"), timeout, retries, concurrency
        here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        self.client = openai.AsyncOpenAI(
            base_url=self.url, api_key=os.environ.get(key_variable) or "none",
            timeout=openai.Timeout(timeout, connect=10.0),
            # No proxy to this machine; and a server must not send the request, with what is in it, elsewhere.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not here, follow_redirects=False),
        )
        self.loop = asyncio.new_event_loop()  # in a thread of its own: a notebook's own loop is taken
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def ask(self, requests: Sequence[Request], read: Callable[[Any], T]) -> Iterator[tuple[int, T]]:
        """(index, `read` of the answer) of each request, as they come.

        An answer that `read` cannot make sense of (ValueError, KeyError, …) is asked for again. After a request that failed for
        good no other is begun, those under way may end, and then its KitError is raised. Whoever stops listening cancels what
        is under way.
        """
        found: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
        failed: list[KitError] = []
        todo = iter(enumerate(requests))

        async def worker() -> None:
            while not failed and (next_one := next(todo, None)):
                try:
                    found.put((next_one[0], await self._answer(next_one[1], read, self.retries)))
                except KitError as error:
                    failed.append(error)

        async def everyone() -> None:
            try:
                await asyncio.gather(*(worker() for _ in range(min(self.concurrency, len(requests)))))
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

    def ask_once(self, request: Request, read: Callable[[Any], T], retries: int | None = None) -> T:
        """`read` of one answer. May be called from several threads."""
        retries = self.retries if retries is None else retries
        return asyncio.run_coroutine_threadsafe(self._answer(request, read, retries), self.loop).result()

    def chat(self, model: str, messages: list[dict[str, str]], **settings: Any) -> str:
        """The text that a chat model answers to `messages`; KitError as in `ask`. May be called from several threads."""
        return self.ask_once(lambda client: client.chat.completions.create(model=model, messages=messages, **settings),
                             lambda answer: answer.choices[0].message.content + "")  # TypeError where there is no text

    async def _answer(self, request: Request, read: Callable[[Any], T], retries: int) -> T:
        import openai

        client, after = self.client.with_options(max_retries=retries), f"; given up after at most {retries + 1} tries"
        for attempt in range(retries + 1):
            try:
                async with asyncio.timeout(self.timeout * (retries + 1)):  # the library's own limit is for each read of a socket
                    return read(await request(client))
            except openai.APIStatusError as error:
                status = error.status_code
                told = f"{error.request.url}: status {status}: {' '.join(error.response.text.split())[:300]}"
                if status in (408, 409, 429) or status >= 500:
                    raise Unanswered(told + after) from None
                raise Refused(told, status) from None
            except (openai.APITimeoutError, TimeoutError):
                raise Unanswered(f"{self.url}: no answer within {self.timeout:g} s{after}") from None
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                raise KitError(f"{error.request.url}: {type(cause).__name__} {cause}{after}") from None
            except UNUSABLE as error:
                reason = f"not a usable answer ({type(error).__name__}: {error})"
            if attempt < retries:
                await asyncio.sleep(min(LONGEST_PAUSE, PAUSE * 2**attempt))
        raise Unanswered(f"{self.url}: {reason}{after}")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.client.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
