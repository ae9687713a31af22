"""The engines, one interface (records.Engine): transformers, any OpenAI-compatible server, and vLLM, started as such a server.

All of them take prompts as token ids and end a response at the same tokens, so their records are alike: text without special
tokens, length in tokens with the end token counted. A prompt may hold the beginning of a response: budget forcing goes on from
thinking that was cut. Greedy responses are the same from every engine, up to the last bit of a logit; each draws its own samples.
"""

import dataclasses
import gc
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kit.rollout import models
from kit.rollout.records import Engine, Response, Responses, Sampling, as_response
from kit.rollout.sampling import sample
from kit.rollout.server import Request, Server
from kit.runs import paths
from kit.settings import Config, KitError

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
CHILD_SETTINGS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENGINE_READY_TIMEOUT_S": "1800"}  # a large model is read from a slow disk
FEW = 2  # retries of a first look: a server that is not there should be told soon
FINISHED = ("stop", "eos_token", "stop_sequence")  # what servers call a response that ended by itself


def get_engine(source: str | Path, config: Config) -> Engine:
    """The engine that `engine.name` of the params asks for, with the model at `source` (folder or hub id). Close it after use."""
    kinds = {"transformers": TransformersEngine, "vllm": VLLMEngine, "server": ServerEngine}
    return kinds[config.engine.name](source, config)


class TransformersEngine:
    """`generate` of transformers on whatever device there is. Raises KitError when `source` is not a model."""

    def __init__(self, source: str | Path, config: Config) -> None:
        import torch
        from transformers import GenerationConfig

        torch.set_num_threads(config.threads)
        self.tokenizer = models.load_tokenizer(source, config)
        self.model: Any = models.load_model(source, config).eval()
        self.ends = models.end_tokens(source, config, self.tokenizer)
        # `generate` fills what our settings leave open from here: a penalty in the model's folder must not get in.
        self.model.generation_config = GenerationConfig()
        self.batch_size: int | None = config.evaluation.batch_size

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> Responses:
        import torch
        from transformers import GenerationConfig

        torch.manual_seed(seeds[0])
        tok, n = self.tokenizer, sampling.samples
        batch = tok.pad({"input_ids": list(prompts)}, return_tensors="pt").to(self.model.device)
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
        settings = GenerationConfig(
            do_sample=bool(drawn), max_new_tokens=sampling.max_new_tokens, num_return_sequences=n,
            pad_token_id=tok.pad_token_id, eos_token_id=sorted(self.ends), **drawn)
        with torch.inference_mode():
            output = self.model.generate(**batch, generation_config=settings, custom_generate=sample)
        rows = [as_response(ids, self.ends, tok) for ids in output[:, batch["input_ids"].shape[1]:].tolist()]
        yield from enumerate(rows[i : i + n] for i in range(0, len(rows), n))

    def close(self) -> None:
        self.model = None


