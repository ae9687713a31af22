"""A dry run: the whole path of a params file on a laptop, in seconds, before anything is paid for.

In place of the model there is a tiny Qwen2 with random weights, with the real tokenizer where that is on this machine, else one
with a token a byte and the chat template of the model's family; in place of each data set a few made-up problems. There are 2
steps a round, small limits and batches, one process, and transformers in place of vLLM or a server. Nothing else is changed:
prompts, order of the rounds, temperatures, loss, selection rule. It goes to results/<run>-dry. Every second training response is
replaced by the right answer, so that there is something to learn from; what comes out is no finding.
"""

import contextlib
import dataclasses
import functools
import io
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from kit.behavior import behavior
from kit.data import problems, prompts
from kit.evaluation import comparisons, evaluate
from kit.laptop import arithmetic
from kit.report import inputs, tables
from kit.rollout import models, sampling
from kit.runs import catalog, manifest, paths
from kit.settings import Config, KitError, family_of, folder_of
from kit.settings.schema import Engine
from kit.training import rounds, selection, trl_fields

# Of other words for each role, so that no training problem counts as the near-duplicate of a held-out one.
QUESTIONS = {
    "training": "Let $a={a}$ and $b={b}$. Find $a+b$.",
    "validation": "A train carries {a} people when {b} more get on. How many does it carry now?",
    "evaluation": "Evaluate the sum \\[{a}+{b}.\\]",
}
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "<|im_start|>assistant\n<think>\n")


def run(real: Config, show: Callable[[str], None] | None = None) -> pd.DataFrame:
    """The whole path on the scaled settings; returns metrics/main.csv. Raises KitError as the real run would."""
    if not real.schedules:
        raise KitError(f"{real.file}: nothing is trained or generated in this run, so there is nothing to try")
    trl_fields.check(real)
    config, began, show = scaled(real), time.monotonic(), show or functools.partial(print, file=sys.stdout)
    shutil.rmtree(paths.of(config).root, ignore_errors=True)
    # Without progress bars and warnings: that nothing is learned here is no news.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        show(f"base model: {make_problems_and_base(config, real)}; problems: made up")
        tokenizer = models.load_tokenizer(catalog.base_model(config), config)
        rendered = prompts.examples(config, tokenizer, problems.load(config.data.evaluation[0], config)[0].question)
        manifest.write_manifest(config, rendered)
        for stage, text in rendered.items():
            show(f"{stage} prompt:\n{text}")
        selection.validate_base(config)
        for schedule, k, _ in list(catalog.facts(config).values())[1:]:
            with mock.patch.object(sampling, "sample", functools.partial(answered, sampling.sample, tokenizer)):
                folder = rounds.train_round(config, schedule, k)
            table = selection.validate_round(config, schedule, k)
            if k == 1 and schedule == next(iter(config.schedules)):
                show(f"one group of the first step of {schedule}, round {k}:\n{group(folder, config)}")
            show(f"{schedule}, round {k}: {len(table) - 1} checkpoints, step {table[table.selected].step.iloc[0]} selected")
        for model in catalog.model_names(config):
            evaluate.evaluate_model(config, model)
        comparisons.compare_models(config)
        behavior.write_tables(config)
        shown = tables.main_table(config)
        show(f"evaluated: {len(shown)} models; all of it is in {paths.of(config).shown}, {time.monotonic() - began:.0f} s")
    return inputs.read(config, "main")


def answered(draw: Callable[..., Any], tokenizer: Any, model: Any, input_ids: Any, *given: Any, **named: Any) -> Any:
    """What `draw` samples for made-up problems, every second response replaced by the right answer."""
    drawn, prompt = draw(model, input_ids, *given, **named), input_ids.shape[1]
    for row in range(0, len(drawn), 2):
        if sums := re.search(r"a=(\d+)\$ and \$b=(\d+)", tokenizer.decode(input_ids[row])):
            answer = f"\\boxed{{{int(sums[1]) + int(sums[2])}}}{tokenizer.eos_token}"
            ids = tokenizer(answer, add_special_tokens=False)["input_ids"][: drawn.shape[1] - prompt]
            drawn[row, prompt:] = tokenizer.pad_token_id
            drawn[row, prompt : prompt + len(ids)] = drawn.new_tensor(ids)
    return drawn


