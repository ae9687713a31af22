"""A model and problems of the user's own: `kit new` writes the params file, the preflight looks before anything is trained."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import families
import pandas as pd
import pytest
from conftest import Chain

from kit.chain import commands, plan
from kit.data import contamination, problems
from kit.runs import files, paths
from kit.settings import HELD_OUT, ROOT, Config, KitError, load
from kit.training import preflight

WORDS = "Mia has {a} red beads and {b} blue ones in a {box} box. How many is that?"
BOXES = "big small old new tin wooden paper round square tall flat open shut cold warm dark light red".split()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with somebody's files: train.csv, test.csv (the sum is always 7), and `model`, which has learned in a few seconds
    to say `hm` some times and then 7, or 8, in a box."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("own")
    rows = [{"question": WORDS.format(a=a, b=7 - a, box=box), "answer": "7"} for a in range(8) for box in BOXES]
    random.Random(0).shuffle(rows)
    for name, part in (("train", rows[:60]), ("test", rows[60:72])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(part)
    plain = load(ROOT / "params" / "ds-1.5b.yaml").prompts
    texts = [*(row["question"] for row in rows), plain.system, *plain.wordings.values(), "hm hm \\boxed{7}"]
    tok = families.make_tokenizer("qwq", texts * 3)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tok), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id))
    draw, update = random.Random(1), torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(150):
        said = [" hm" * draw.choice((1, 2, 4, 8, 16)) + f" </think> \\boxed{{{draw.choice('778')}}}" for _ in range(16)]
        turn = "<|im_end|>\n<|im_start|>assistant\n<think>\n"
        batch = tok([f"{draw.choice(rows)['question']}{turn}{text}{tok.eos_token}" for text in said],
                    return_tensors="pt", padding=True)
        loss = model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss
        loss.backward()
        update.step()
        update.zero_grad()
    model.generation_config = GenerationConfig(eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    model.save_pretrained(folder / "model")
    tok.save_pretrained(folder / "model")
    return folder


def written(own: Path, name: str, *more: str) -> Path:
    """The params file that the command writes."""
    path = ROOT / "params" / f"{name}.yaml"
    path.unlink(missing_ok=True)
    given = ["--model", str(own / "model"), "--train", str(own / "train.csv"), "--test", str(own / "test.csv")]
    assert commands.main(["new", name, *given, *more]) == 0
    return path


@pytest.fixture
def mine(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    path = written(own, "own-model-test", "--limits", "12", "--steps", "3")
    yield load(path)
    path.unlink()


def test_the_file_has_at_most_15_lines_and_what_can_be_seen_of_model_and_problems(mine: Config, own: Path) -> None:
    text = (ROOT / mine.file).read_text()
    assert len(text.splitlines()) <= 15 and "# 60 and 12 problems" in text and str(own / "model") in text
    assert mine.prompts.text("forcing_ending") == "\n</think>\n\nThe final answer is"  # its chat template opens <think>
    assert mine.evaluation.max_new_tokens == 512 - 256 and mine.training.learning_rate == 3e-4 and mine.run == "own-model-test"
    assert mine.forcing.budgets == (32, 64, 128)
    assert mine.training.prompts_per_step == 54  # 60 without the held-out tenth


def test_a_file_of_eight_lines_by_hand_has_sensible_defaults_too(own: Path, tmp_path: Path) -> None:
    (tmp_path / "by-hand.yaml").write_text(f"""\
model: {{source: {own / 'model'}}}
data:
  train: train
  evaluation: [test]
  files: {{train: {own / 'train.csv'}, test: {own / 'test.csv'}}}
training: {{prompts_per_step: 8}}
schedules:
  shorter: {{limits: [12]}}
