"""A dry run: the whole path of a params file on a laptop, in seconds, before anything is paid for.

`make dry-run PARAMS=params/ds-1.5b-4k.yaml` goes through data, the base model's validation, the training of each round, the
choice of its checkpoint, the evaluation and the tables, with

- the model replaced by a tiny one of the same architecture with random weights. Its tokenizer is the real one where that is on
  this machine; else a made-up one with the family's special tokens and a chat template that behaves like the family's;
- 2 steps a round; token limits, batch and samples scaled down; one process, and transformers in place of vLLM or a server;
- a handful of made-up problems in place of each data set, since the real ones may not be on this machine.

Nothing else is changed: prompts, order of the rounds, sampling temperatures, loss, selection rule and data set names are those
of the params file. It goes to results/<run>-dry. Every answer is wrong, so all rewards are 0: that is no finding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kit.behavior import behavior
from kit.data import problems, prompts
from kit.evaluation import comparisons, evaluate
from kit.laptop import arithmetic
from kit.report import inputs, tables
from kit.rollout import models
from kit.runs import catalog, manifest, paths
from kit.settings import Config, Engine, KitError
from kit.training import rounds, selection

# --- the tiny model ---------------------------------------------------------------------------------------------------

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


def make_model(config: Config, tokenizer: Any, folder: Path) -> None:
    """Save a Qwen2 model of one layer, with random weights, and its tokenizer."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(config.seed)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32768, tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))
    ends = list(dict.fromkeys([tokenizer.eos_token_id, tokenizer.pad_token_id]))  # QwQ's second one ends a response, too
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.to(getattr(torch, config.model.dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def own_tokenizer(config: Config) -> Any:
    """The tokenizer of the params' own model where it is on this machine (a folder, or in the hub's cache); else None."""
    from transformers.utils import cached_file

    here = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False, "revision": config.model.revision}
    try:
        known = cached_file(config.model.source, "tokenizer.json", **here)
    except OSError:
        known = None
    return models.load_tokenizer(config.model.source, config) if known else None


# --- the run ----------------------------------------------------------------------------------------------------------


def scaled(config: Config) -> Config:
    """The same run, small: what is replaced is said at the top of this file."""
    ranks = {limit: rank for rank, limit in enumerate(sorted({n for plan in config.schedules.values() for n in plan.limits}))}
    run, arithmetic = f"{config.run}-dry", config.model.source == "arithmetic"
    small = dataclasses.replace(config, run=run)
    source = "arithmetic" if arithmetic else str(paths.of(small).base_model)
    emptied = {f.name: {} for f in dataclasses.fields(config.data) if isinstance(getattr(config.data, f.name), dict)}
    e = config.evaluation
    return dataclasses.replace(
        small,
        model=dataclasses.replace(config.model, source=source, revision=None, shape=None, trust_remote_code=False),
        arithmetic=dataclasses.replace(
            config.arithmetic, train_problems=16, validation_problems=2, evaluation_problems=2, hidden_size=32, layers=1, heads=2,
            key_value_heads=1, intermediate_size=32, drill_steps=1, sft_steps=2, sft_batch=2,
        ),
        data=dataclasses.replace(config.data, **emptied),  # no files, no hub: the made-up problems
        schedules={
            name: dataclasses.replace(plan, limits=tuple(6 + 2 * ranks[n] for n in plan.limits), steps=2, checkpoint_every=1)
            for name, plan in config.schedules.items()
        },
        training=dataclasses.replace(
            config.training, prompts_per_step=2, responses_per_prompt=2, micro_batch=2, steps=2, checkpoint_every=1,
            processes=1, machines=1, vllm="off",
        ),
        selection=dataclasses.replace(config.selection, samples=1),
        evaluation=dataclasses.replace(
            e, samples=1, samples_by_set=dict.fromkeys(e.samples_by_set, 2), max_new_tokens=12, batch_size=8, resamples=100
        ),
        engine=Engine(),
        threads=1,
    )


# Of other words for each role, so that no training problem counts as the near-duplicate of a held-out one.
QUESTIONS = {
    "training": "Let $a={a}$ and $b={b}$. Find $a+b$.",
    "validation": "A train carries {a} people when {b} more get on. How many does it carry now?",
    "evaluation": "Evaluate the sum \\[{a}+{b}.\\]",
}


def make_problems(config: Config) -> None:
    """Write a handful of made-up problems for each data set of the run, where `problems.load` looks first."""
    if config.model.source == "arithmetic":
        arithmetic.make_data(config)
        return
    rng, d = random.Random(config.seed), config.data
    for name in (d.train, d.validation, *d.evaluation):
        role = {d.train: "training", d.validation: "validation"}.get(name, "evaluation")
        pairs = [(rng.randint(10, 99), rng.randint(100, 999)) for _ in range(3 if role == "training" else 2)]
        rows = [problems.Problem(f"{name}-{i}", QUESTIONS[role].format(a=a, b=b), str(a + b)) for i, (a, b) in enumerate(pairs)]
        problems.write(paths.of(config).data(name), rows)


def make_base(config: Config, real: Config) -> str:
    """Make the small base model of the scaled run; says which tokenizer it has."""
    if config.model.source == "arithmetic":
        arithmetic.train_base(config)
        return "the laptop's model, hardly trained"
    tokenizer, family = own_tokenizer(real), family_of(real.model.source)
    told = f"random weights, the tokenizer of {real.model.source}"
    if tokenizer is None:
        p = config.prompts
        texts = [p.system, *(p.text(key) for key in ("train_user", "evaluation_user", "forcing_user")), *QUESTIONS.values()]
        tokenizer, told = make_tokenizer(family, texts), f"random weights, a made-up tokenizer of the {family} family"
    make_model(config, tokenizer, Path(config.model.source))
    return told


def run(real: Config, show: Callable[[str], None] = print) -> pd.DataFrame:
    """The whole path on the scaled settings; returns metrics/main.csv. Raises KitError as the real run would."""
    if not real.schedules:
        raise KitError(f"{real.file}: nothing is trained or generated in this run, so there is nothing to try")
    config, began = scaled(real), time.monotonic()
    folder = paths.of(config)
    shutil.rmtree(folder.root, ignore_errors=True)
    make_problems(config)
    with quiet():
        told = make_base(config, real)
    show(f"base model: {told}; problems: made up")
    example = problems.load(config.data.evaluation[0], config)[0]
    rendered = prompts.examples(config, models.load_tokenizer(catalog.base_model(config), config), example.question)
    manifest.write_manifest(config, rendered)
    for stage, text in rendered.items():
        show(f"{stage} prompt:\n{text}")
    with quiet():
        selection.validate_base(config)
    for schedule, plan in config.schedules.items():
        for k in range(1, len(plan.limits) + 1):
            with quiet():
                rounds.train_round(config, schedule, k)
                table = selection.validate_round(config, schedule, k)
            show(f"{schedule}, round {k}: {len(table) - 1} checkpoints, step {table[table.selected].step.iloc[0]} selected")
    with quiet():
        for model in catalog.model_names(config):
            evaluate.evaluate_model(config, model)
        comparisons.compare_models(config)
        behavior.write_tables(config)
        shown = tables.main_table(config)
    show(f"evaluated: {len(shown)} models; all of it is in {folder.shown}, {time.monotonic() - began:.0f} s")
    return inputs.read(config, "main")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and warnings: that nothing is learned here is no news."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
