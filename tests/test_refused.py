"""Wrong params files and data rows: every one is refused in one line that names file, key or row, and says what would be right."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.data import problems
from kit.settings import ROOT, Config, KitError, load, notebook

LAPTOP = (ROOT / "params" / "laptop.yaml").read_text()
# What a message says of what would be right.
REMEDY = re.compile(r"did you mean|allowed: |should |is missing|name at least|a share|a folder name|is kept for|there is no such|"
                    r"there are |no word for|do not fit|needs at least|is no set of|no checkpoint would be saved|names a set twice|"
                    r"is not in data.evaluation|is not a folder name|say |put |run ")


def refused(folder: Path, text: str) -> str:
    """The message for a params file of this text."""
    (folder / "laptop.yaml").write_text(LAPTOP)
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(KitError) as caught:
        load(folder / "mine.yaml")
    message = str(caught.value)
    assert "mine.yaml" in message and "\n" not in message
    return message


def leaves(cls: type, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key that a params file can have, with its type."""
    for name, hint in typing.get_type_hints(cls).items():
        own = [part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)]  # of `Prompts | None`
        hint = own[0] if own and type(None) in typing.get_args(hint) else hint
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), (*where, name))
        elif name != "file":
            yield (*where, name), hint


def wrong_for(hint: Any) -> list[Any]:
    """Values that no key of this type takes."""
    args = typing.get_args(hint)
    if type(None) in args:
        return [v for v in wrong_for(args[0]) if v is not None]
    by_type = {int: ["many", 2.5, True, [1], -3], float: ["fast", [0.1], float("nan"), float("inf"), -0.5], str: [7, ["x"], True, 1.5],
               bool: ["perhaps", 3, [True]]}
    if typing.get_origin(hint) is typing.Literal:
        return ["nothing of the kind", 12, [args[0]]]
    if typing.get_origin(hint) in (tuple, dict):
        return ["text", 4, True]
    return by_type[hint]


# A key that params/laptop.yaml does not have, or whose negative value has a meaning, is checked by hand below.
KEYS = list(leaves(Config))
CASES = [(key, value) for key, hint in KEYS for value in wrong_for(hint) if not (key[:2] == ("model", "shape") and value == -3)]


def test_there_are_enough_cases() -> None:
    assert len(CASES) + len(BY_HAND) + len(ROWS) >= 150


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{'.'.join(k)}={v}" for k, v in CASES])
def test_a_value_of_the_wrong_kind_is_refused_by_its_key(tmp_path: Path, key: tuple[str, ...], value: Any) -> None:
    table: Any = value
    for name in reversed(key):
        table = {name: table}
    message = refused(tmp_path, yaml.safe_dump({"extends": "laptop.yaml", **table}))
    assert f"`{'.'.join(key)}" in message and REMEDY.search(message), message


@pytest.mark.parametrize("key", [".".join(k) for k, _ in KEYS])
def test_a_misspelt_key_is_refused_with_what_was_meant(tmp_path: Path, key: str) -> None:
    *where, last = key.split(".")
    misspelt = last[:-1] + last[-1] * 2
    table: Any = {misspelt: 1}
    for name in reversed(where):
        table = {name: table}
    message = refused(tmp_path, yaml.safe_dump({"extends": "laptop.yaml", **table}))
    assert f"unknown key `{'.'.join([*where, misspelt])}`; did you mean `{last}`?" in message


