"""What transformers copies at every token, not copied: all keys and values so far, and those that several heads share.

The outcome is the same, up to the last bit of a sum. `kit.rollout.sampling` uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

BLOCK = 64  # tokens for which room is made at once


def make_room(cache: Any) -> None:
    """Let the layers of an empty cache of `generate` write new tokens in place, all but those with a sliding window.

    Their `keys` and `values` [rows, heads, length, width] become the used part of `room`, which is longer.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if type(cache) is DynamicCache:
        for layer in cache.layers:
            if type(layer) is DynamicLayer:
                layer.update = partial(_update, layer)
                layer.batch_select_indices = partial(_select, layer)


def _update(layer: Any, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
    import torch

    if not layer.is_initialized:
        layer.lazy_initialization(key_states, value_states)
        layer.room = [key_states[..., :0, :], value_states[..., :0, :]]
    length = layer.get_seq_length()
    end = length + key_states.shape[-2]
    if end > layer.room[0].shape[-2]:
        layer.room = [torch.cat([old[..., :length, :], new, new.new_empty(*new.shape[:2], BLOCK, new.shape[-1])], dim=-2)
                      for old, new in zip(layer.room, (key_states, value_states), strict=True)]
    else:
        for room, new in zip(layer.room, (key_states, value_states), strict=True):
            room[..., length:end, :] = new
    layer.keys, layer.values = (room[..., :end, :] for room in layer.room)
    return layer.keys, layer.values


def _select(layer: Any, indices: Any) -> None:
    length = layer.get_seq_length()
    layer.room = [room[indices] for room in layer.room]
    layer.keys, layer.values = (room[..., :length, :] for room in layer.room)


@contextlib.contextmanager
def shared_heads() -> Iterator[None]:
    """While it lasts, on a CPU: query heads that share a key/value head attend as several queries of that head.

    transformers repeats the keys and values for each of them. Only for one new token a row, which may look at all before it.
    """
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
