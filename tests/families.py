"""Made-up tokenizers that behave like those of the paper's two families, for tests without the hub."""

from __future__ import annotations

from typing import Any

from kit.chain import dry_run


# Per family: BOS or None, EOS, padding, other special tokens, and the chat template. The templates do what the families' own do
# to our messages: BOS, the system message, thinking cut out of earlier answers, `<think>` opened.
def make_tokenizer(family: str, texts: list[str]) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens, learned from `texts`, with the family's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    return dry_run.dressed(core, family)