""")
    config = load(tmp_path / "by-hand.yaml")
    assert config.run == "by-hand" and config.data.validation == HELD_OUT and config.data.prompt_cap == 256
    assert config.evaluation.max_new_tokens == 256 and config.forcing.budgets == (32, 64, 128)  # by the model's window of 512
    assert "</think>" in config.prompts.text("forcing_ending") and config.training.steps == 180
    assert "fits" in plan.report(config)[2] and "not counted" not in plan.report(config)[2]


def test_the_validation_set_is_held_out_of_the_training_set(mine: Config) -> None:
    held, trained = problems.load(HELD_OUT, mine), contamination.training_problems(mine)
    assert len(held) == 6 and not {p.question for p in held} & {p.question for p in trained}
    assert mine.data.near_duplicate == 1  # they are all of one pattern: at 0.5 none would be left
    every = dataclasses.replace(mine, data=dataclasses.replace(mine.data, near_duplicate=None))
    assert len(trained) == len(contamination.training_problems(every)) == 54  # all rows, but never the held-out ones


@pytest.mark.parametrize(("change", "message"), [
    (["--train", "nowhere.csv"], "--train nowhere.csv: no such file"),
    (["--limits", "10", "20"], "limits should fall from round to round"),
    (["--model", "/not/there"], "there is no such folder"),
    (["--model", " "], "--model is empty"),
    (["--model", str(ROOT / "params")], "params/model.safetensors: not a whole safetensors file"),
    (["--test", "train.csv"], "no problem is left to train on: of 60, 60 are also in the other files"),
    (["--limits", "400"], "can take 512 tokens; `data.prompt_cap` (256) and the longest response (400"),
])
def test_what_is_wrong_is_told_in_a_line_and_no_file_is_left(
    own: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    given = {"--model": [str(own / "model")], "--train": [str(own / "train.csv")], "--test": [str(own / "test.csv")]}
    change = [str(own / word) if word == "train.csv" else word for word in change]
    arguments = [word for key, values in {**given, change[0]: change[1:]}.items() for word in (key, *values)]
    assert commands.main(["new", "own-model-refused", *arguments]) == 1
    assert message in (told := capsys.readouterr().err) and told.startswith("error: ")
    assert not (ROOT / "params" / "own-model-refused.yaml").exists()


def test_training_problems_that_are_in_the_test_set_count_for_no_step(own: Path, tmp_path: Path) -> None:
    """60 of which two are in the test set: a tenth is held out, two are dropped, 52 are left for a step."""
    rows = (own / "test.csv").read_text().splitlines()
    mixed = tmp_path / "train.csv"
    mixed.write_text("\n".join([*(own / "train.csv").read_text().splitlines()[:-2], *rows[1:3]]) + "\n")
    path = written(own, "own-model-mixed", "--train", str(mixed))
    try:
        assert load(path).training.prompts_per_step == 52
    finally:
        path.unlink()


def test_a_folder_is_given_as_seen_from_the_project_wherever_the_plan_is_made(
    mine: Config, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = dataclasses.replace(mine, model=dataclasses.replace(mine.model, source=os.path.relpath(own / "model", ROOT)))
    monkeypatch.chdir(ROOT / "notebooks")  # as a notebook runs
    assert plan.sizes_of(relative) == plan.sizes_of(mine)


def test_who_brings_problems_for_the_laptops_own_model_is_told_of_its_words(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {ROOT}/params/smoke.yaml\n"
                                        "data: {evaluation: [two, own], files: {own: own.csv}}\n")
    with pytest.raises(KitError, match=r"`arithmetic.operations.own` is missing; .*; for problems in other words .* kit new"):
        load(tmp_path / "mine.yaml")


def test_a_name_that_is_taken_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files_of = ["--model", str(own / "model"), "--train", str(own / "train.csv"), "--test", str(own / "test.csv")]
    assert commands.main(["new", "laptop", *files_of]) == 1
    assert "params/laptop.yaml: is there already; choose another one" in capsys.readouterr().err


# --- the preflight ----------------------------------------------------------------------------------------------------


def test_the_preflight_says_what_the_limit_cuts_and_what_is_right_within_it(
    mine: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    table = preflight.preflight(mine, "iterative", 1).set_index("limit")
    told = capsys.readouterr().out
    assert f"limit 12 cuts {table.cut[12]:.0%}. Right: {table.right[12]:.0%} within it" in told
    assert 0.2 < table.cut[12] < 0.6 and table.right[12] <= table.right.iloc[1] and table.varied[12] > 0.5
    kept = files.read_csv(paths.of(mine).training("iterative", 1) / "preflight.csv")
    pd.testing.assert_frame_equal(kept, table.reset_index(), check_exact=False, check_dtype=False)


@pytest.mark.parametrize(("limit", "reading", "remedy"), [
    (3, "official", "the limit is too tight to begin with: start above"),  # three tokens hold no box
    (2, "strict", "the limit is too tight"),
])
def test_a_round_that_could_learn_nothing_is_stopped_before_it_begins(
    mine: Config, limit: int, reading: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = dataclasses.replace(
        mine, schedules={"iterative": dataclasses.replace(mine.schedules["iterative"], limits=(limit,), reading=reading)})
    with pytest.raises(KitError, match=f"in 60 groups of 4 all rewards are equal, so nothing can be learned; {remedy}"):
        preflight.preflight(tight, "iterative", 1)
    patient = dataclasses.replace(tight, watch=dataclasses.replace(tight.watch, patience=0))
    capsys.readouterr()
    preflight.preflight(patient, "iterative", 1)
    assert "warning, iterative round 1: in 60 groups" in capsys.readouterr().out


def test_remedies_by_what_is_seen() -> None:
    def told(**seen: float) -> str:
        own = {"cut": 0.0, "right": 0.0, "no_box": 0.0, "varied": 0.0}
        return preflight._remedy({**own, **seen}, {**own, **{k[5:]: v for k, v in seen.items() if k.startswith("free_")}}, "80")

    assert "too easy for this limit" in told(right=1.0)
    assert "start above 80 tokens" in told(cut=0.95)
    assert "reading: last-number" in told(free_no_box=0.8)
    assert "too hard for this model" in told(free_no_box=0.1)


# --- the whole chain --------------------------------------------------------------------------------------------------


def test_the_whole_chain_runs_on_the_file_as_it_was_written(own: Path, tmp_path: Path) -> None:
    for name, count in (("train", 20), ("test", 6)):
        (tmp_path / f"{name}.csv").write_text("".join((own / f"{name}.csv").read_text().splitlines(keepends=True)[: count + 1]))
    few = ["--train", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv")]
    path = written(own, "own-model-chain", *few, "--limits", "12", "--steps", "2")
    try:
        chain = Chain(path, tmp_path / "results")
        chain.start(runner=False)
        assert chain.end() == 0, chain.printed[-3000:]
    finally:
        path.unlink()
    run = tmp_path / "results" / "own-model-chain"
    main = pd.read_csv(run / "metrics" / "main.csv")
    assert {"base", "iterative/round1"} <= set(main.model) and (run / "figures" / "trade_off.png").is_file()
    assert pd.read_csv(run / "training" / "iterative" / "round1" / "log.csv").reward.between(0.01, 0.99).all()
