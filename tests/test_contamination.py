"""Training problems that are also held out: found, listed, dropped, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from conftest import DATA, real

from kit.data import contamination, problems
from kit.data.contamination import overlaps, shingles
from kit.data.problems import Problem
from kit.rollout import models
from kit.runs import paths
from kit.settings import Config, load
from kit.settings.schema import Data
from kit.training import rounds


def test_overlap_is_shared_word_triples_over_all_of_them() -> None:
    train = [Problem("t", "one two three four five", "1")]  # 123, 234, 345
    held_out = [("set", Problem("e", "one two three four six", "1"))]  # 123, 234, 346: 2 of 4
    found = overlaps(train, held_out, 0.5)
    assert found.to_dict("records") == [{"train_id": "t", "set": "set", "id": "e", "similarity": 0.5}]
    assert overlaps(train, held_out, 0.51).empty


@pytest.mark.parametrize("other", [
    r"Find $\frac{1}{2}$ of the number  of integers $n$ with $(n+1) \leq 3$.",
    r"find $\dfrac{1}{2}$ of the number of integers $n$ with $\left(n + 1\right) \leq 3$ [asy] draw((0,0)--(1,1)); [/asy]",
    "Find \\(\\tfrac12\\) of the number of\nintegers \\(n\\) with \\((n+1)\\leq3\\).".replace("12", "{1}{2}"),
])
def test_what_latex_writes_differently_is_the_same(other: str) -> None:
    plain = r"Find $\frac{1}{2}$ of the number of integers $n$ with $(n+1) \leq 3$"
    assert shingles(Problem("a", other, "1")) == shingles(Problem("b", plain, "1"))


def test_short_questions_are_the_same_only_when_every_word_is() -> None:
    train = [Problem("a", r"Compute $\sin 60$.", "1"), Problem("b", "Why?", "1")]
    held_out = [("s", Problem("x", r"Compute $\sin 45$.", "1")), ("s", Problem("y", "why ?", "1"))]
    assert overlaps(train, held_out, 0.5)[["train_id", "id"]].values.tolist() == [["b", "y"]]


def test_generated_problems_count_as_the_same_only_when_they_are_equal() -> None:
    text = "Start with 3 , add 4 , add 5 , add 6 , add 7 , subtract {} . What is the result ?"
    train = [Problem("a", text.format(1), "1", core=9), Problem("b", text.format(2), "1", core=9)]
    assert list(overlaps(train, [("s", Problem("x", text.format(2), "1", core=9))], 0.5).train_id) == ["b"]


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation: tuple[str, ...]) -> Config:
    """AIME 1983 to 2023 as the training set, the real data for the others."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    data = Data(evaluation, "aime-old", "aime22-23", files={"aime-old": str(real("aime_1983_2023.json"))}, folder=str(DATA))
    return dataclasses.replace(load("params/smoke.yaml"), run="overlap", data=data)


def test_the_sixty_validation_problems_are_found_in_aime_1983_to_2023(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And in the real test sets: none of AIME24, AMC23 and OlympiadBench, ten of MATH-500 (eight verbatim or nearly, two with
    another question asked at the end), each checked by hand."""
    settings = run(tmp_path, monkeypatch, ("aime24", "amc23", "olympiadbench", "math500"))
    kept = contamination.training_problems(settings)
    table = pd.read_csv(paths.of(settings).contamination)
    assert table.set.value_counts().to_dict() == {"aime22-23": 60, "math500": 10}
    validation = table[table.set == "aime22-23"]
    assert set(validation.id) == {p.id for p in problems.load("aime22-23", settings)} and validation.similarity.min() > 0.8
    assert len(kept) == 975 - 70 and not set(table.train_id) & {p.id for p in kept}
    assert "905 problems for training" in capsys.readouterr().out
    by_year = {p.question: p for p in problems.load("aime-old", settings)}
    assert sum(p.question not in by_year for p in kept) == 0
    near = table[(table.set == "math500")].similarity
    assert near.min() > 0.55 and (near == 1).sum() == 6


def test_unrelated_sets_have_nothing_in_common() -> None:
    sets = {name: problems.read(real(f"{name}.jsonl")) for name in ("math500", "olympiadbench", "amc23", "aime24")}
    for name, train in sets.items():
        held_out = [(other, p) for other, rows in sets.items() if other != name for p in rows]
        assert overlaps(train, held_out, 0.35).empty  # far below the threshold


def test_training_rows_leave_out_what_is_held_out(tiny_world: Config, monkeypatch: pytest.MonkeyPatch) -> None:

    held_out = problems.load("two", tiny_world)[0]
    more = [*problems.load("train", tiny_world), dataclasses.replace(held_out, id="leak")]
    leaky = dataclasses.replace(tiny_world, run="leaky")
    for name in ("validation", "two", "three"):
        problems.write(paths.of(leaky).data(name), problems.load(name, tiny_world))
    problems.write(paths.of(leaky).data("train"), more)
    tokenizer = models.load_tokenizer(paths.of(tiny_world).base_model, tiny_world)
    rows = rounds.training_rows(leaky, tokenizer, None)
    assert len(rows) == len(more) - 1 and "leak" not in {row["id"] for row in rows}
    assert pd.read_csv(paths.of(leaky).contamination).to_dict("records") == [
        {"train_id": "leak", "set": "two", "id": held_out.id, "similarity": 1.0}]
