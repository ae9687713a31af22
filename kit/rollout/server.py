"""A client of an OpenAI-compatible server: bounded, patient, and exact.

Each request is asked until it has one usable answer, so nothing is lost and nothing is counted twice: a connection that
breaks, a deadline that passes, 429, 5xx and an answer that is none are worth another try, after a pause that doubles (with
jitter, so that clients do not come back together) or that the server asks for (Retry-After). What is the asker's fault
(other 4xx) is told at once. Errors are one KitError with url and reason.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kit.rollout.background import Background
from kit.settings import Engine, KitError

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
AGAIN = {408, 409, 425, 429}  # and every 5xx
JITTER = random.Random()  # its own: pauses must not draw from a seeded generator


class Refused(KitError):
    """The server says that the request is wrong; asking again would not help. `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """The server at `settings.url`. Close it after use."""

    def __init__(self, settings: Engine) -> None:
        import httpx

        headers = {}
        if settings.key_variable:
            if not os.environ.get(settings.key_variable):
                raise KitError(f"`engine.key_variable`: there is no environment variable {settings.key_variable}, or it is empty")
            headers["Authorization"] = f"Bearer {os.environ[settings.key_variable]}"
        self.settings = settings
        self.url = settings.url.rstrip("/")
        self.background = Background()
        self.client = httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(settings.timeout, connect=10.0),
            limits=httpx.Limits(max_connections=settings.concurrency),
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy to this machine
        )
        self.failed = False  # one request has failed for good: the others under way are not tried again

    def ask(self, path: str, bodies: Sequence[dict[str, Any]], read: Callable[[Any], T]) -> Iterator[tuple[int, T]]:
        """(index, `read` of the answer's JSON) of each body, as they come; `settings.concurrency` at a time.

        An answer that `read` cannot make sense of (ValueError, KeyError, TypeError, IndexError) is asked for again.
        """
        self.failed = False

        def job(body: dict[str, Any]) -> Callable[[], Awaitable[T]]:
            return lambda: self._answer("POST", path, body, read, self.settings.retries)

        return self.background.stream([job(body) for body in bodies], self.settings.concurrency)

    def ask_once(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T:
        """One answer, for a first look: few retries, since a server that is not there should be told soon. No body: GET."""
        self.failed = False
        method = "GET" if body is None else "POST"
        return self.background.run(self._answer(method, path, body, read, min(2, self.settings.retries)))

    async def _answer(self, method: str, path: str, body: Any, read: Callable[[Any], T], retries: int) -> T:
        import httpx

        for attempt in range(retries + 1):
            asked_pause = 0.0
            try:
                async with asyncio.timeout(self.settings.timeout):  # over all of it: httpx's own is for each read
                    reply = await self.client.request(method, path, json=body)
                if reply.status_code in AGAIN or reply.status_code >= 500:
                    reason, asked_pause = f"status {reply.status_code}: {reply.text[:200]}", _retry_after(reply)
                elif not reply.is_success:
                    self.failed = True
                    raise Refused(f"{self.url}/{path}: status {reply.status_code}: {reply.text[:300]}", reply.status_code)
                else:
                    return read(reply.json())
            except TimeoutError:
                reason = f"no answer within {self.settings.timeout:g} s"
            except httpx.RequestError as error:
                reason = f"{type(error).__name__} {error}"
            except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
                reason = f"not a usable answer ({type(error).__name__}: {error})"
            if asked_pause > self.settings.timeout:
                reason += f" (asks to come back in {asked_pause:.0f} s)"
                break
            if attempt == retries or self.failed:
                break
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * JITTER.uniform(0.5, 1.0)
            await asyncio.sleep(max(pause, asked_pause))
        self.failed = True
        raise KitError(f"{self.url}/{path}: {reason}; given up after {attempt + 1} tries")

    def close(self) -> None:
        self.background.run(self.client.aclose())
        self.background.close()


def _retry_after(reply: Any) -> float:
    """Seconds that the server asks to wait: its header is a number of seconds, or a date."""
    value = reply.headers.get("retry-after", "")
    try:
        return max(0.0, float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
