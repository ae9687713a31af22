"""Every params file goes through the whole path, with a tiny model and two steps a round."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import families
import pandas as pd
import pytest

from kit.chain import commands, dry_run
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, KitError, Schedule, family_of, load

FILES = [load(p) for p in sorted((ROOT / "params").glob("*.yaml")) if p.name != "published.yaml"]
TRAINED = [c for c in FILES if c.schedules and c.run != "smoke"]  # which test_chain runs as it is


def alike(settings: Config) -> str:
    """What the dry run of a params file is made of, but for its schedules (no budget is forced in it, no perplexity worked out)
    and for whether models answer in the training prompt, too. Equal for the rows of one model, for the same run with other seeds,
    and for models of one family, whose names are all that differs then."""
    table = dataclasses.asdict(dry_run.scaled(settings))
    for key in ("run", "file", "seed", "seeds", "parallel", "schedules", "hardware", "forcing"):
        del table[key]
    del table["arithmetic"]["seed"], table["training"]["keep_checkpoints"], table["behavior"]["reference"]
    del table["evaluation"]["training_prompt"]
    source = settings.model.source
    table["model"]["source"] = source if source == "arithmetic" else family_of(source)
    return json.dumps(table, sort_keys=True)


def together() -> dict[str, Config]:
    """Params files whose dry runs are alike, with the schedules of all of them in one, so that each is trained once. Of the
    schedules that differ in their reward alone the first two (tests/test_length_rewards trains by the others), and of those that
    differ in their one limit alone the first: limits are scaled by their order, so in its own file each has the same one."""
    groups: dict[str, list[Config]] = defaultdict(list)
    for settings in TRAINED:
        groups[alike(settings)].append(settings)
    found = {}
    for group in groups.values():
        schedules: dict[str, Schedule] = {}
        for settings in group:
            rewarded = [name for name, plan in settings.schedules.items() if plan.reward]
            for name, plan in settings.schedules.items():  # one name may stand for different schedules
                if name in rewarded[2:] or any(but_for_its_limit(plan) == but_for_its_limit(kept) for kept in schedules.values()):
                    continue
                schedules[name if schedules.get(name, plan) == plan else f"{name}-{settings.run}"] = plan
        evaluation = dataclasses.replace(
            group[0].evaluation, training_prompt=any(settings.evaluation.training_prompt for settings in group))
        names = " ".join(Path(settings.file).stem for settings in group)
        found[names] = dataclasses.replace(group[0], schedules=schedules, evaluation=evaluation)
    return found


def but_for_its_limit(plan: Schedule) -> Schedule:
    return dataclasses.replace(plan, label="", limits=(1,)) if len(plan.limits) == 1 else plan


GROUPS = together()


def with_tokenizer(config: Config, tokenizer: Any, folder: Path) -> Config:
    """The params with a folder as its model that has this tokenizer and no weights."""
    from transformers import Qwen2Config

    tokenizer.save_pretrained(folder)
    Qwen2Config().save_pretrained(folder)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, source=str(folder)))


@pytest.mark.parametrize("name", GROUPS, ids=lambda name: name.split()[0])
def test_every_params_file_goes_through_the_whole_path(results: Path, tmp_path: Path, name: str) -> None:
    real, said = GROUPS[name], []
    if real.model.source != "arithmetic":
        family, words = family_of(real.model.source), real.prompts
        texts = [words.system, words.limit_sentence, words.text("train_user")] * 3
        real = with_tokenizer(real, families.make_tokenizer(family, texts), tmp_path)
    main = dry_run.run(real, said.append)
    small = dry_run.scaled(real)
    expected = ["base", *(f"{s}/round{k}" for s, plan in real.schedules.items() for k in range(1, len(plan.limits) + 1))]
    assert list(main.model.unique()) == expected
    assert list(main.set.unique()) == [*real.data.evaluation, *(["mean"] if len(real.data.evaluation) > 1 else [])]
    run = paths.of(small)
    for schedule, plan in small.schedules.items():
        for k, limit in enumerate(plan.limits, 1):
            log = pd.read_csv(run.training(schedule, k) / "log.csv")
            assert list(log.step) == [1, 2] and (log.limit == limit).all() and (log.length <= limit).all()
            assert [p.name for p in catalog.checkpoints(run.models(schedule, k))] == ["checkpoint-1", "checkpoint-2"]
            assert (run.training(schedule, k) / "selected.json").is_file()
    shown = files.read_json(run.manifest)["prompts"]
    if real.model.source != "arithmetic":
        assert all(text.count("<think>") >= 1 for text in shown.values())
        first = next(iter(small.schedules.values()))
        assert (f"within {first.limits[0]} tokens." in shown["training"]) == first.state_limit
    assert any("prompt:" in line for line in said)
    (group,) = (line for line in said if line.startswith("one group of the first step"))
    if real.model.source != "arithmetic":  # two responses: the right answer, which was put there, and the random model's
        a, b, answer = re.search(r"a=(\d+)\$ and \$b=(\d+)\$.*\nresponse: '\\\\boxed\{(\d+)\}'; reward 1, advantage \+0\.707\n"
                                 r"response: .*; reward 0, advantage -0\.707$", group).groups()
        assert int(a) + int(b) == int(answer)


def test_the_groups_are_all_params_files() -> None:
    assert sorted(stem for name in GROUPS for stem in name.split()) == sorted(Path(c.file).stem for c in TRAINED)


def test_nothing_but_size_is_changed() -> None:
    real = load("params/ds-1.5b.yaml")
    small = dry_run.scaled(real)
    assert small.prompts == real.prompts and small.seed == real.seed and small.keywords == real.keywords
    assert (small.data.train, small.data.validation, small.data.evaluation) == (
        "eurus-amc-aime", "aime22-23", ("math500", "amc23", "olympiadbench", "aime24"))
    assert small.model.dtype == "bfloat16" and small.selection.tolerance == 0.10
    assert (small.evaluation.temperature, small.evaluation.top_p) == (0.6, 0.95)
    t, u = dataclasses.asdict(small.training), dataclasses.asdict(real.training)
    scaled = {"prompts_per_step", "responses_per_prompt", "micro_batch", "steps", "checkpoint_every", "processes", "vllm", "trl"}
    assert {key for key in t if t[key] != u[key]} == scaled
    assert t["trl"] == {**u["trl"], "log_completions": True}  # what the group of the first step is shown from
    assert small.schedules["iterative"].limits == (22, 20, 18)  # falling, as 4000, 3000, 2000
    assert small.schedules["one-shot-2k"].limits == (18,) and small.schedules["one-shot-2k"].label == "one-shot"


OWN = dataclasses.replace(load("params/ds-1.5b-2k.yaml"), run="own")


def test_the_real_tokenizer_is_used_where_it_is_here(results: Path, tmp_path: Path) -> None:
    made = families.make_tokenizer("qwq", ["a user's own model"])
    made.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[answer]"
    real = with_tokenizer(OWN, made, tmp_path)
    small = dry_run.scaled(real)
    assert dry_run.make_problems_and_base(small, real) == f"random weights, the tokenizer of {tmp_path}"
    assert dry_run.models.load_tokenizer(small.model.source, small).chat_template == made.chat_template


def test_without_the_real_tokenizer_there_is_one_with_a_token_a_byte(results: Path) -> None:
    real = dataclasses.replace(OWN, model=dataclasses.replace(OWN.model, source="nobody/nothing"))
    small = dry_run.scaled(real)
    assert dry_run.make_problems_and_base(small, real) == (
        "random weights, a token a byte, chat template of plain")
    tokenizer = dry_run.models.load_tokenizer(small.model.source, small)
    text = "Let's think: \\boxed{½} <think>\n</think>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and len(ids) == len(text.encode())


def test_a_chat_template_that_would_lose_the_limit_stops_the_dry_run(results: Path, tmp_path: Path) -> None:
    made = families.make_tokenizer("qwq", ["drops it"])
    made.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}[answer]"
    with pytest.raises(KitError, match="leaves out .* the system message"):
        dry_run.run(with_tokenizer(OWN, made, tmp_path), lambda line: None)


def test_the_command_tells_a_mistake_in_one_line(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {ROOT}/params/ds-1.5b-2k.yaml\nrun: mine\ndata: {{prompt_cap: 50}}\n")
    assert commands.main(["dry-run", str(tmp_path / "mine.yaml")]) == 1
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and "but eurus-amc-aime has 0 problems" in told.err
    assert "budget forcing prompt:" in told.out and "it/s" not in told.out


def test_a_model_whose_folder_is_not_made_yet_is_tried_with_a_token_a_byte(results: Path) -> None:
    """smollm2.yaml before `make smollm2`. A word is some four bytes, so prompts may have four times as many tokens."""
    real = dataclasses.replace(load("params/smollm2.yaml"), run="unmade")
    real = dataclasses.replace(real, model=dataclasses.replace(real.model, source="cache/not-there/yet"))
    small = dry_run.scaled(real)
    assert small.data.prompt_cap == 4 * real.data.prompt_cap
    assert dry_run.make_problems_and_base(small, real).endswith("a token a byte, chat template of plain")