BY_HAND = {
    "extends: laptop.yaml\nmodel: {shape: {hidden_size: -3, intermediate_size: 8, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 1, vocab_size: 9}}": "`model.shape.hidden_size` is -3; should be above 0",
    # not a table at all
    "": "should be a table", "just words": "should be a table", "- a\n- list": "should be a table", "run: [": "line ", "a: b: c": "line 1",
    "run: x\nrun: y": "key `run` twice", "run: !!python/object/apply:os.system [id]": "not readable as YAML",
    "extends: nowhere.yaml": "no file nowhere.yaml", "extends: mine.yaml": "leads back", "run: lonely": "`data` is missing",
    # ranges
    "extends: laptop.yaml\nselection: {tolerance: 1}": "`selection.tolerance`",
    "extends: laptop.yaml\nselection: {samples: 0}": "`selection.samples` is 0; should be above 0",
    "extends: laptop.yaml\nevaluation: {top_p: 1.2}": "`evaluation.top_p` is 1.2; should be above 0 and at most 1",
    "extends: laptop.yaml\nevaluation: {samples: 0}": "`evaluation.samples` is 0",
    "extends: laptop.yaml\nevaluation: {max_new_tokens: 5000}": "do not fit into it",
    "extends: laptop.yaml\nevaluation: {samples_by_set: {two: 0}}": "`evaluation.samples_by_set.two` is 0",
    "extends: laptop.yaml\nevaluation: {samples_by_set: {tow: 3}}": "`evaluation.samples_by_set.tow` is not in data.evaluation",
    "extends: laptop.yaml\ntraining: {learning_rate: 3}": "`training.learning_rate` is 3.0; should be above 0 and at most 0.1",
    "extends: laptop.yaml\ntraining: {top_p: 0}": "`training.top_p`", "extends: laptop.yaml\ntraining: {temperature: 0}": "above 0",
    "extends: laptop.yaml\ntraining: {clip_ratio: -0.2}": "should not be negative",
    "extends: laptop.yaml\ntraining: {steps: 0}": "`training.steps` is 0",
    "extends: laptop.yaml\ntraining: {prompts_per_step: 0}": "`training.prompts_per_step` is 0",
    "extends: laptop.yaml\ntraining: {responses_per_prompt: 1}": "a group needs at least 2 responses",
    "extends: laptop.yaml\ntraining: {keep_checkpoints: some}": "should be one of all, selected",
    "extends: laptop.yaml\nwatch: {truncated: 95}": "`watch.truncated` is 95.0; a share",
    "extends: laptop.yaml\nwatch: {patience: -1}": "`watch.patience` is -1; should not be negative",
    "extends: laptop.yaml\nwatch: {kl: 0}": "`watch.kl` is 0.0; should be above 0",
    "extends: laptop.yaml\narithmetic: {habits: {careful: [0.5, 2]}}": "`arithmetic.habits.careful`",
    "extends: laptop.yaml\narithmetic: {habits: {careful: []}}": "`arithmetic.habits.careful`",
    "extends: laptop.yaml\narithmetic: {operations: {train: [9]}}": "`arithmetic.operations.train` should list",
    "extends: laptop.yaml\narithmetic: {operations: {train: []}}": "`arithmetic.operations.train` should list",
    "extends: laptop.yaml\narithmetic: {key_value_heads: 3}": "`arithmetic.hidden_size` should be a multiple",
    "extends: laptop.yaml\nthreads: 0": "`threads` is 0", "extends: laptop.yaml\nseed: 99999999999": "`seed`",
    # names
    "extends: laptop.yaml\nrun: a/b": "`run` is 'a/b'; a folder name", "extends: laptop.yaml\nrun: ''": "`run` is ''",
    "extends: laptop.yaml\nrun: \"a\\0b\"": "a folder name", "extends: laptop.yaml\nrun: ~": "`run` is None; should be text",
    "extends: laptop.yaml\nschedules: {'..': {limits: [50]}}": "is not a folder name",
    "extends: laptop.yaml\nschedules: {a: {limits: [50, 50]}}": "limits should fall from round to round",
    "extends: laptop.yaml\nschedules: {a: {limits: [50.5]}}": "`schedules.a.limits[0]` is 50.5; should be a whole number",
    "extends: laptop.yaml\nschedules: {a: {limits: [0]}}": "token limits above 0", "extends: laptop.yaml\nschedules: {a: 50}": "a table",
    "extends: laptop.yaml\nschedules: {a: {}}": "`schedules.a.limits` is missing",
    "extends: laptop.yaml\nschedules: {a: {limits: [50], steps: 3, checkpoint_every: 9}}": "no checkpoint would be saved",
    "extends: laptop.yaml\nschedules: {a: {limits: [50], select: best}}": "should be one of rule, last",
    "extends: laptop.yaml\nkeywords: {core: []}": "`keywords.core` should list words",
    "extends: laptop.yaml\nkeywords: {core: [compute, '']}": "`keywords.core` should list words",
    "extends: laptop.yaml\nmodel: {source: ./no/such/folder}": "there is no such folder",
    "extends: laptop.yaml\nmodel: {source: a/b/c}": "there is no such folder", "extends: laptop.yaml\nmodel: {source: ''}": "no such folder",
    "extends: laptop.yaml\nprompts: {evaluation_user: no question}": "`prompts.evaluation_user` should contain {question}",
    "extends: laptop.yaml\nprompts: {limit_sentence: be short}": "`prompts.limit_sentence` should contain {limit}",
    "extends: laptop.yaml\ndata: {evaluation: []}": "`data.evaluation` is empty",
    "extends: laptop.yaml\ndata: {evaluation: [two, two]}": "names a set twice",
}


