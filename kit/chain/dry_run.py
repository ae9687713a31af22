"""A dry run: the whole path of a params file on a laptop, in seconds, before anything is paid for.

In place of the model there is a tiny Qwen2 with random weights, with the real tokenizer where that is on this machine, else one
with a token a byte; in place of each data set a handful of made-up problems. There are 2 steps a round, small limits and
batches, one process, and transformers in place of vLLM or a server. Nothing else is changed: prompts, order of the rounds,
temperatures, loss, selection rule. It goes to results/<run>-dry. Every answer is wrong, so all rewards are 0: that is no finding.
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

# Of other words for each role, so that no training problem counts as the near-duplicate of a held-out one.
QUESTIONS = {
    "training": "Let $a={a}$ and $b={b}$. Find $a+b$.",
    "validation": "A train carries {a} people when {b} more get on. How many does it carry now?",
    "evaluation": "Evaluate the sum \\[{a}+{b}.\\]",
}


def run(real: Config, show: Callable[[str], None] = print) -> pd.DataFrame:
    """The whole path on the scaled settings; returns metrics/main.csv. Raises KitError as the real run would."""
    if not real.schedules:
        raise KitError(f"{real.file}: nothing is trained or generated in this run, so there is nothing to try")
    config, began = scaled(real), time.monotonic()
    shutil.rmtree(paths.of(config).root, ignore_errors=True)
    with quiet():
        told = make_problems_and_base(config, real)
    show(f"base model: {told}; problems: made up")
    example = problems.load(config.data.evaluation[0], config)[0]
    rendered = prompts.examples(config, models.load_tokenizer(catalog.base_model(config), config), example.question)
    manifest.write_manifest(config, rendered)
    for stage, text in rendered.items():
        show(f"{stage} prompt:\n{text}")
    with quiet():
        selection.validate_base(config)
    for schedule, k, _ in list(catalog.facts(config).values())[1:]:
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
    show(f"evaluated: {len(shown)} models; all of it is in {paths.of(config).shown}, {time.monotonic() - began:.0f} s")
    return inputs.read(config, "main")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and warnings: that nothing is learned here is no news."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def scaled(config: Config) -> Config:
    """The same run, small: what is replaced is said at the top of this file."""
    change, e = dataclasses.replace, config.evaluation
    ranks = sorted({limit for schedule in config.schedules.values() for limit in schedule.limits})
    small = change(config, run=f"{config.run}-dry", engine=Engine(), threads=1)
    source = "arithmetic" if config.model.source == "arithmetic" else str(paths.of(small).base_model)
    return change(
        small,
        model=change(config.model, source=source, revision=None, shape=None, trust_remote_code=False),
        arithmetic=change(
            config.arithmetic, train_problems=16, validation_problems=2, evaluation_problems=2, hidden_size=32, layers=1, heads=2,
            key_value_heads=1, intermediate_size=32, max_length=32768, drill_steps=1, sft_steps=2, sft_batch=2,
        ),
        data=change(config.data, files={}, revisions={}),  # no files, no hub: the made-up problems
        schedules={
            name: change(schedule, limits=tuple(6 + 2 * ranks.index(n) for n in schedule.limits), steps=2, checkpoint_every=1)
            for name, schedule in config.schedules.items()
        },
        training=change(
            config.training, prompts_per_step=2, responses_per_prompt=2, micro_batch=2, steps=2, checkpoint_every=1,
            processes=1, machines=1, vllm="off",
        ),
        selection=change(config.selection, samples=1),
        evaluation=change(e, samples=1, samples_by_set=dict.fromkeys(e.samples_by_set, 2), max_new_tokens=12, batch_size=8,
                          resamples=100),
    )


def make_problems_and_base(config: Config, real: Config) -> str:
    """Write a few made-up problems for each data set, where `problems.load` looks first, and the tiny model; says what it is."""
    if config.model.source == "arithmetic":
        arithmetic.make_data(config)
        arithmetic.train_base(config)
        return "the laptop's model, hardly trained"
    rng, d = random.Random(config.seed), config.data
    for name in (d.train, d.validation, *d.evaluation):
        role = {d.train: "training", d.validation: "validation"}.get(name, "evaluation")
        pairs = [(rng.randint(10, 99), rng.randint(100, 999)) for _ in range(3 if role == "training" else 2)]
        rows = [problems.Problem(f"{name}-{i}", QUESTIONS[role].format(a=a, b=b), str(a + b)) for i, (a, b) in enumerate(pairs)]
        problems.write(paths.of(config).data(name), rows)
    import torch
    from huggingface_hub import try_to_load_from_cache
    from transformers import GenerationConfig

    source, revision = real.model.source, real.model.revision
    own = Path(source).is_dir() or isinstance(try_to_load_from_cache(source, "tokenizer.json", revision=revision), str)
    tokenizer = models.load_tokenizer(source, real) if own else byte_tokenizer()
    model = arithmetic.make_model(config.arithmetic, tokenizer, config.seed).to(getattr(torch, config.model.dtype))
    ends = list(dict.fromkeys([tokenizer.eos_token_id, tokenizer.pad_token_id]))  # QwQ's second one ends a response, too
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(config.model.source)
    tokenizer.save_pretrained(config.model.source)
    return "random weights, " + (f"the tokenizer of {source}" if own else "a tokenizer with a token a byte")


def byte_tokenizer() -> Any:
    """A token a byte, `<think>` and `</think>`, and a plain chat template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<pad>", padding_side="left", clean_up_tokenization_spaces=False,
        chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>\n",
    )
