"""Made-up tokenizers that behave like those of the paper's two families, for tests without the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.data.prompts import TAGS

QWQ = (  # cuts the thinking out of earlier answers
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}")
FAMILIES = {  # family: its beginning, end and padding token, its other special tokens, its chat template or TRL's file of it
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>"),
                 "deepseek_r1_distill.jinja"),
    "qwq": (None, "<|im_end|>", "<|endoftext|>", ("<|im_start|>",), QWQ),
    "plain": (None, "<end>", "<pad>", (),
              "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>\n"),
}


def make_tokenizer(family: str, texts: list[str]) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens, learned from `texts`, with the special tokens and the chat template of
    a family. Like the real ones it puts the beginning token (if there is one) before any text unless told not to, and has
    `<think>` and `</think>` as single tokens that are not special."""
    import trl
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    first, end, pad, others, template = FAMILIES[family]
    names = dict.fromkeys(filter(None, (first, end, pad, *others)))
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    if first:
        core.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, core.token_to_id(first))])
    if template.endswith(".jinja"):
        template = (Path(trl.__file__).parent / "chat_templates" / template).read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=first, eos_token=end, pad_token=pad, padding_side="left", chat_template=template,
        clean_up_tokenization_spaces=False)