@pytest.mark.parametrize("text", BY_HAND, ids=[t.replace("extends: laptop.yaml\n", "")[:50] or "empty" for t in BY_HAND])
def test_a_mistake_is_refused_in_words(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, text)
    assert BY_HAND[text] in message, message


def test_problems_of_types_names_and_ranges_are_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, yaml.safe_dump({
        "extends": "laptop.yaml", "seeed": 3, "threads": 0, "training": {"steps": "x", "responses_per_prompt": 1},
        "evaluation": {"top_p": 2.0}, "schedules": {"a": {"limits": [50, 60]}}}))
    for key in ("`seeed`", "`threads`", "`training.steps`", "`training.responses_per_prompt`", "`evaluation.top_p`", "`schedules.a.limits`"):
        assert key in message, key


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**6) | st.floats() | st.text(max_size=8), lambda v: st.lists(v, max_size=3)
    | st.dictionaries(st.text(max_size=6), v, max_size=3), max_leaves=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(key=st.sampled_from([k for k, _ in KEYS]), value=values)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(tmp_path: Path, key: tuple[str, ...], value: Any) -> None:
    table: Any = value
    for name in reversed(key):
        table = {name: table}
    (tmp_path / "laptop.yaml").write_text(LAPTOP)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "laptop.yaml", **table}))
    try:
        load(tmp_path / "mine.yaml")
    except KitError as error:
        assert "mine.yaml" in str(error) and "\n" not in str(error) and str(error).isprintable()


# --- data rows --------------------------------------------------------------------------------------------------------

GOOD = {"id": "1", "question": "What is 1 + 1?", "answer": "2"}
ROWS = {
    "not json": "not json", "half a row": '{"question": "What', "a list": "[1, 2]", "a number": "7", "null": "null", "a text": '"hello"',
    "no question": '{"answer": "2"}', "no answer": '{"question": "What?"}', "no keys": "{}",
    "a question that is no text": '{"question": 5, "answer": "2"}', "a question that is a list": '{"question": ["a"], "answer": "2"}',
    "a question that is null": '{"question": null, "answer": "2"}', "an empty question": '{"question": "", "answer": "2"}',
    "an answer that is a table": '{"question": "What?", "answer": {"x": 1}}',
    "an answer that is null": '{"question": "What?", "answer": null}',
    "a prompt that is no conversation": '{"prompt": "hi", "answer": "2"}', "two rows in a line": json.dumps(GOOD) * 2,
    "a control character": '{"question": "a\x01b", "answer": "2"}',
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_that_is_no_problem_is_refused_by_file_and_row(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join([json.dumps(GOOD), ROWS[kind]]) + "\n")
    with pytest.raises(KitError) as caught:
        problems.read(file)
    assert "mine.jsonl" in str(caught.value) and "row 2" in str(caught.value) and "\n" not in str(caught.value)
    assert re.search(r"question|answer", str(caught.value)), "says what a row should have"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00broken", b"\x00" * 40])
def test_a_file_without_problems_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content)
    with pytest.raises(KitError, match="mine.jsonl") as caught:
        problems.read(file)
    assert "\n" not in str(caught.value)


# --- the same words everywhere ----------------------------------------------------------------------------------------


def test_command_papermill_and_notebook_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "laptop.yaml").write_text(LAPTOP)
    (tmp_path / "mine.yaml").write_text("extends: laptop.yaml\ntraining: {steps: many}\nseeed: 1\n")
    message = "mine.yaml: `training.steps` is 'many'; should be a whole number; mine.yaml: unknown key `seeed`; did you mean `seed`?"
    with pytest.raises(KitError) as caught:
        notebook(str(tmp_path / "mine.yaml"))
    assert str(caught.value) == message
    chain = subprocess.run([sys.executable, "-m", "kit", "run", str(tmp_path / "mine.yaml")], capture_output=True, text=True, cwd=ROOT)
    assert (chain.returncode, chain.stdout, chain.stderr) == (1, "", f"error: {message}\n")
    line = ["papermill", "notebooks/03_evaluate.ipynb", str(tmp_path / "out.ipynb"), "-p", "params_file", str(tmp_path / "mine.yaml")]
    papermill = subprocess.run([sys.executable, "-m", *line, "--no-progress-bar"], capture_output=True, text=True, cwd=ROOT)
    assert papermill.returncode == 1 and papermill.stderr.rstrip().endswith(f"KitError: {message}")
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert [o["evalue"] for o in errors] == [message] and [len(o["traceback"]) for o in errors] == [1]
