"""The decoding loop for transformers' `generate`: rows that have ended leave the batch.

Lengths of reasoning differ a lot, and transformers keeps every row until the longest has ended; here most of a batch's work is
saved. A prompt is read once for all its responses. Nor is copied what transformers copies at every token: all keys and values so
far, and those that several heads share. The outcome is the same, up to the last bit of a sum. Used where it is called as
`generate(…, custom_generate=sample)`.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

SHARE = 1 / 8  # of the rows must have ended before they are dropped, for that copies the cache
BLOCK = 64  # tokens for which the cache makes room at once


def sample(
    model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **given: Any
) -> Any:
    """Token ids [rows, prompt + longest response], padded behind each row's end, as transformers' own loop returns them.

    `input_ids` [rows, prompt], padded on the left; `given` holds what `generate` has prepared: `attention_mask` of the same
    shape and an empty `past_key_values`. Greedy responses are those of transformers; sampled ones follow the same distribution
    from other random numbers. For one whole model: where its weights are in shards, all processes must take equal steps.
    """
    import torch

    mask, cache = given["attention_mask"], given["past_key_values"]
    make_room(cache)
    rows, width = input_ids.shape
    pad = generation_config.pad_token_id
    found = torch.full((rows, generation_config.max_length), pad, dtype=input_ids.dtype, device=input_ids.device)
    found[:, :width] = input_ids
    sequences, mask = found.clone(), torch.cat([mask, mask.new_ones(rows, found.shape[1] - width)], dim=1)
    row = torch.arange(rows, device=input_ids.device)  # of `found`, for each row that is still in the batch
    going = torch.ones_like(row, dtype=torch.bool)

    def read(tokens: Any, seen: Any, positions: Any) -> Any:
        with shared_heads():
            return model(input_ids=tokens, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True,
                         logits_to_keep=1).logits[:, -1].float()

    prompts = torch.cat([input_ids, mask[:, :width]], dim=1).unique_consecutive(dim=0, return_counts=True)[1]
    first, owner = prompts.cumsum(0) - prompts, torch.arange(len(prompts), device=row.device).repeat_interleave(prompts)
    positions = (mask[:, :width].cumsum(dim=1) - 1).clamp(min=0)
    logits = read(input_ids[first], mask[first, :width], positions[first])[owner]
    if len(first) < rows:
        cache.batch_select_indices(owner)
    positions = positions[:, -1:]
    while True:
        scores = logits_processor(sequences[:, :width], logits)
        sequences[:, width] = torch.where(going, draw(scores) if generation_config.do_sample else scores.argmax(dim=-1), pad)
        width, positions = width + 1, positions + 1
        going = going & ~stopping_criteria(sequences[:, :width], None)
        left = int(going.sum())
        if left <= (1 - SHARE) * len(row):
            found[row] = sequences
            if not left:
                return found[:, :width]
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            row, sequences, mask = row[kept], sequences[kept], mask[kept]
            positions, going = positions[kept], going[kept]
        logits = read(sequences[:, width - 1 : width], mask[:, :width], positions)


def draw(scores: Any) -> Any:
    """A token of each row [rows, words], by one random number: where it falls in the sums of the probabilities. torch.multinomial
    draws one for each word."""
    import torch

    sums = scores.softmax(dim=-1).cumsum(dim=-1)
    fallen = torch.rand(len(sums), 1, dtype=sums.dtype, device=sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, fallen, right=True)[:, 0].clamp(max=sums.shape[1] - 1)


def make_room(cache: Any) -> None:
    """Let the layers of an empty cache of `generate` write new tokens in place, all but those with a sliding window. Their `keys`
    and `values` [rows, heads, length, width] become the used part of `room`, which is longer."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    def update(layer: Any, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
            layer.room = [keys[..., :0, :], values[..., :0, :]]
        length = layer.get_seq_length()
        end = length + keys.shape[-2]
        if end > layer.room[0].shape[-2]:
            layer.room = [torch.cat([old[..., :length, :], new, new.new_empty(*new.shape[:2], BLOCK, new.shape[-1])], dim=-2)
                          for old, new in zip(layer.room, (keys, values), strict=True)]
        else:
            for room, new in zip(layer.room, (keys, values), strict=True):
                room[..., length:end, :] = new
        layer.keys, layer.values = (room[..., :end, :] for room in layer.room)
        return layer.keys, layer.values

    def select(layer: Any, indices: Any) -> None:
        length = layer.get_seq_length()
        layer.room = [room[indices] for room in layer.room]
        layer.keys, layer.values = (room[..., :length, :] for room in layer.room)

    for layer in cache.layers if type(cache) is DynamicCache else ():
        if type(layer) is DynamicLayer:
            layer.update, layer.batch_select_indices = partial(update, layer), partial(select, layer)


@contextlib.contextmanager
def shared_heads() -> Iterator[None]:
    """While it lasts, on a CPU: query heads that share a key/value head attend as several queries of that head. transformers
    repeats the keys and values for each of them. Only for one new token a row, which may look at all before it."""
    from torch.nn import functional
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **given: Any) -> Any:
        rows, heads, tokens, width = query.shape
        if tokens > 1 or attention_mask is None or query.device.type != "cpu" or given.get("position_bias") is not None:
            return plain(module, query, key, value, attention_mask, scaling=scaling, **given)
        queries = query.view(rows, key.shape[1], heads // key.shape[1], width)
        found = functional.scaled_dot_product_attention(queries, key, value, attn_mask=attention_mask, scale=scaling)
        return found.reshape(rows, 1, heads, width), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = plain
