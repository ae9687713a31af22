"""Made-up tokenizers that behave like those of the paper's two families, for tests without the hub."""

from __future__ import annotations

from typing import Any

# Per family: BOS or None, EOS, padding, other special tokens, and the chat template. The templates do what the families' own do
# to our messages: BOS, the system message, thinking cut out of earlier answers, `<think>` opened.
FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek": {
        "bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>", "pad": "<｜end▁of▁sentence｜>",
        "other": ["<｜User｜>", "<｜Assistant｜>"],
        "template": (
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
            "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
            "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
        ),
    },
    "qwq": {
        "bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>", "other": ["<|im_start|>"],
        "template": (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
        ),
    },
}


def family_of(source: str) -> str:
    """`qwq` for Qwen's models, `deepseek` for the two 1.5B models and anything else."""
    return "qwq" if source.lower().startswith(("qwen/", "qwq")) else "deepseek"


def make_tokenizer(family: str, texts: list[str]) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens, learned from `texts`, with the family's special tokens and template.

    Like the real ones it puts BOS (if the family has one) before any text unless told not to, and has `<think>` and `</think>` as
    single tokens that are not special.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    of = FAMILIES[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    names = dict.fromkeys(filter(None, (of["bos"], of["eos"], of["pad"], *of["other"])))
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    if bos := of["bos"]:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=of["bos"], eos_token=of["eos"], pad_token=of["pad"], padding_side="left",
        chat_template=of["template"], clean_up_tokenization_spaces=False,
    )
