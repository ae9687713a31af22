"""How likely a fixed reference model finds the traces: does pruned thinking still read like mathematics?

The paper uses Qwen2.5-Math-7B on MATH-500 and finds perplexity nearly unchanged (as others quote it; no number is known). The
reference must not be one of the compared models; on the laptop a second one is trained for it, of other traces and fewer steps.

Perplexity = exp(mean over tokens of -log p(token | question, tokens before)). The mean is over all tokens of a set's traces,
so a long trace weighs more than a short one. Traces longer than the window are read in windows that overlap by half: each
token is predicted once, from at least half a window of context.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kit.data import prompts
from kit.rollout import models
from kit.rollout.records import Rollout
from kit.runs import catalog, paths
from kit.settings import Config, KitError


def reference(config: Config) -> tuple[Any, Any]:
    """(model, tokenizer) of `behavior.reference`; a `trained` one is made before (laptop/arithmetic.train_reference)."""
    source, made = config.behavior.reference, paths.of(config).reference
    if source == "trained" and not catalog.has_weights(made):
        raise KitError(f"{made}: not there yet; run notebooks/05_behavior.ipynb, which makes it")
    source = str(made) if source == "trained" else catalog.base_model(config) if source == "base" else source
    if source != config.model.source:  # a revision, and the trust in its code, belong to the base model
        own = dataclasses.replace(config.model, source=source, revision=None, trust_remote_code=False)
        config = dataclasses.replace(config, model=own)
    return models.load_model(source, config).eval(), models.load_tokenizer(source, config)


def of_rollouts(model: Any, tokenizer: Any, config: Config, rollouts: Sequence[Rollout]) -> pd.DataFrame:
    """`loss` (-log p summed) and `tokens` of the first `reference_samples` responses of each problem; `id`: its place."""
    b = config.behavior
    rows = [(k, encoded(tokenizer, config, r.question, text))
            for k, r in enumerate(rollouts) for text in r.model_answer[: b.reference_samples]]
    size = min(b.window, getattr(model.config, "max_position_embeddings", None) or b.window)
    loss, tokens = score(model, [row for _, row in rows], size, b.batch_tokens)
    return pd.DataFrame({"id": [k for k, _ in rows], "loss": loss, "tokens": tokens})


def encoded(tokenizer: Any, config: Config, question: str, response: str) -> tuple[list[int], int]:
    """(token ids of prompt and response, where the response begins)."""
    if tokenizer.chat_template and config.prompts:
        before = prompts.encode(tokenizer, prompts.evaluation_messages(config.prompts, question))
    else:
        before = tokenizer(question + "\n\n")["input_ids"]
    after = tokenizer(response.removeprefix("<think>"), add_special_tokens=False)["input_ids"]
    return before + after, max(len(before), 1)  # nothing predicts a first token


def windows(length: int, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first token that counts) of the windows that read tokens `start` .. `length` once each."""
    begin, counted = 0 if start < size else start - size // 2, start  # of a prompt that fills the window the end is enough
    while counted < length:
        end = min(begin + size, length)
        yield begin, end, counted
        counted, begin = end, end - size // 2


def score(model: Any, rows: Sequence[tuple[list[int], int]], size: int, batch_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(-log p summed over the response, its tokens) of each row; windows of like lengths are read together."""
    import torch

    jobs = [(k, *w) for k, (ids, start) in enumerate(rows) for w in windows(len(ids), start, size)]
    jobs.sort(key=lambda job: job[2] - job[1])
    loss, tokens = np.zeros(len(rows)), np.zeros(len(rows))
    with torch.inference_mode():
        while jobs:
            longest = jobs[-1][2] - jobs[-1][1]
            count = min(len(jobs), max(1, batch_tokens // longest))
            batch, jobs = jobs[-count:], jobs[:-count]
            ids = torch.zeros(count, longest, dtype=torch.long)  # padded on the right, behind every token that counts
            for i, (k, begin, end, _) in enumerate(batch):
                ids[i, : end - begin] = torch.tensor(rows[k][0][begin:end])
            logits = model(input_ids=ids.to(model.device)).logits[:, :-1].float()
            targets = ids[:, 1:].to(model.device)
            nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").cpu().double().numpy()
            for i, (k, begin, end, counted) in enumerate(batch):
                loss[k] += nll[i, counted - begin - 1 : end - begin - 1].sum()
                tokens[k] += end - counted
    return loss, tokens
