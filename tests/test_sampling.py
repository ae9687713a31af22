"""The decoding loop that drops rows: the same responses as transformers' own loop, in less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, Qwen2Config, Qwen2ForCausalLM

from kit.rollout.sampling import sample

ENDS, PAD, LONGEST = [1, 2], 0, 60


class Dice(LogitsProcessor):
    """Noise (Gumbel, so that the largest is a draw from the softmax) that hangs on the row's own tokens, not on its place."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = torch.empty_like(scores)
        for i, ids in enumerate(input_ids.tolist()):
            own = [t for t in ids if t != PAD]
            drawn = torch.rand(scores.shape[1], generator=torch.Generator().manual_seed(hash(tuple(own)) % 2**31))
            noise[i] = -torch.log(-torch.log(drawn))
        return scores + noise


class Never(LogitsProcessor):
    """No response ends."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return scores.index_fill(1, torch.tensor(ENDS), -torch.inf)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        pad_token_id=PAD, eos_token_id=ENDS, bos_token_id=None, initializer_range=0.3)).eval()


def generate(model: Any, rows: int, times: int = 1, **more: Any) -> torch.Tensor:
    lengths = [3 + i % 7 for i in range(rows)]
    ids = torch.tensor([[PAD] * (10 - n) + [3 + (5 * i + j) % 27 for j in range(n)] for i, n in enumerate(lengths)])
    ids = ids.repeat_interleave(times, dim=0)
    how = GenerationConfig(max_new_tokens=LONGEST, pad_token_id=PAD, eos_token_id=ENDS, do_sample=False)
    with torch.inference_mode():
        return model.generate(input_ids=ids, attention_mask=(ids != PAD).long(), generation_config=how, **more)


def test_responses_are_those_of_transformers_though_rows_leave_the_batch(model: Any) -> None:
    widths: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True)
    expected = generate(model, 24, logits_processor=[Dice()])
    whole = sum(widths)
    widths.clear()
    found = generate(model, 24, logits_processor=[Dice()], custom_generate=sample)
    hook.remove()
    assert torch.equal(found, expected)
    ended = torch.isin(expected[:, 10:], torch.tensor(ENDS)).any(dim=1)
    assert ended.any() and len({tuple(row) for row in expected[:, 10:].tolist()}) > 12, "they differ, and some end"
    assert widths == sorted(widths, reverse=True) and sum(widths) < 0.8 * whole


def test_greedy_responses_are_those_of_transformers(model: Any) -> None:
    assert torch.equal(generate(model, 9, custom_generate=sample), generate(model, 9))


def test_a_prompt_is_read_once_for_all_its_responses(model: Any) -> None:
    seen: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    found = generate(model, 5, times=4, custom_generate=sample, logits_processor=[Dice()])
    hook.remove()
    assert seen[:2] == [(5, 10), (20, 1)]
    assert torch.equal(found, generate(model, 5, times=4, logits_processor=[Dice()]))


def test_keys_are_not_copied_at_each_token_nor_repeated_for_shared_heads(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 new tokens behind a prompt of 10: room for 74 is made once; two query heads see their one key head."""
    made: list[int] = []
    seen: list[tuple[int, ...]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, **given: Any) -> Any:
        if key.shape[2] > 10:  # behind the prompt
            made.append(key.untyped_storage().data_ptr())
            seen.append((query.shape[1:3], key.shape[1]))
        return real(query, key, value, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    found = generate(model, 1, custom_generate=sample, logits_processor=[Never()])
    monkeypatch.undo()
    assert torch.equal(found, generate(model, 1, logits_processor=[Never()]))
    assert set(seen) == {((1, 2), 1)}
    assert len(made) == 2 * (LONGEST - 1) and len(set(made)) == 2, "one room for each of the two layers"


def test_sampled_tokens_follow_the_models_distribution(model: Any) -> None:
    """First and second token of 4,000 responses to one prompt against the model's own probabilities: chi-squared, p > 0.001."""
    prompt = torch.tensor([[5, 9, 4]]).expand(4000, 3)
    how = GenerationConfig(max_new_tokens=2, pad_token_id=PAD, eos_token_id=ENDS, do_sample=True, top_k=0, temperature=0.7)
    torch.manual_seed(0)
    with torch.inference_mode():
        ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=how,
                             custom_generate=sample)[:, 3:]
        first = (model(input_ids=prompt[:1]).logits[0, -1] / 0.7).softmax(dim=-1)
        after = torch.cat([prompt[:1].expand(30, 3), torch.arange(30)[:, None]], dim=1)
        given = (model(input_ids=after).logits[:, -1] / 0.7).softmax(dim=-1)
    going = ~torch.isin(torch.arange(30), torch.tensor(ENDS))
    second = (first[:, None] * given)[going].sum(dim=0)
    for tokens, expected in ((ids[:, 0], first), (ids[torch.isin(ids[:, 0], torch.arange(30)[going]), 1], second / second.sum())):
        seen = torch.bincount(tokens, minlength=30).double()
        share = expected.double() * len(tokens) / expected.double().sum()
        often = share >= 5
        distance = ((seen - share) ** 2 / share)[often].sum()
        assert often.sum() > 5 and torch.special.gammaincc((often.sum() - 1) / 2, distance / 2) > 0.001
