"""A small OpenAI-compatible server on loopback that can be told to misbehave; a real HTTP server, and no model."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = 1  # <eos> of the laptop's tokenizer


def response_ids(prompt: Any, seed: int, longest: int) -> list[int]:
    """What this server answers: some words that follow from the prompt and the seed, and an end token if there is room."""
    rng = random.Random(f"{prompt} {seed}")
    return [*(rng.randrange(10, 60) for _ in range(rng.randrange(2, 12))), END][:longest]


class FakeServer(ThreadingHTTPServer):
    """`mishap(body, nth)` is asked about the nth try of each request: None, or how to spoil it (see Handler)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model: str, decode: Callable[[list[int]], str], mishap: Callable[[dict, int], Any] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.decode, self.mishap = model, decode, mishap
        self.takes_ids, self.gives_usage, self.extra_tokens = True, True, 0
        self.lists_models, self.stop, self.usage = True, "stop", {}  # how it calls an end; what it counts otherwise
        self.asked: list[dict] = []  # bodies, in the order of arrival; the first look (one token) left out
        self.authorization: set[str | None] = set()
        self.tries: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        s = self.server
        listed = 200, json.dumps({"data": [{"id": s.model}]}).encode()
        self.reply(*listed if s.lists_models else (404, b'{"error": "no such path"}'))

    def do_POST(self) -> None:
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = f"{body['prompt']} {body['seed']}"
        look = body["max_tokens"] == 1
        with s.lock:
            s.authorization.add(self.headers["Authorization"])
            if not look:
                s.asked.append(body)
                s.tries[key] += 1
            s.at_once += 1
            s.most_at_once = max(s.most_at_once, s.at_once)
        try:
            mishap = s.mishap(body, s.tries[key]) if s.mishap and not look else None
            self.answer(body, mishap)
        finally:
            with s.lock:
                s.at_once -= 1

    def answer(self, body: dict, mishap: Any) -> None:
        s = self.server
        if self.path != "/v1/completions" or body["model"] != s.model:
            return self.reply(404, b'{"error": "the model does not exist"}')
        if isinstance(body["prompt"], list) and not s.takes_ids:
            return self.reply(400, b'{"error": "prompt: should be a string"}')
        ids = response_ids(body["prompt"], body["seed"], body["max_tokens"])
        choice = {"index": 0, "text": s.decode(ids), "finish_reason": s.stop if ids[-1] == END else "length"}
        if body.get("return_token_ids"):
            choice["token_ids"] = ids
        words = body["prompt"] if isinstance(body["prompt"], list) else body["prompt"].split()
        counts = {"prompt_tokens": len(words) + s.extra_tokens, "completion_tokens": len(ids), **s.usage}
        whole = {"choices": [choice], "usage": counts}
        if not s.gives_usage:
            del whole["usage"]
        text = json.dumps(whole).encode()
        match mishap:
            case None:
                time.sleep(0.002)
                self.reply(200, text)
            case int():
                self.reply(mishap, b"oh no")
            case ("retry", seconds):
                self.reply(429, b"slow down", Retry_After=seconds)
            case "garbage":
                self.reply(200, b"<html>\xff\x00 not json [[[")
            case "half":
                self.reply(200, text[: len(text) // 2], Content_Length=str(len(text)))
            case "nothing":
                self.reply(200, json.dumps(whole | {"choices": []}).encode())
            case "twice":
                self.reply(200, json.dumps(whole | {"choices": [choice, choice]}).encode())
            case "unfinished":
                self.reply(200, json.dumps(whole | {"choices": [choice | {"finish_reason": None}]}).encode())
            case "miscounted":
                self.reply(200, json.dumps(whole | {"usage": {"prompt_tokens": 1, "completion_tokens": len(ids) + 1}}).encode())
            case "error in 200":
                self.reply(200, b'{"error": {"message": "the engine is overloaded"}}')
            case "hang up":
                self.connection.close()
            case "drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
            case "hang":
                time.sleep(1.5)
            case _:
                raise AssertionError(mishap)
        return None


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
