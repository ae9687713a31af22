"""The decoding loop for transformers' `generate`: rows that have ended leave the batch.

Lengths of reasoning differ a lot, and transformers keeps every row until the longest has ended; here most of a batch's work is
saved, and what transformers copies at every token stays where it is (`kit.rollout.cache`). Used where it is called as
`generate(…, custom_generate=sample)`.
"""

from __future__ import annotations

from typing import Any

SHARE = 1 / 8  # of the rows must have ended before they are dropped, for that copies the cache


def sample(
    model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **given: Any
) -> Any:
    """Token ids [rows, prompt + longest response], padded behind each row's end, as transformers' own loop returns them.

    `input_ids` [rows, prompt], padded on the left; `given` holds what `generate` has prepared: `attention_mask` of the same
    shape and an empty `past_key_values`. Greedy responses are those of transformers; sampled ones follow the same distribution
    from other random numbers. For one whole model: where its weights are in shards, all processes must take equal steps.
    """
    import torch

    from kit.rollout.cache import make_room, shared_heads

    mask, cache = given["attention_mask"], given["past_key_values"]
    make_room(cache)
    rows, width = input_ids.shape
    pad = generation_config.pad_token_id
    sequences = torch.full((rows, generation_config.max_length), pad, dtype=input_ids.dtype, device=input_ids.device)
    sequences[:, :width] = input_ids
    mask = torch.cat([mask, mask.new_ones(rows, sequences.shape[1] - width)], dim=1)
    row = torch.arange(rows, device=input_ids.device)  # of `sequences`, for each row that is still in the batch
    going = torch.ones_like(row, dtype=torch.bool)
    new, positions = input_ids, (mask[:, :width].cumsum(dim=1) - 1).clamp(min=0)
    while True:
        with shared_heads():
            logits = model(
                input_ids=new, attention_mask=mask[:, :width], position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        scores = logits_processor(sequences[row, :width], logits.float())
        drawn = torch.multinomial(scores.softmax(dim=-1), 1)[:, 0] if generation_config.do_sample else scores.argmax(dim=-1)
        sequences[row, width] = tokens = torch.where(going, drawn, pad)
        width += 1
        going = going & ~stopping_criteria(sequences[row, :width], None)
        left = int(going.sum())
        if not left:
            return sequences[:, :width]
        new, positions = tokens[:, None], positions[:, -1:] + 1
        if left <= (1 - SHARE) * len(row):
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            row, mask, new, positions, going = row[kept], mask[kept], new[kept], positions[kept], going[kept]