class ServerEngine:
    """A server that serves the model at `source`, whose tokenizer and config are read from there.

    Every response is a request of its own, with its own seed: what gets lost is one response, which is asked for again, and a
    server's token count is that of one response. Prompts go as token ids, and token ids come back, where the server does that
    (vLLM does); else as text, with lengths from its `usage`.
    """

    batch_size = None

    def __init__(self, source: str | Path, config: Config) -> None:
        e = config.engine
        self.source, self.name = str(source), e.served_as.get(str(source), str(source))
        self.tokenizer = models.load_tokenizer(source, config)
        self.ends = models.end_tokens(source, config, self.tokenizer)
        self.model_length = e.max_model_len or config.data.prompt_cap + config.evaluation.max_new_tokens
        self.server = Server(e.url, e.key_variable, e.timeout, e.retries, e.concurrency)
        self.takes_ids: bool | None = None  # not asked yet

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> Responses:
        n, parts = sampling.samples, [{} for _ in prompts]
        if self.takes_ids is None and prompts:
            self._look(prompts[0], dataclasses.replace(sampling, samples=1, max_new_tokens=1))
        asked = zip(prompts, seeds, strict=True)
        requests = [self._request(prompt, sampling, seed + i) for prompt, seed in asked for i in range(n)]
        for k, response in self.server.ask(requests, self._read):
            part = parts[k // n]
            part[k % n] = response
            if len(part) == n:
                yield k // n, [part[i] for i in range(n)]

    def _look(self, prompt: list[int], one: Sampling) -> None:
        """Find out with one token whether the server takes token ids; KitError when it has another model, or does not read a
        prompt as these very tokens. (A context that is too short is refused by servers themselves.)"""
        url, names = self.server.url, [self.name]
        try:
            names = self.server.ask_once(lambda client: client.models.list(), lambda answer: [m.id for m in answer.data], FEW)
        except KitError:
            if self.name == self.source:  # some servers do not tell; then params must (engine.served_as)
                raise
        if self.name not in names:
            raise KitError(f"{url}: serves {', '.join(names)}, not {self.name}; start it with `vllm serve {self.source}`, or say "
                           "its name there in engine.served_as")
        for self.takes_ids in (True, False):
            try:
                count = self.server.ask_once(self._request(prompt, one, 0), lambda answer: answer.usage.prompt_tokens, FEW)
                break
            except KitError:
                if not self.takes_ids:
                    raise
        if count and count != len(prompt):  # 0: this server does not count what it has cached
            raise KitError(f"{url}: reads a prompt as {count} tokens where the tokenizer of {self.source} has {len(prompt)} "
                           "(another tokenizer, or a beginning token put twice); serve it with vLLM")

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
            return lambda client: client.completions.create(prompt=list(prompt), extra_body=own, **body)
        text = self.tokenizer.decode(prompt, skip_special_tokens=False)
        return lambda client: client.completions.create(prompt=text, **body)

    def _read(self, answer: Any) -> Response:
        """One whole response; ValueError (or AttributeError, TypeError) when the answer is not that."""
        (choice,) = answer.choices
        count, ids = int(answer.usage.completion_tokens), getattr(choice, "token_ids", None)
        if choice.finish_reason not in (*FINISHED, "length") or ids is not None and len(ids) != count:
            raise ValueError(f"a response that ended by {choice.finish_reason!r}, counted as {count} tokens")
        if ids is not None:
            return as_response(ids, self.ends, self.tokenizer)
        finished = choice.finish_reason != "length"
        own = len(self.tokenizer(choice.text, add_special_tokens=False)["input_ids"]) + finished
        return Response(choice.text, own if 2 * count < own else count, finished)  # some servers count 1, whatever they wrote

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
            port = free.getsockname()[1]
        e = config.engine
        own = dataclasses.replace(e, url=f"http://127.0.0.1:{port}/v1", key_variable="", served_as={},
                                  concurrency=e.concurrency * e.data_parallel)
        super().__init__(models.fetch(source, config.model.revision), dataclasses.replace(config, engine=own))
        self.log = paths.of(config).vllm_log
        self.child = self._start(config, port)
        try:
            while self._alive():
                with suppress(KitError):  # it does not answer yet
                    self.server.ask_once(lambda client: client.models.list(), bool, 0)
                    return
                time.sleep(0.5)
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _start(self, config: Config, port: int) -> subprocess.Popen[bytes]:
        import torch

        gc.collect()  # what training left in this process: vLLM wants its share of the GPU free
        torch.cuda.empty_cache()
        e, m = config.engine, config.model
        options = {
            "host": "127.0.0.1", "port": port, "dtype": m.dtype, "load-format": "safetensors", "generation-config": "vllm",
            "max-model-len": self.model_length, "seed": config.seed, "tensor-parallel-size": e.tensor_parallel,
            "data-parallel-size": e.data_parallel, "gpu-memory-utilization": e.gpu_memory_utilization,
        }
        switches = ["--skip-tokenizer-init", *["--trust-remote-code"] * m.trust_remote_code]
        if not torch.cuda.is_available():
            switches.append("--enforce-eager")  # there, compiling takes longer than it saves
        command = [sys.executable, "-c", CHILD, "serve", self.source, *switches, *(f"--{k}={v}" for k, v in options.items())]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                                    start_new_session=True, env=CHILD_SETTINGS | os.environ)

    def _alive(self, patience: float = 0) -> bool:
        """True; KitError with the first error of its log when the child has ended, or ends within `patience` seconds."""
        with suppress(subprocess.TimeoutExpired):
            code = self.child.wait(patience)
            errors = re.findall(r"(?m)(?:^|\] )(\w+(?:Error|Exception): .+)", self.log.read_text(errors="replace"))
            raise KitError(f"{self.source}: vLLM ended with exit code {code} ({(errors or ['no error in its log'])[0][:300]}); "
                           f"all it said is in {self.log}")
        return True

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> Responses:
        try:
            yield from super().generate(prompts, sampling, seeds)
        except KitError:
            self._alive(patience=1)  # a process that is about to end breaks its connections first
            raise

    def close(self) -> None:
        super().close()
        self.child.stdin.close()  # it ends by itself then
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(30)
        with suppress(ProcessLookupError):  # its workers end with it; whoever is left is ended here
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
