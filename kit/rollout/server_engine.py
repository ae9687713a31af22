"""An OpenAI-compatible server as an engine, and `vllm serve` as such a server, started here and ended with this process."""

from __future__ import annotations

import dataclasses
import gc
import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kit.rollout import models
from kit.rollout.records import Response, Sampling, as_response
from kit.rollout.server import Refused, Request, Server
from kit.runs import paths
from kit.settings import Config, KitError

START_LIMIT = 1800.0  # seconds until a child must answer: a large model is read from a slow disk
# The child's own program. Its standard input is a pipe that nobody writes to: it ends when this process does, however that is.
CHILD = """
import os, signal, threading, time
def end_with_the_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end_with_the_parent, daemon=True).start()
from vllm.entrypoints.cli.main import main
main()
"""


class ServerEngine:
    """A server that serves the model at `source`, whose tokenizer and config are read from there.

    Every response is a request of its own, with its own seed: what gets lost is one response, which is asked for again, and a
    server's token count is that of one response. Prompts go as token ids, and token ids come back, where the server does that
    (vLLM does); else as text, with lengths from its `usage`. A first request of one token finds out. `child` is the address of
    a server that was started here; without it, that of the params is asked.
    """

    batch_size = None

    def __init__(self, source: str | Path, config: Config, child: str | None = None) -> None:
        e = config.engine
        self.source, self.served_as = str(source), None if child else e.served_as.get(str(source))
        self.tokenizer = models.load_tokenizer(source, config)
        self.ends = models.end_tokens(source, config, self.tokenizer)
        self.model_length = models.longest(source, config)
        key, at_once = ("", e.concurrency * e.data_parallel) if child else (e.key_variable, e.concurrency)
        self.server = Server(child or e.url, key, e.timeout, e.retries, at_once)
        self.few = min(2, e.retries)  # retries of the first look: a server that is not there should be told soon
        self.name: str | None = None  # what the server calls the model; None: not asked yet
        self.takes_ids = True

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Response]]]:
        n = sampling.samples
        if self.name is None and prompts:
            self.name = self.server.ask_once(lambda client: client.models.list(), self._find, self.few)
            self._try(prompts[0], sampling)
        asked = zip(prompts, seeds, strict=True)
        requests = [self._request(prompt, sampling, seed + i) for prompt, seed in asked for i in range(n)]
        parts: dict[int, dict[int, Response]] = {}
        for k, response in self.server.ask(requests, self._read):
            parts.setdefault(k // n, {})[k % n] = response
            if len(parts[k // n]) == n:
                whole = parts.pop(k // n)
                yield k // n, [whole[i] for i in range(n)]

    def _find(self, listing: Any) -> str:
        """The name under which the server has the model; KitError when it has another, or a shorter context."""
        for entry in listing.data:
            names = {entry.id, getattr(entry, "root", None) or entry.id}
            wanted = {self.served_as} if self.served_as else {self.source, str(Path(self.source).resolve())}
            if wanted & {*names, *(str(Path(name).resolve()) for name in names)}:
                longest = getattr(entry, "max_model_len", None)
                if longest is not None and longest < self.model_length:
                    raise KitError(f"{self.server.url}: serves {entry.id} with --max-model-len {longest}, which would cut "
                                   f"responses; {self.model_length} is needed (engine.max_model_len)")
                return entry.id
        there = ", ".join(entry.id for entry in listing.data)
        raise KitError(f"{self.server.url}: serves {there}, not {self.served_as or self.source}; start it with "
                       f"`vllm serve {self.source}`, or say its name there in engine.served_as")

    def _try(self, prompt: list[int], sampling: Sampling) -> None:
        """Find out with one token whether the server takes token ids, and that it reads a prompt as these very tokens."""
        one = dataclasses.replace(sampling, samples=1, max_new_tokens=1)
        for self.takes_ids in (True, False):
            try:
                read = self.server.ask_once(self._request(prompt, one, 0), lambda a: a.usage.prompt_tokens, self.few)
                break
            except Refused as error:
                if error.status not in (400, 415, 422) or not self.takes_ids:
                    raise
        if read != len(prompt):
            raise KitError(f"{self.server.url}: reads a prompt as {read} tokens where the tokenizer of {self.source} has "
                           f"{len(prompt)} (another tokenizer, or a beginning token put twice); serve it with vLLM")

    def _request(self, prompt: list[int], sampling: Sampling, seed: int) -> Request:
        """One response to one prompt."""
        left = self.model_length - len(prompt)
        if left < 1:
            raise KitError(f"a prompt of {len(prompt)} tokens leaves no room for a response: engine.max_model_len is "
                           f"{self.model_length}")
        body: dict[str, Any] = {
            "model": self.name, "n": 1, "seed": seed, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "max_tokens": min(sampling.max_new_tokens, left),
        }
        if self.takes_ids:
            # vLLM's own: ids back, every end token, and nothing of the sampling settings that lie in the model's folder.
            own = {"return_token_ids": True, "stop_token_ids": sorted(self.ends), "top_k": -1, "min_p": 0.0,
                   "repetition_penalty": 1.0}
            body |= {"prompt": list(prompt), "presence_penalty": 0.0, "frequency_penalty": 0.0, "extra_body": own}
        else:
            body["prompt"] = self.tokenizer.decode(prompt, skip_special_tokens=False)
        return lambda client: client.completions.create(**body)

    def _read(self, answer: Any) -> Response:
        """One whole response; ValueError (or AttributeError, TypeError) when the answer is not that."""
        (choice,) = answer.choices
        count, text, reason = answer.usage.completion_tokens, choice.text, choice.finish_reason
        if reason not in ("stop", "length") or not isinstance(text, str) or type(count) is not int or count < 0:
            raise ValueError(f"a response that ended by {reason!r}, of {count!r} tokens")
        ids = getattr(choice, "token_ids", None)
        if ids is None:
            return Response(text, count, reason == "stop")
        if len(ids) != count:
            raise ValueError(f"{len(ids)} tokens, counted as {count}")
        whole = as_response(ids, self.ends, self.tokenizer)
        return dataclasses.replace(whole, finished=whole.finished or reason == "stop")

    def close(self) -> None:
        self.server.close()


class VLLMEngine(ServerEngine):
    """`vllm serve` on loopback, a child of this process; what it says goes to vllm.log in the run's folder."""

    def __init__(self, source: str | Path, config: Config) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise KitError(f"{config.file}: engine.name is vllm, but vLLM is not installed; on a CUDA machine: "
                           "pip install -e '.[vllm]'")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        super().__init__(models.fetch(source, config.model.revision), config, f"http://127.0.0.1:{self.port}/v1")
        self.log = paths.of(config).vllm_log
        self.child = self._start(config)
        try:
            self._wait()
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _start(self, config: Config) -> subprocess.Popen[bytes]:
        import torch

        gc.collect()  # what training left in this process: vLLM wants its share of the GPU free
        torch.cuda.empty_cache()
        e, m = config.engine, config.model
        options = {
            "host": "127.0.0.1", "port": self.port, "dtype": m.dtype, "load-format": "safetensors", "generation-config": "vllm",
            "max-model-len": self.model_length, "seed": config.seed, "tensor-parallel-size": e.tensor_parallel,
            "data-parallel-size": e.data_parallel, "gpu-memory-utilization": e.gpu_memory_utilization,
        }
        switches = ["--skip-tokenizer-init", "--enable-prefix-caching", *["--trust-remote-code"] * m.trust_remote_code]
        if not torch.cuda.is_available():
            switches.append("--enforce-eager")  # there, compiling takes longer than it saves
        command = [sys.executable, "-c", CHILD, "serve", self.source, *switches, *(f"--{k}={v}" for k, v in options.items())]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        with self.log.open("a") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                                    start_new_session=True, env={"VLLM_NO_USAGE_STATS": "1", **os.environ})

    def _wait(self) -> None:
        """Until the child answers; KitError when it ends before, or takes too long."""
        deadline = time.monotonic() + START_LIMIT
        while self.child.poll() is None and time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                asked.request("GET", "/health")
                if asked.getresponse().status == 200:
                    return
            time.sleep(0.5)
        raise KitError(self._told(f"vLLM did not come up within {START_LIMIT / 60:.0f} minutes"))

    def _told(self, running: str) -> str:
        """What became of the child, in a line: the first error of its log; `running` is said of one that has not ended."""
        errors = re.findall(r"(?m)(?:^|\] )(\w+(?:Error|Exception): .+)", self.log.read_text(errors="replace"))
        what = running if self.child.poll() is None else f"vLLM ended with exit code {self.child.returncode}"
        return f"{self.source}: {what} ({(errors or ['no error in its log'])[0][:300]}); all it said is in {self.log}"

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Response]]]:
        try:
            yield from super().generate(prompts, sampling, seeds)
        except KitError:
            with suppress(subprocess.TimeoutExpired):  # a process that is about to end breaks its connections first
                self.child.wait(1)
                raise KitError(self._told("")) from None
            raise

    def close(self) -> None:
        super().close()
        self.child.stdin.close()
        self.child.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(20)
        with suppress(ProcessLookupError):  # its workers end with it; whoever is left is ended here
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
