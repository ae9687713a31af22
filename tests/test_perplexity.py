"""Perplexity: against numbers worked out by hand, windows that lose no token, batches that change nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from kit.behavior import perplexity
from kit.data import prompts
from kit.laptop import arithmetic
from kit.rollout import models
from kit.rollout.records import Rollout
from kit.settings import Config, KitError


@pytest.fixture(scope="module")
def model(tiny_world: Config):
    import torch

    torch.manual_seed(5)
    return arithmetic.make_model(tiny_world.arithmetic, arithmetic.make_tokenizer(), 5).eval()


def rows(lengths: list[int], start: int = 3) -> list[tuple[list[int], int]]:
    rng = np.random.default_rng(1)
    return [(rng.integers(10, 150, n).tolist(), start) for n in lengths]


def by_hand(model, ids: list[int], start: int) -> float:
    import torch

    with torch.inference_mode():
        logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    return -sum(logp[i - 1, ids[i]].item() for i in range(start, len(ids)))


def test_every_token_behind_the_prompt_counts_once_whatever_the_batch(model) -> None:
    given = rows([9, 30, 4, 17])
    expected = [by_hand(model, ids, start) for ids, start in given]
    for batch_tokens in (1, 64, 10_000):
        loss, tokens = perplexity.score(model, given, 64, batch_tokens)
        assert loss == pytest.approx(expected, rel=1e-4) and list(tokens) == [6, 27, 1, 14]


def test_windows_read_each_token_once_with_at_least_half_a_window_before_it() -> None:
    for length in range(5, 60):
        for start in (1, 4, 20, 40):
            seen = [t for begin, end, first in perplexity.windows(length, start, 16) for t in range(first, end)]
            assert seen == list(range(start, length))
            for begin, end, first in perplexity.windows(length, start, 16):
                assert end - begin <= 16 and (begin == 0 or first - begin >= 8)


def test_a_long_trace_is_scored_window_by_window(model) -> None:
    ids, start = rows([40], start=3)[0]
    expected = by_hand(model, ids[:16], 3) + sum(by_hand(model, ids[b:e], 8) for b, e in ((8, 24), (16, 32), (24, 40)))
    loss, tokens = perplexity.score(model, [(ids, start)], 16, 64)
    assert loss[0] == pytest.approx(expected, rel=1e-4) and tokens[0] == 37


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(model) -> None:
    import copy

    import torch

    blank = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    loss, tokens = perplexity.score(blank, rows([12, 50]), 16, 64)
    assert math.exp(loss.sum() / tokens.sum()) == pytest.approx(model.config.vocab_size, rel=1e-4)


def test_what_is_scored_is_the_response_after_the_prompt(tiny_world: Config, model) -> None:
    tokenizer = arithmetic.make_tokenizer()
    question = "Start with 3 , first + 4 . What is the result ?"
    response = "<think> Compute first 3 + 4 = 7 . </think> \\boxed{ 7 }"
    ids, start = perplexity.encoded(tokenizer, tiny_world, question, response)
    prompt = prompts.encode(tokenizer, prompts.evaluation_messages(tiny_world.prompts, question))
    assert ids[:start] == prompt and tokenizer.decode(ids[start:]) == "Compute first 3 + 4 = 7 . </think> \\boxed{ 7 }"
    rollouts = [Rollout("a", question, "7", None, [response, response], [12, 12], [True, True]),
                Rollout("b", question, "7", None, [""], [0], [True])]
    table = perplexity.of_rollouts(model, tokenizer, tiny_world, rollouts)
    assert list(table.tokens) == [len(ids) - start, 0] and table.loss[1] == 0  # one response a problem


def test_the_trained_reference_is_another_model_than_the_base_and_is_made_once(tiny_world: Config) -> None:
    from kit.runs import paths

    trained = dataclasses.replace(tiny_world.behavior, reference="trained", reference_steps=2)
    config = dataclasses.replace(tiny_world, behavior=trained)
    with pytest.raises(KitError, match="reference: not there yet; run notebooks/05_behavior"):
        perplexity.reference(config)
    (paths.of(tiny_world).reference / "models").mkdir(parents=True)  # an earlier version of the kit had it there
    arithmetic.train_reference(config)
    model, tokenizer = perplexity.reference(config)
    weights = next(paths.of(tiny_world).reference.glob("*.safetensors"))
    made = weights.stat().st_mtime_ns
    base = models.load_model(paths.of(tiny_world).base_model, tiny_world)
    assert any((a != b).any() for a, b in zip(model.parameters(), base.parameters(), strict=True))
    arithmetic.train_reference(config)
    assert weights.stat().st_mtime_ns == made and len(tokenizer) > 100


def test_the_base_or_a_folder_can_be_the_reference(tiny_world: Config) -> None:
    from kit.runs import paths

    for source in ("base", str(paths.of(tiny_world).base_model)):
        config = dataclasses.replace(tiny_world, behavior=dataclasses.replace(tiny_world.behavior, reference=source))
        model, _ = perplexity.reference(config)
        assert model.config.hidden_size == tiny_world.arithmetic.hidden_size
