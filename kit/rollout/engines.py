"""The engines, one interface (records.Engine): transformers, any OpenAI-compatible server, and vLLM, started as such a server.

All of them take prompts as token ids and end a response at the same tokens, so their records are alike: text without special
tokens, length in tokens with the end token counted. A prompt may hold the beginning of a response: budget forcing goes on from
thinking that was cut. Greedy responses are the same from every engine, up to the last bit of a logit; each draws its own samples.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kit.rollout import models
from kit.rollout.records import Engine, Response, Sampling, as_response
from kit.rollout.sampling import sample
from kit.rollout.server_engine import ServerEngine, VLLMEngine
from kit.settings import Config


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

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Response]]]:
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
