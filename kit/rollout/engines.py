"""The engines, one interface (kit.rollout.Engine): transformers, vLLM in this process, any OpenAI-compatible server.

All of them take prompts as token ids and end a response at the same tokens, so their records are alike: text without special
tokens, length in tokens with the end token counted. A prompt may hold the beginning of a response: that is how budget forcing
goes on from thinking that was cut, and vLLM's prefix cache makes it (and n samples of one prompt) cheap.

Greedy responses are the same from every engine, up to the last bit of a logit; sampled ones follow the same distribution, but
each engine draws its own.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kit.rollout import models
from kit.rollout.background import Background
from kit.rollout.models import load_model, load_tokenizer
from kit.rollout.records import Engine, Response, Sampling, as_response
from kit.rollout.sampling import sample
from kit.rollout.server import Refused, Request, Server
from kit.settings import Config, KitError


def get_engine(source: str | Path, config: Config) -> Engine:
    """The engine that `engine.name` of the params asks for, with the model at `source` (folder or hub id). Close it after use."""
    kinds = {"transformers": TransformersEngine, "vllm": VLLMEngine, "server": ServerEngine}
    return kinds[config.engine.name](source, config)


# --- transformers -----------------------------------------------------------------------------------------------------


class TransformersEngine:
    """`generate` of transformers on whatever device there is. Raises KitError when `source` is not a model."""

    def __init__(self, source: str | Path, config: Config, tokenizer: Any = None) -> None:
        import torch

        torch.set_num_threads(config.threads)
        self.tokenizer = tokenizer or load_tokenizer(source, config)
        self.model = load_model(source, config).eval()
        self.ends = end_tokens(self.model.generation_config, self.tokenizer)
        self.batch_size: int | None = config.evaluation.batch_size

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Response]]]:
        import torch
        from transformers import GenerationConfig

        torch.manual_seed(seeds[0])
        tok, n = self.tokenizer, sampling.samples
        batch = tok.pad({"input_ids": list(prompts)}, return_tensors="pt").to(self.model.device)
        greedy = sampling.temperature == 0
        choice = {} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        settings = GenerationConfig(
            do_sample=not greedy, max_new_tokens=sampling.max_new_tokens, num_return_sequences=n,
            pad_token_id=tok.pad_token_id, eos_token_id=sorted(self.ends), **choice,
        )
        with torch.inference_mode():
            output = self.model.generate(**batch, generation_config=settings, custom_generate=sample)
        rows = [as_response(ids, self.ends, tok) for ids in output[:, batch["input_ids"].shape[1]:].tolist()]
        yield from enumerate(rows[i : i + n] for i in range(0, len(rows), n))

    def close(self) -> None:
        self.model = None


def end_tokens(generation_config: Any, tokenizer: Any) -> set[int]:
    """Every token id that ends a response: a secondary EOS is a finish, not a truncation."""
    ids = generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return {i for i in (*listed, tokenizer.eos_token_id) if i is not None}


# --- models that are not loaded here ----------------------------------------------------------------------------------


def facts_of(source: str | Path, config: Config, tokenizer: Any) -> tuple[set[int], int]:
    """(end tokens, model length in tokens) of a model, from its small files alone."""
    from transformers import AutoConfig, GenerationConfig

    where = {"revision": config.model.revision, "trust_remote_code": config.model.trust_remote_code}
    try:
        model = AutoConfig.from_pretrained(source, **where)
        try:
            generation = GenerationConfig.from_pretrained(source, **where)
        except OSError:  # the file is optional
            generation = GenerationConfig.from_model_config(model)
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: not a model ({str(error).splitlines()[0]})") from None
    wanted = config.data.prompt_cap + config.evaluation.max_new_tokens
    longest = getattr(model, "max_position_embeddings", wanted)
    return end_tokens(generation, tokenizer), config.engine.max_model_len or min(wanted, longest)


def room(prompt: Sequence[int], sampling: Sampling, model_length: int) -> int:
    """How many tokens a response may have: `max_new_tokens`, or what a long prompt leaves of the model's length."""
    left = model_length - len(prompt)
    if left < 1:
        raise KitError(f"a prompt of {len(prompt)} tokens leaves no room for a response: engine.max_model_len is {model_length}")
    return min(sampling.max_new_tokens, left)


