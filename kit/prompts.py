"""The messages of each stage, and their rendering with the model's own chat template.

The training prompt has a system message that ends in the token limit; the evaluation prompt has neither (FACTS 1).
The wordings are values of the params file, not of this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kit import models
from kit.config import Config, KitError
from kit.settings import Prompts

Messages = list[dict[str, str]]


def training_messages(prompts: Prompts, question: str, limit: int | None) -> Messages:
    """System message (with the limit in tokens; None leaves the sentence out), then the question."""
    system = prompts.system
    if limit is not None:
        system += " " + prompts.limit_sentence.replace("{limit}", str(limit))
    user = prompts.train_user.replace("{question}", question)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def evaluation_messages(prompts: Prompts, question: str) -> Messages:
    """The question alone: no system message, no limit."""
    return [{"role": "user", "content": prompts.evaluation_user.replace("{question}", question)}]


def render(tokenizer: Any, messages: Messages) -> str:
    """The prompt as the model reads it, up to where its response begins."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the rendered prompt; KitError when a word of it is unknown to a word-level tokenizer."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        text = render(tokenizer, messages)
        known = tokenizer.get_vocab()
        words = [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) if word not in known]
        raise KitError(f"the tokenizer has no token for {', '.join(sorted(set(words)))} in the prompt: {text}")
    return ids


def load_tokenizer(source: str | Path, config: Config) -> Any:
    """The tokenizer of a folder or hub id, padding on the left.

    A folder that says PreTrainedTokenizerFast (the laptop's) must be loaded by that class: AutoTokenizer goes by the
    model type and would put Qwen2's byte-level tokenizer over a word-level vocabulary without a word.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = Path(source) / "tokenizer_config.json"
    if Path(source).is_dir() and not file.is_file():
        raise KitError(f"{source}: no tokenizer here (tokenizer_config.json is missing)")
    generic = {"PreTrainedTokenizerFast", "TokenizersBackend"}
    if file.is_file() and json.loads(file.read_text("utf-8")).get("tokenizer_class") in generic:
        return models.fitting(PreTrainedTokenizerFast.from_pretrained(source, padding_side="left"), source)
    trust = {"trust_remote_code": config.model.trust_remote_code, "revision": config.model.revision}
    return models.fitting(AutoTokenizer.from_pretrained(source, padding_side="left", **trust), source, config.model.revision)


def examples(config: Config, source: str | Path, question: str) -> dict[str, str]:
    """One rendered prompt per stage, for the screen and the manifest."""
    tokenizer = load_tokenizer(source, config)
    first = next(iter(config.schedules.values()))
    limit = first.limits[0] if first.state_limit else None
    return {
        "training": render(tokenizer, training_messages(config.prompts, question, limit)),
        "evaluation": render(tokenizer, evaluation_messages(config.prompts, question)),
    }
