"""Problems by name: tasks of reasoning-gym, graded by their own verifiers among hostile answers, and any data set of the hub."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import hub
import pytest

from kit.data import problems
from kit.data.problems import Problem
from kit.evaluation import evaluate
from kit.laptop import arithmetic
from kit.reward import grading
from kit.reward.token_limit import TokenLimitReward
from kit.rollout.records import Response, record
from kit.settings import ROOT, Config, KitError, SetSource, load

gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym (extra gym) is not installed")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Params with sets of reasoning-gym, in empty folders, without network."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return having(load("params/smoke.yaml"), sums=SetSource("chain_sum", seed=7, size=5, options={"max_terms": 2}),
                  twenty=SetSource("countdown", size=3), colors=SetSource("graph_color", size=2))


def having(world: Config, **sets: SetSource) -> Config:
    return dataclasses.replace(world, data=dataclasses.replace(world.data, sources=sets))


def verdicts(problem: Problem, *answers: str) -> list[str]:
    """The verdicts on boxed answers to a problem."""
    told = [f"\\boxed{{{answer}}}" for answer in answers]
    return [g.verdict for g in grading.grade_many(told, [problem.answer] * len(told), "official", True,
                                                  [problem.verifier] * len(told))]


# --- reasoning-gym ----------------------------------------------------------------------------------------------------


@gym
def test_a_task_becomes_a_set_of_problems_that_is_the_same_every_time(world: Config, tmp_path: Path) -> None:
    found, facts = problems.open_set("sums", world)
    assert [p.id for p in found] == [f"chain_sum-{k}" for k in range(7, 12)]
    assert facts["origin"] == "reasoning-gym, chain_sum, seed 7"
    for p in found:
        a, sign, b = p.question.removeprefix("State the final answer to the following arithmetic problem: ").split()[:3]
        assert int(p.answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
    mix = [{"name": name, "weight": 1, "config": {"max_digits": 1}} for name in ("chain_sum", "products")]
    both = problems.load("x", having(world, x=SetSource("composite", size=20, options={"datasets": mix})))
    assert {json.loads(p.verifier)["reasoning_gym"] for p in both} == {"chain_sum", "products"}
    (kept,) = (tmp_path / "cache").glob("chain_sum-*")
    kept.write_text(kept.read_text().replace("State", "Tell"))  # so that it shows where the second time is read from
    assert problems.load("sums", world)[0].question.startswith("Tell")


@gym
def test_a_task_or_option_that_does_not_exist_is_told(world: Config) -> None:
    for source, told in ((SetSource("chain_sums"), "Dataset 'chain_sums' not registered"),
                         (SetSource("chain_sum", options={"terms": 2}), "unexpected keyword argument 'terms'"),
                         (SetSource("chain_sum", options={"min_terms": 9}), "max_terms must be >= min_terms")):
        with pytest.raises(KitError, match=told):
            problems.load("x", having(world, x=source))


@gym
def test_any_answer_that_the_verifier_takes_is_right_and_part_marks_are_not(world: Config) -> None:
    """12, 5 and 7 make 24 in several ways; of a sum the verifier gives part marks to a text that contains it."""
    entry = {"answer": "12 + 5 + 7", "metadata": {"numbers": [12, 5, 7], "target": 24}}
    problem = Problem("c", "?", "12 + 5 + 7", None, json.dumps({"reasoning_gym": "countdown", "entry": entry}))
    assert verdicts(problem, "12 + 5 + 7", "(7+12)+5", "5*7-12", "") == ["correct", "correct", "wrong", "no answer"]
    total = problems.load("sums", world)[0]
    assert verdicts(total, total.answer, f"+{total.answer}.0", f"{total.answer} apples") == ["correct", "correct", "wrong"]
    color = problems.load("colors", world)[0]  # many are right: there is no gold answer
    assert color.answer == "any that fits"
    graph = json.loads(color.verifier)["entry"]["metadata"]["puzzle"]
    assert verdicts(color, color.answer, json.dumps(dict.fromkeys(map(str, graph["vertices"]), 1))) == ["wrong"] * 2


@gym
def test_evaluation_and_the_reward_grade_with_the_verifier(world: Config) -> None:
    problem = Problem("c", "?", "nothing like it", None, problems.load("twenty", world)[0].verifier)
    gold = json.loads(problem.verifier)["entry"]["answer"]
    made = [record(problem, [Response(f"\\boxed{{{said}}}", 3, True) for said in (gold, "1")])]
    assert list(evaluate.grade(made, "official").verdict) == ["correct", "wrong"]
    entry = {"answer": "7", "metadata": {}}
    tokenizer = arithmetic.make_tokenizer()
    ids = tokenizer("Compute 3 + 4 = 7 . </think> \\boxed{ 7 } <eos>")["input_ids"]
    verifier = json.dumps({"reasoning_gym": "chain_sum", "entry": entry})
    reward = TokenLimitReward(20, tokenizer)
    assert reward(completion_ids=[ids, ids], answer=["8", "8"], verifier=[verifier, ""]) == [1.0, 0.0]


@gym
@pytest.mark.parametrize(("task", "metadata"), [
    ("countdown", {"numbers": [1], "target": 0}), ("puzzle24", {"numbers": [1, 2, 3, 4]}),
    ("n_queens", {"solutions": [], "valid_answers": []}), ("binary_matrix", {}),
    ("simple_integration", {"integrand": "2*x", "variable": "x", "expected_answer": "x**2 + C"}),
    ("polynomial_multiplication", {"result": "x**2", "variables": ["x"]}),
])
def test_no_answer_runs_code_in_a_verifier(task: str, metadata: dict, tmp_path: Path) -> None:
    """These verifiers evaluate what the model wrote."""
    trace = tmp_path / "trace"
    spelt = "+".join(f"chr({ord(c)})" for c in f"open('{trace}', 'w')")
    problem = Problem("h", "?", "0", None, json.dumps({"reasoning_gym": task, "entry": {"answer": "0", "metadata": metadata}}))
    found = verdicts(problem, f"open('{trace}', 'w')", f"eval({spelt})", f"[open('{trace}', 'w')]", "__import__('os').getpid()",
                     f"log(\"open('{trace}', 'w')\")", f"(lambda: open('{trace}', 'w'))()", f"[_ for _ in [open('{trace}')]]")
    assert not trace.exists() and set(found) == {"wrong"}


@gym
def test_an_answer_that_never_ends_times_out_and_the_next_is_graded() -> None:
    entry = {"answer": "1 + 1", "metadata": {"numbers": [1, 1], "target": 2}}
    problem = Problem("t", "?", "2", None, json.dumps({"reasoning_gym": "countdown", "entry": entry}))
    assert verdicts(problem, "9**9**9**9", "1 + 1") == ["timeout", "correct"]


def test_a_missing_package_is_told_with_the_command_that_installs_it(world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(KitError, match=r"reasoning-gym is not installed; pip install -e '.\[gym\]'"):
        problems.load("sums", world)


def test_a_set_from_nowhere_or_from_two_places_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"""extends: {os.path.relpath(ROOT / "params" / "smoke.yaml", tmp_path)}
data: {{sources: {{a: {{split: test}}, b: {{reasoning_gym: gcd, hub: a/b}}, c: {{reasoning_gym: gcd}}, d: {{hub: a/b}}}}}}
""")
    with pytest.raises(KitError) as told:
        load(tmp_path / "mine.yaml")
    assert [line.split("`")[1] for line in str(told.value).splitlines()] == ["data.sources.a", "data.sources.b"]


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_any_set_of_the_hub_is_read_by_its_id_and_columns(tmp_path: Path) -> None:
    """From a server on loopback, in a process of its own, as params say it."""
    place = tmp_path / "hub" / "somebody" / "puzzles"
    place.mkdir(parents=True)
    (place / "test.jsonl").write_text(json.dumps({"question": "ignored", "task": "What is 2 + 3?", "solution": 5}) + "\n")
    code = """
import dataclasses
from kit.data import problems
from kit.settings import SetSource, load
for column in ("solution", "gold"):
    config = load("params/smoke.yaml")
    source = SetSource(hub="somebody/puzzles", split="test", question="task", answer=column)
    data = dataclasses.replace(config.data, sources={"mine": source}, revisions={"mine": "main"})
    config = dataclasses.replace(config, data=data)
    try:
        print(problems.open_set("mine", config))
    except problems.KitError as error:
        print(error)
"""
    with hub.serve(tmp_path / "hub") as (address, _):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"),
                       "KIT_CACHE": str(tmp_path / "cache"), "KIT_RESULTS": str(tmp_path / "results")}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if "fetching" not in line)
    assert "question='What is 2 + 3?', answer='5'" in first and hub.COMMIT in first
    assert second == "somebody/puzzles: no column gold; there are question, task, solution"
