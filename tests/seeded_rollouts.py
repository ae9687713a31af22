"""A process of a round whose samples hang on the prompt instead of on the process, for comparing one process with two.

Each response is drawn with noise that is seeded by its prompt, its place in the group and the token's position (the Gumbel trick:
the largest of logit + Gumbel noise is a sample of the softmax). So however a batch is split, it holds the same responses,
drawn by the real policy. The reward is 1 for an even sum of token ids, since an untrained model earns no other.

Run with `python -m tests.seeded_rollouts` in place of `python -m kit round`. TEST_KILL=n: the second process is killed when it
begins its n-th batch and the checkpoint before it is written. TEST_REFUSE: the second process finds something wrong with the
settings.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.chain import commands
from kit.settings import KitError
from kit.training import rounds


def seeded(generate: Callable[..., Any]) -> Callable[..., Any]:
    """`generate` of transformers with seeded samples."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    class Gumbel(LogitsProcessor):
        def __init__(self, keys: list[int], width: int) -> None:
            self.keys, self.width = keys, width

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            position = input_ids.shape[1] - self.width
            noise = [torch.rand(scores.shape[1], generator=torch.Generator().manual_seed(key + position)) for key in self.keys]
            return scores - torch.log(-torch.log(torch.stack(noise)))

    batches = Counter()

    def wrapped(self: Any, input_ids: Any, attention_mask: Any, generation_config: Any, **rest: Any) -> Any:
        batches["begun"] += 1
        if os.environ.get("RANK") == "1" and os.environ.get("TEST_KILL") == str(batches["begun"]):
            written = f"checkpoint-{batches['begun'] - 1}/trainer_state.json"  # which the other process may still be at
            until = time.monotonic() + 30
            while not [*Path(os.environ["KIT_RESULTS"]).rglob(written)] and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        keys, seen = [], Counter()
        for row, mask in zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True):
            prompt = tuple(token for token, kept in zip(row, mask, strict=True) if kept)
            keys.append((hash(prompt) % 10**6 * 100 + seen[prompt]) * 1000)  # hashes of numbers are the same everywhere
            seen[prompt] += 1
        greedy = copy.deepcopy(generation_config)
        greedy.do_sample = False
        rest.pop("custom_generate", None)  # rows must keep their places
        processor = LogitsProcessorList([Gumbel(keys, input_ids.shape[1])])
        return generate(self, input_ids=input_ids, attention_mask=attention_mask, generation_config=greedy,
                        logits_processor=processor, **rest)

    return wrapped


def even_sum(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def install(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Seed the rollouts and set the reward in this process; `put` is setattr, or monkeypatch's."""
    from transformers import GenerationMixin

    put(GenerationMixin, "generate", seeded(GenerationMixin.generate))
    put(rounds, "TokenLimitReward", lambda *_: even_sum)


def refuse(*_: Any, **__: Any) -> None:
    raise KitError("mine.yaml: the second process does not like it")


if __name__ == "__main__":
    if "TEST_REFUSE" in os.environ and os.environ["RANK"] == "1":
        rounds.train_round = refuse
    else:
        install()
    sys.exit(commands.main(["round", *sys.argv[1:]]))