def group(folder: Path, config: Config) -> str:
    """The first group that a round learned from, by TRL's own log of it: prompt, responses, rewards, advantages."""
    log = pd.read_parquet(folder / "completions" / "completions_00001.parquet")
    rows = log.head(config.training.responses_per_prompt).itertuples(index=False)  # step, prompt, completion, reward, advantage
    prompt = " ".join(f"[{turn['role']}] {turn['content']}" for turn in log.prompt[0])
    return "\n".join([f"prompt: {prompt}", *(f"response: {said[0]['content']!r}; reward {reward:g}, advantage {advantage:+.3f}"
                                             for _, _, said, reward, *_, advantage in rows)])


def scaled(config: Config) -> Config:
    """The same run, small: what is replaced is said at the top of this file."""
    change, e, t = dataclasses.replace, config.evaluation, config.training
    ranks = sorted({limit for schedule in config.schedules.values() for limit in schedule.limits})
    small = change(config, run=f"{config.run}-dry", engine=Engine(), threads=1)
    source = "arithmetic" if config.model.source == "arithmetic" else str(paths.of(small).base_model)
    return change(
        small,
        model=change(config.model, source=source, revision=None, shape=None, trust_remote_code=False),
        arithmetic=change(
            config.arithmetic, train_problems=16, validation_problems=2, evaluation_problems=2, hidden_size=32, layers=1, heads=2,
            key_value_heads=1, intermediate_size=32, max_length=32768, drill_steps=1, sft_steps=2, sft_batch=2),
        data=change(config.data, files={}, sources={}, revisions={},  # the made-up problems; a word is some four bytes
                    prompt_cap=config.data.prompt_cap * (1 if has_tokenizer(config) else 4)),
        schedules={name: change(plan, limits=tuple(18 + 2 * ranks.index(n) for n in plan.limits), steps=2, checkpoint_every=1)
                   for name, plan in config.schedules.items()},
        training=change(t, prompts_per_step=2, responses_per_prompt=2, micro_batch=2, steps=2, checkpoint_every=1, processes=1,
                        machines=1, vllm="off", trl={**t.trl, "log_completions": True}),
        selection=change(config.selection, samples=1),
        evaluation=change(e, samples=1, samples_by_set=dict.fromkeys(e.samples_by_set, 2), max_new_tokens=12, batch_size=8,
                          resamples=100),
    )


def has_tokenizer(config: Config) -> bool:
    """Whether the model's tokenizer is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    source, revision = config.model.source, config.model.revision
    with contextlib.suppress(ValueError):  # a folder that is not there yet is no id of the hub either
        return folder_of(source).is_dir() or isinstance(try_to_load_from_cache(source, "tokenizer.json", revision=revision), str)
    return False


def make_problems_and_base(config: Config, real: Config) -> str:
    """Write a few made-up problems for each data set, where `problems.load` looks first, and the tiny model; says what it is."""
    import torch
    from transformers import GenerationConfig

    if config.model.source == "arithmetic":
        arithmetic.make_data(config)
        arithmetic.train_base(config)
        return "the laptop's model, hardly trained"
    rng, d, source, own = random.Random(config.seed), config.data, real.model.source, has_tokenizer(real)
    for name in (d.train, d.validation, *d.evaluation):
        role = {d.train: "training", d.validation: "validation"}.get(name, "evaluation")
        pairs = [(rng.randint(10, 99), rng.randint(100, 999)) for _ in range(3 if role == "training" else 2)]
        rows = [problems.Problem(f"{name}-{i}", QUESTIONS[role].format(a=a, b=b), str(a + b)) for i, (a, b) in enumerate(pairs)]
        problems.write(paths.of(config).data(name), rows)
    tokenizer = models.load_tokenizer(source, real) if own else byte_tokenizer(family_of(source))
    model = arithmetic.make_model(config.arithmetic, tokenizer, config.seed).to(getattr(torch, config.model.dtype))
    ends = list(dict.fromkeys([tokenizer.eos_token_id, tokenizer.pad_token_id]))  # QwQ's second one ends a response, too
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(config.model.source)
    tokenizer.save_pretrained(config.model.source)
    return f"random weights, {f'the tokenizer of {source}' if own else 'a token a byte, chat template of ' + family_of(source)}"


def byte_tokenizer(family: str) -> Any:
    """A token a byte, with the chat template of DeepSeek's distillations (as TRL has it), or of QwQ and many others."""
    import trl
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    first, end, pad, template = None, "<|im_end|>", "<|endoftext|>", CHATML
    if family == "deepseek":
        first, end, pad = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
        template = (Path(trl.__file__).parent / "chat_templates" / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=first, eos_token=end, pad_token=pad, padding_side="left", chat_template=template,
        clean_up_tokenization_spaces=False)