class VLLMEngine:
    """vLLM in this process (its own workers aside): continuous batching, prefix cache, tensor and data parallel.

    The asynchronous twin of `LLM.generate`: it gives each problem out when it is done, and shares them among
    `engine.data_parallel` copies of the model, which `LLM` cannot. Every response has a seed of its own.
    """

    def __init__(self, source: str | Path, config: Config) -> None:
        quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
        for name, value in quiet.items():
            os.environ.setdefault(name, value)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise KitError(f"{config.file}: engine.name is vllm, but vLLM cannot be imported ({error}); on a CUDA machine: "
                           "pip install -e '.[vllm]'") from None
        import torch

        source = models.fetch(source, config.model.revision)
        gc.collect()  # what training left in this process: vLLM wants its share of the GPU free
        torch.cuda.empty_cache()
        self.tokenizer = load_tokenizer(source, config)
        self.ends, self.model_length = facts_of(source, config, self.tokenizer)
        self.batch_size: int | None = None
        e, m = config.engine, config.model
        settings = AsyncEngineArgs(
            model=str(source), trust_remote_code=m.trust_remote_code, dtype=m.dtype,
            load_format="safetensors", skip_tokenizer_init=True, generation_config="vllm",
            max_model_len=self.model_length, seed=config.seed, enable_prefix_caching=True, disable_log_stats=True,
            tensor_parallel_size=e.tensor_parallel, data_parallel_size=e.data_parallel,
            gpu_memory_utilization=e.gpu_memory_utilization,
            enforce_eager=current_platform.is_cpu(),  # there, compiling takes longer than it saves
        )
        self.background = Background()
        self.calls = 0

        async def start() -> Any:
            return AsyncLLM.from_engine_args(settings)

        try:
            self.llm = self.background.run(start())
        except Exception as error:  # of any kind: no GPU, no memory, a model it does not know
            self.background.close()
            first = str(error).strip().split("\n")[0]
            raise KitError(f"{source}: vLLM cannot load it ({type(error).__name__}: {first})") from None

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Response]]]:
        self.calls += 1
        rooms = [room(prompt, sampling, self.model_length) for prompt in prompts]

        def job(k: int) -> Callable[[], Awaitable[list[Response]]]:
            return lambda: self._answer(f"{self.calls}-{k}", prompts[k], sampling, rooms[k], seeds[k])

        return self.background.stream([job(k) for k in range(len(prompts))], len(prompts))

    async def _answer(self, name: str, prompt: list[int], sampling: Sampling, longest: int, seed: int) -> list[Response]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        how = SamplingParams(
            n=sampling.samples, seed=seed, temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=longest,
            stop_token_ids=sorted(self.ends), detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            async for output in self.llm.generate({"prompt_token_ids": list(prompt)}, how, name):
                whole = output
        except Exception as error:  # out of memory, a worker that died
            raise KitError(f"vLLM: {type(error).__name__} {str(error).strip().split(chr(10))[0]}") from None
        broken = [o.finish_reason for o in whole.outputs if o.finish_reason not in ("stop", "length")]
        if broken or len(whole.outputs) != sampling.samples:
            raise KitError(f"vLLM ended {len(whole.outputs)} of {sampling.samples} responses, some by {set(broken)}")
        return [as_response(list(o.token_ids), self.ends, self.tokenizer) for o in whole.outputs]

    def close(self) -> None:
        async def stop() -> None:
            self.llm.shutdown()
            self.llm = None

        self.background.run(stop())
        self.background.close()


# --- a server ---------------------------------------------------------------------------------------------------------


class ServerEngine:
    """An OpenAI-compatible server that serves the model at `source` (whose tokenizer and config are read from there).

    Every response is a request of its own, with its own seed: what gets lost is one response, which is asked for again, and a
    server's token count is that of one response. Prompts go as token ids, and token ids come back, where the server does that
    (vLLM does); else as text, with lengths from its `usage`. A first request of one token finds out.
    """

    batch_size = None

    def __init__(self, source: str | Path, config: Config) -> None:
        e = config.engine
        self.source, self.served_as = str(source), e.served_as.get(str(source))
        self.tokenizer = load_tokenizer(source, config)
        self.ends, self.model_length = facts_of(source, config, self.tokenizer)
        self.server = Server(e.url, e.key_variable, e.timeout, e.retries, e.concurrency)
        self.name: str | None = None  # what the server calls the model; None: not asked yet
        self.takes_ids = True
        self.few = min(2, e.retries)  # retries of the first look: a server that is not there should be told soon

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
            if self.served_as in names if self.served_as else any(_same(name, self.source) for name in names):
                longest = getattr(entry, "max_model_len", None)
                if longest is not None and longest < self.model_length:
                    raise KitError(f"{self.server.url}: serves {entry.id} with --max-model-len {longest}, which would cut "
                                   f"responses; {self.model_length} is needed (engine.max_model_len)")
                return entry.id
        there, wanted = ", ".join(entry.id for entry in listing.data), self.served_as or self.source
        raise KitError(f"{self.server.url}: serves {there}, not {wanted}; start it with `vllm serve {self.source}`, or say its "
                       "name there in engine.served_as")

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
        body: dict[str, Any] = {
            "model": self.name, "n": 1, "seed": seed, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "max_tokens": room(prompt, sampling, self.model_length),
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


def _same(name: str, source: str) -> bool:
    return name == source or Path(name).resolve() == Path(source).resolve()
