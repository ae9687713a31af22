"""What transformers copies at every token, not copied: all keys and values so far, and those that several heads share.

The outcome is the same, up to the last bit of a sum. `kit.rollout.sampling` uses it; this module imports torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BLOCK = 64  # tokens of room that are made at once


class RoomyLayer(DynamicLayer):
    """`keys` and `values` [rows, heads, length, width] are the used part of `room`, where new tokens are written in place."""

    room: list[torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = [key_states[..., :0, :], value_states[..., :0, :]]
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if end > self.room[0].shape[-2]:
            self.room = [torch.cat([old[..., :length, :], new, new.new_empty(*new.shape[:2], BLOCK, new.shape[-1])], dim=-2)
                         for old, new in zip(self.room, (key_states, value_states), strict=True)]
        else:
            for room, new in zip(self.room, (key_states, value_states), strict=True):
                room[..., length:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        self.room = [room[indices] for room in self.room]
        self.keys, self.values = (room[..., :length, :] for room in self.room)


def make_room(cache: Any) -> None:
    """Put roomy layers into an empty cache of `generate`, in place of those that keep every token."""
    if type(cache) is DynamicCache:
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]


@contextlib.contextmanager
def shared_heads() -> Iterator[None]:
    """While it lasts, on a CPU: query heads that share a key/value head attend as several queries of that head.

    transformers repeats the keys and values for each of them. Only for one new token a row, which may look at all before it.
    """
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **given: Any) -> Any:
        rows, heads, tokens, width = query.shape
        if tokens > 1 or attention_mask is None or query.device.type != "cpu" or given.get("position_bias") is not None:
            return plain(module, query, key, value, attention_mask, scaling=scaling, **given)
        queries = query.view(rows, key.shape[1], heads // key.shape[1], width)
        found = scaled_dot_product_attention(queries, key, value, attn_mask=attention_mask, scale=scaling)
        return found.reshape(rows, 1, heads, width), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = plain
