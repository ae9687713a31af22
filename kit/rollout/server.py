"""A client of an OpenAI-compatible server, for the engine and for the labelling model (behavior/judge): package openai.

The library asks again after a broken connection, a deadline, 408, 409, 429 and 5xx, with pauses that grow or that the server
asks for (Retry-After). Here an answer that is none is asked for again too, and what stays wrong is a KitError of one line.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kit.settings import KitError

T = TypeVar("T")
Request = Callable[[Any], Awaitable[Any]]  # the library's client -> its answer, such as client.completions.create(…)
PAUSE = 1.0  # seconds after an answer that was none
UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
HERE = ("localhost", "127.0.0.1", "::1")


class Unanswered(KitError):
    """The server gave no usable answer, however often it was asked."""


class Server:
    """The server at `url`; close it after use. `ask_once` may be called from several threads. `concurrency` requests are under
    way at a time. Each try has `timeout` seconds, and a request is tried `retries` times more. The key, if any, is in the
    environment variable `key_variable`; `where` is what messages call these settings."""

    def __init__(
        self, url: str, key_variable: str, timeout: float, retries: int, concurrency: int, where: str = "engine"
    ) -> None:
        import openai

        if key_variable and not os.environ.get(key_variable):
            raise KitError(f"`{where}.key_variable`: there is no environment variable {key_variable}, or it is empty")
        self.url, self.timeout, self.retries, self.concurrency = url.rstrip("/"), timeout, retries, concurrency
        self.client = openai.AsyncOpenAI(
            base_url=self.url, api_key=os.environ.get(key_variable) or "none", timeout=openai.Timeout(timeout, connect=10.0),
            # No proxy to this machine; and a server must not send the request, with what is in it, elsewhere.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=urlsplit(url).hostname not in HERE, follow_redirects=False),
        )
        self.loop = asyncio.new_event_loop()  # in a thread of its own: a notebook's own loop is taken
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def ask(self, requests: Sequence[Request], read: Callable[[Any], T]) -> Iterator[tuple[int, T]]:
        """(index, `read` of the answer) of each request, as they come. An answer that `read` cannot make sense of (UNUSABLE) is
        asked for again. After a request that failed for good no other is begun, those under way may end, and then its KitError is
        raised. Whoever stops listening cancels what is under way."""
        room, failed = asyncio.Semaphore(self.concurrency), []

        async def one(index: int, request: Request) -> tuple[int, T] | None:
            async with room:
                try:
                    return None if failed else (index, await self._answer(request, read, self.retries))
                except KitError as error:
                    failed.append(error)
                    return None

        asked = [asyncio.run_coroutine_threadsafe(one(*pair), self.loop) for pair in enumerate(requests)]
        try:
            yield from filter(None, (future.result() for future in as_completed(asked)))
            if failed:
                raise failed[0]
        finally:
            for future in asked:
                future.cancel()

    def ask_once(self, request: Request, read: Callable[[Any], T], retries: int | None = None) -> T:
        """`read` of one answer."""
        answer = self._answer(request, read, self.retries if retries is None else retries)
        return asyncio.run_coroutine_threadsafe(answer, self.loop).result()

    async def _answer(self, request: Request, read: Callable[[Any], T], retries: int) -> T:
        import openai

        client, after = self.client.with_options(max_retries=retries), f"; given up after at most {retries + 1} tries"
        for _ in range(retries + 1):
            try:
                async with asyncio.timeout(self.timeout * (retries + 1)):  # the library's own limit is for each read of a socket
                    answer = await request(client)
                if fault := getattr(answer, "error", None):  # some servers say 200 all the same
                    raise ValueError(fault)
                return read(answer)
            except openai.APIStatusError as error:
                wrong = error.status_code < 500 and error.status_code not in (408, 409, 429)  # the request itself
                told = f"{error.request.url}: status {error.status_code}: {' '.join(error.response.text.split())[:300]}"
                raise KitError(told) if wrong else Unanswered(told + after) from None
            except (openai.APITimeoutError, TimeoutError):
                raise Unanswered(f"{self.url}: no answer within {self.timeout:g} s{after}") from None
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                raise KitError(f"{error.request.url}: {type(cause).__name__} {cause}{after}") from None
            except UNUSABLE as error:
                reason = f"not a usable answer ({type(error).__name__}: {error})"
            await asyncio.sleep(PAUSE)
        raise Unanswered(f"{self.url}: {reason}{after}")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.client.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
