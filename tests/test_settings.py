"""Params files: what is read, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from unittest.mock import Mock

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.settings import ROOT, Config, KitError, Training, load, notebook, read_yaml, schema_text, window_of, yaml_text
from kit.settings.schema import Evaluation, Selection

LAPTOP = (ROOT / "params" / "laptop.yaml").read_text()
FILES = sorted(p for p in (ROOT / "params").glob("*.yaml") if p.name != "published.yaml")


def write(folder: Path, text: str) -> Path:
    """mine.yaml, beside a laptop.yaml that it may extend."""
    (folder / "laptop.yaml").write_text(LAPTOP)
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def refused(folder: Path, text: str) -> list[str]:
    """What is said of a params file of this text, a line for each problem, without the file's name."""
    with pytest.raises(KitError) as caught:
        load(write(folder, text))
    lines = str(caught.value).split("\n")
    assert all(line.startswith("mine.yaml") and line.isprintable() for line in lines)
    return [line.removeprefix("mine.yaml: ") for line in lines]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_params_file_of_the_project_loads(path: Path) -> None:
    loaded = load(path)
    assert loaded.file == f"params/{path.name}"
    assert all(schedule.limits for schedule in loaded.schedules.values())


def test_a_params_file_is_found_from_the_notebooks_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    assert load("params/laptop.yaml").run == "laptop"


def test_a_params_file_outside_the_project_is_found_again_by_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(write(tmp_path, "extends: laptop.yaml\nseed: 7\n"))
    monkeypatch.chdir(ROOT / "notebooks")
    assert load(loaded.file) == loaded and loaded.seed == 7


def test_defaults_are_the_official_settings() -> None:
    t, e = Training(), Evaluation()
    assert (t.prompts_per_step, t.responses_per_prompt, t.steps, t.checkpoint_every) == (128, 16, 180, 20)
    assert (t.learning_rate, t.clip_ratio, t.kl_coefficient, t.entropy_coefficient) == (1e-6, 0.2, 0.001, 0.001)
    assert (t.temperature, t.top_p, t.max_grad_norm) == (1.0, 1.0, 1.0)
    assert (e.temperature, e.top_p, e.max_new_tokens) == (0.6, 0.95, 32000)
    assert Selection().tolerance == 0.10


def test_extends_lays_keys_over_keys_and_replaces_schedules_whole(tmp_path: Path) -> None:
    text = "extends: laptop.yaml\ntraining: {learning_rate: 1e-5}\nschedules: {only: {limits: [50]}}\n"
    loaded = load(write(tmp_path, text))
    assert loaded.training.learning_rate == 1e-5
    assert loaded.training.prompts_per_step == 12  # from laptop.yaml; the default is 128
    assert list(loaded.schedules) == ["only"]


def test_several_parents_are_laid_over_one_another_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\nthreads: 3\ntraining: {steps: 40, learning_rate: 1e-5}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\ntraining: {steps: 60}\n")
    loaded = load(write(tmp_path, "extends: [laptop.yaml, a.yaml, b.yaml]\nthreads: 2\n"))
    assert (loaded.seed, loaded.threads, loaded.training.steps, loaded.training.learning_rate) == (2, 2, 60, 1e-5)


@pytest.mark.parametrize("number", ["1e-6", "1.e-6", "1E-06", "0.000001", ".1e-5"])
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, number: str) -> None:
    assert load(write(tmp_path, f"extends: laptop.yaml\ntraining: {{learning_rate: {number}}}\n")).training.learning_rate == 1e-6


def test_a_number_is_read_to_the_last_digit(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "extends: laptop.yaml\nevaluation: {temperature: 0.30000000000000004}\n"))
    assert loaded.evaluation.temperature == 0.1 + 0.2


def test_off_no_and_a_date_are_texts(tmp_path: Path) -> None:
    text = "extends: laptop.yaml\nrun: 2026-11-25\ntraining: {vllm: off}\nset_labels: {two: no}\n"
    loaded = load(write(tmp_path, text))
    assert (loaded.run, loaded.training.vllm, loaded.set_labels["two"]) == ("2026-11-25", "off", "no")


def test_fields_of_trl_are_taken_as_they_stand(tmp_path: Path) -> None:
    text = ("extends: laptop.yaml\n"
            "training: {trl: {loss_type: dr_grpo, epsilon_high: 0.28, use_liger_kernel: false, report_to: [wandb]}}\n")
    assert load(write(tmp_path, text)).training.trl == {
        "loss_type": "dr_grpo", "weight_decay": 0.0, "epsilon_high": 0.28, "use_liger_kernel": False, "report_to": ["wandb"]}


def test_a_models_folder_that_names_no_window_is_taken_for_one_of_the_papers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_positions": 1024}')
    assert window_of(str(tmp_path)) == 32768


def test_settings_cannot_be_changed_and_what_takes_their_place_is_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Training().steps = 3
    with pytest.raises(ValueError, match="steps"):
        dataclasses.replace(Training(), steps=0)


def test_params_load_in_50_ms_without_torch_and_trl() -> None:
    code = ("import sys, time; from kit.settings import load; load('params/ds-1.5b-2k.yaml'); start = time.perf_counter()\n"
            "load('params/ds-1.5b-2k.yaml'); print(time.perf_counter() - start, {'torch', 'trl'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert float(seconds) < 0.05 and heavy == "set()\n"


# --- what is refused --------------------------------------------------------------------------------------------------

NAME = "should be a name of letters, digits, - _ and ."
ADDRESS = "should be an address like http://127.0.0.1:8000/v1, with no user or key in it"
VARIABLE = "should be the name of an environment variable, in capitals; the key itself stays out of params"
REFERENCE = "`behavior.reference` is trained: that is for the laptop's language; name a model"
NO_MODEL = "there is no such folder, and a hub id is `owner/name`"
WIDTH = "`arithmetic.hidden_size` should be a multiple of twice `heads`, and `heads` of `key_value_heads`"
REFUSED: dict[str, str | list[str]] = {
    # keys
    "trainin: {}": "unknown key `trainin`; did you mean `training`?",
    "training: {learning_rat: 1}": "unknown key `training.learning_rat`; did you mean `learning_rate`?",
    "selection: {zzz: 1}": "unknown key `selection.zzz`; there are tolerance, samples",
    "schedules: {a: {limit: [9]}}": ["`schedules.a.limits` is missing",
                                     "unknown key `schedules.a.limit`; did you mean `limits`?"],
    "logs: {model: {}}": "unknown key `logs.model`; did you mean `models`?",
    # types
    "training: {steps: many}": "`training.steps` is 'many'; should be a whole number",
    "training: {steps: 2.5}": "`training.steps` is 2.5; should be a whole number",
    "training: {steps: true}": "`training.steps` is true; should be a whole number",
    'training: {steps: "12"}': "`training.steps` is '12'; should be a whole number",
    "training: {steps: ~}": "`training.steps` is null; should be a whole number",
    "training: {lora_rank: 0}": "`training.lora_rank` is 0; should be greater than 0",
    "evaluation: {temperature: hot}": "`evaluation.temperature` is 'hot'; should be a valid number",
    "evaluation: {temperature: .nan}": "`evaluation.temperature` is nan; should be a finite number",
    "training: {max_grad_norm: .inf}": "`training.max_grad_norm` is inf; should be a finite number",
    "behavior: {reference: 7}": "`behavior.reference` is 7; should be text",
    "model: {trust_remote_code: yes}": "`model.trust_remote_code` is 'yes'; should be true or false",
    "training: {vllm: true}": "`training.vllm` is true; should be 'off', 'colocate' or 'server'",
    "data: {evaluation: two}": "`data.evaluation` is 'two'; should be a list",
    "schedules: [1]": "`schedules` is [1]; should be a table of keys",
    "schedules: {a: 50}": "`schedules.a` is 50; should be a table of keys",
    "schedules: {a: {limits: [50.5]}}": "`schedules.a.limits[0]` is 50.5; should be a whole number",
    # ranges
    "training: {responses_per_prompt: 1}": "`training.responses_per_prompt` is 1; should be greater than or equal to 2",
    "training: {learning_rate: 3}": "`training.learning_rate` is 3; should be less than or equal to 0.1",
    "selection: {tolerance: 1}": "`selection.tolerance` is 1; should be less than 1",
    "behavior: {window: 8}": "`behavior.window` is 8; should be greater than or equal to 16",
    "arithmetic: {largest: 1000}": "`arithmetic.largest` is 1000; should be less than or equal to 99",
    "arithmetic: {operations: {train: [9]}}":
        "`arithmetic.operations.train[0]` is 9; should be less than or equal to 6",
    "arithmetic: {habits: {careful: [0.5, 2]}}":
        "`arithmetic.habits.careful[1]` is 2; should be less than or equal to 1",
    "arithmetic: {habits: {careful: []}}": "`arithmetic.habits.careful` is []; should have at least 1 item",
    "hardware: {lengths: {two: -1}}": "`hardware.lengths.two` is -1; should be greater than 0",
    "seed: 99999999999": "`seed` is 99999999999; should be less than 2147483648",
    "keywords: {core: [compute, '']}": "`keywords.core[1]` is ''; should be a word or phrase",
    # names, addresses
    "run: ../elsewhere": f"`run` is '../elsewhere'; {NAME}",
    "run: ..": f"`run` is '..'; {NAME}",
    'run: "a\\0b"': f"`run` is 'a\\x00b'; {NAME}",
    "data: {validation: a/b}": f"`data.validation` is 'a/b'; {NAME}",
    "data: {evaluation: [two, 'thr ee']}": f"`data.evaluation[1]` is 'thr ee'; {NAME}",
    "schedules: {a/b: {limits: [9]}}": "`schedules.a/b` is 'a/b'; should be a name of letters, digits, - and _",
    "schedules: {base: {limits: [9]}}": "`schedules.base`: this name is kept for the base model",
    "engine: {url: 127.0.0.1:8000}": f"`engine.url` {ADDRESS}",
    'engine: {url: "http://user:secret@host/v1"}': f"`engine.url` {ADDRESS}",
    'behavior: {judge: {url: "http://host/v1?key=secret", model: m}}': f"`behavior.judge.url` {ADDRESS}",
    "engine: {key_variable: sk-secret}": f"`engine.key_variable` {VARIABLE}",
    # what keys say of each other
    "data: {evaluation: [two, two]}": "`data` names a set twice: train, validation, two, two",
    "data: {evaluation: [train]}": "`data` names a set twice: train, validation, train",
    "data: {evaluation: [mean]}\narithmetic: {operations: {mean: [2]}}":
        "`data`: a set cannot be called mean, which is what the mean over the sets is called",
    "data: {evaluation: [seven]}": "`arithmetic.operations.seven` is missing; should list numbers of operations between 1 and 6",
    "data: {train: ''}": "`data.train` and `data.validation` should each name a data set",
    "evaluation: {samples_by_set: {nine: 4}}": "`evaluation.samples_by_set`: nine is not in data.evaluation",
    "behavior: {reference_sets: [nine]}": "`behavior.reference_sets`: nine is not in data.evaluation",
    "behavior: {judge: {url: 'http://[::1]:8000/v1'}}": "`behavior.judge.model` is missing: which model should the endpoint use?",
    "logs: {models: {no-limit-round1: {one: a, two: a, three: a, four: a}}}":
        "`logs.models.no-limit-round1`: a schedule or a table in metrics/ is called so; call the model something else",
    "seeds: [1]": "`seeds` is [1]; should be other seeds than `seed` (1, the run laptop itself), each once",
    "seeds: [2, 2]": "`seeds` is [2, 2]; should be other seeds than `seed` (1, the run laptop itself), each once",
    "training: {processes: 5}":
        "`training.processes` is 5; should divide the 12 prompts x 8 responses = 96 of a step",
    "training: {processes: 4, machines: 3}": "`training.machines` is 3; should divide processes = 4",
    "schedules: {}": "`schedules` is empty; name at least one, e.g. iterative: {limits: [4000, 3000, 2000]}",
    "schedules: {a: {limits: [50, 50]}}": "`schedules.a.limits` is [50, 50]; limits should fall from round to round",
    "schedules: {a: {limits: [50], steps: 3, checkpoint_every: 9}}":
        "`schedules.a.steps` is 3, checkpoint_every 9: no checkpoint would be saved",
    "schedules: {a: {limits: [50], checkpoint_every: 13}}":
        "`schedules.a.steps` is 12, checkpoint_every 13: no checkpoint would be saved",
    "schedules: {a: {limits: [50], compare_with: b}}": "`schedules.a.compare_with` is b; should be another schedule's name",
    "schedules: {a: {limits: [50], compare_with: a}}": "`schedules.a.compare_with` is a; should be another schedule's name",
    "schedules: {a: {label: mine, limits: [60]}, b: {label: mine, limits: [60], steps: 24}}":
        "`schedules.b` and a have a model of one name, mine, 60; give one another `label`",
    "set_labels: {one: x, two: x, three: y, four: z}": "`set_labels` calls two sets of data.evaluation the same: x, x, y, z",
    "data: {files: {validaton: a.csv}}": "`data.files.validaton` is no set of this run; did you mean validation?",
    "behavior: {pairs: [iterative]}":
        "`behavior.pairs` names iterative; there are base, iterative/round1, iterative/round2, iterative/round3, "
        "one-shot/round1, no-limit/round1",
    "schedules: {a: {limits: [105]}}":
        "`schedules`: the laptop model has no word for the limit [105]; up to 100, or tens up to 600",
    "prompts: ~": "`prompts` is missing",
    "prompts: {limit_sentence: Be brief.}": "`prompts.limit_sentence` is 'Be brief.'; should be a text with {limit} in it",
    "prompts: {train_user: Hello}": "`prompts.train_user` should contain {question}",
    "prompts: {forcing_ending: ' '}":
        "`prompts.forcing_ending` is empty; should make the model answer, like </think> The final answer is",
    'prompts: {wordings: {a: "{question}"}, train_user: b}':
        "`prompts.train_user` should contain {question} or name one of prompts.wordings (a)",
    "forcing: {budgets: [30, 20]}": "`forcing.budgets` is [30, 20]; each should be larger than the one before",
    "forcing: {models: [one-shot/round2]}":
        "`forcing.models` names one-shot/round2; there are base, iterative/round1, iterative/round2, iterative/round3, "
        "one-shot/round1, no-limit/round1",
    "forcing: {samples: 0}": "`forcing.samples` is 0; should be greater than 0",
    "forcing: {models: []}": "`forcing.models` is empty; name at least base, or leave `forcing.budgets` empty",
    "forcing: {budgets: [867]}": "`forcing`: largest budget + answer_tokens exceed 874 tokens (what arithmetic.max_length leaves "
        "beside the prompt and the ending)",
    "evaluation: {max_new_tokens: 961}":
        "`arithmetic.max_length` is 1024; a prompt (64 tokens) and the longest response (961 tokens, "
        "by `evaluation.max_new_tokens` or `schedules`) do not fit into it",
    "training: {micro_batch: 36, trl: {loss_type: bnpo}}":
        "`training.micro_batch` is 36; should divide the 96 responses of a process: the loss is the token mean of each pass "
        "(training: {trl: {loss_type: dapo}} takes that of the whole step)",
    "training: {vllm: colocate, top_p: 0.9, trl: {vllm_importance_sampling_correction: true}}":
        "`training.top_p` is 0.9; with vLLM's correction it should be 1: below it vLLM's probabilities are those of a cut "
        "distribution, and their ratio to the trainer's is biased",
    "arithmetic: {heads: 5}": WIDTH,
    "arithmetic: {key_value_heads: 3}": WIDTH,
    "model: {source: Qwen/Qwen2.5-0.5B}": REFERENCE,
    "model: {source: ./no/such/folder}\nbehavior: {reference: ''}": f"`model.source` is './no/such/folder'; {NO_MODEL}",
    "model: {source: a/b/c}\nbehavior: {reference: ''}": f"`model.source` is 'a/b/c'; {NO_MODEL}",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_mistake_is_refused_by_its_key_with_what_would_be_right(tmp_path: Path, text: str) -> None:
    said = REFUSED[text]
    assert refused(tmp_path, f"extends: laptop.yaml\n{text}\n") == ([said] if isinstance(said, str) else said)


@pytest.mark.parametrize(("text", "said"), [
    ("run: [", "line 1: not readable as YAML (expected the node content, but found '<stream end>')"),
    ("run: x\nrun: y", "line 2: not readable as YAML (found duplicate key \"run\""),
    ("run: !!python/object/apply:os.system ['true']", "not readable as YAML (could not determine a constructor"),
    ("run: &a [*a]", "not readable as YAML (Circular reference detected)"),
    ('run: "\\ud800"', "not readable as YAML (surrogates not allowed)"),
    ("", "should be a table of `key: value` lines"), ("- a\n- b", "should be a table of `key: value` lines"),
    ("run: lonely", "`data` is missing"),
    ("extends: nowhere.yaml", "extends: no file nowhere.yaml beside it"),
    ("extends: {a: b}", "extends: no file {'a': 'b'} beside it"),
    ("extends: [mine.yaml]", "extends: mine.yaml leads back to this file"),
])
def test_a_file_that_is_no_table_of_settings_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    lines = refused(tmp_path, text)
    assert len(lines) == 1 and said in lines[0]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "").write_bytes(b"run: \xff\xfe")
    with pytest.raises(KitError, match="mine.yaml: not readable as YAML .invalid start byte"):
        load(tmp_path / "mine.yaml")


def test_a_missing_file_names_those_that_exist() -> None:
    with pytest.raises(KitError, match="params/laptop.yaml"):
        load("params/desktop.yaml")


def test_all_problems_of_a_file_are_told_at_once_a_line_each(tmp_path: Path) -> None:
    text = ("extends: laptop.yaml\nseeed: 3\nthreads: 0\ntraining: {steps: x, processes: 5}\nevaluation: {top_p: 2.0}\n"
            "schedules: {a: {limits: [50, 60]}}\n")
    assert [line.split("`")[1] for line in refused(tmp_path, text)] == [
        "training.steps", "evaluation.top_p", "threads", "seeed", "training.processes", "schedules.a.limits"]


def keys(cls: type, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key that a params file can have."""
    for name, hint in get_type_hints(cls).items():
        inner = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
        if inner and get_origin(hint) is not dict:
            yield from keys(inner[0], (*where, name))
        elif name != "file":
            yield (*where, name)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**6) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(key=st.sampled_from(sorted(keys(Config))), value=values)
def test_any_value_of_any_key_is_taken_or_refused_by_name(tmp_path: Path, key: tuple[str, ...], value: Any) -> None:
    for name in reversed(key):
        value = {name: value}
    file = write(tmp_path, yaml_text({"extends": "laptop.yaml", **value}))
    try:
        load(file)
    except KitError as error:
        assert all(line.startswith("mine.yaml") and line.isprintable() for line in str(error).split("\n"))


# --- the schema for editors -------------------------------------------------------------------------------------------

SCHEMA = json.loads((ROOT / "params" / "schema.json").read_text())


def test_the_schema_is_current() -> None:
    assert schema_text() == (ROOT / "params" / "schema.json").read_text(), "run: python -m kit schema"


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "params" / "shared").glob("*.yaml"))], ids=lambda p: p.name)
def test_every_params_file_names_the_schema_and_editors_find_nothing_wrong_with_it(path: Path) -> None:
    if path.name == "phases.yaml":  # not settings
        return
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", path.read_text().split("\n")[0])
    assert named and (path.parent / named[1]).resolve() == ROOT / "params" / "schema.json"
    jsonschema.validate(read_yaml(path), SCHEMA)


@pytest.mark.parametrize("text", [
    "trainin: {}", "training: {learning_rat: 1}", "training: {steps: many}", "training: {vllm: on}", "seed: -1",
    "training: {top_p: 1.2}", "schedules: {a: {label: no limits}}", "schedules: {a: {limits: []}}", "data: {evaluation: [a/b]}",
    "extends: 3", "file: x",
])
def test_editors_refuse_what_the_kit_refuses(tmp_path: Path, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read_yaml(write(tmp_path, text)), SCHEMA)


# --- the same words everywhere ----------------------------------------------------------------------------------------


def test_command_papermill_and_notebook_say_the_same(tmp_path: Path) -> None:
    file = str(write(tmp_path, "extends: laptop.yaml\ntraining: {steps: many}\nseeed: 1\n"))
    message = ("mine.yaml: `training.steps` is 'many'; should be a whole number\n"
               "mine.yaml: unknown key `seeed`; did you mean `seed`?")
    with pytest.raises(KitError) as caught:
        notebook(file)
    assert str(caught.value) == message
    chain = subprocess.run([sys.executable, "-m", "kit", "run", file], capture_output=True, text=True, cwd=ROOT)
    assert (chain.returncode, chain.stdout, chain.stderr) == (1, "", "".join(f"error: {line}\n" for line in message.split("\n")))
    line = ["papermill", "notebooks/03_evaluate.ipynb", str(tmp_path / "out.ipynb"), "-p", "params_file", file]
    papermill = subprocess.run([sys.executable, "-m", *line, "--no-progress-bar"], capture_output=True, text=True, cwd=ROOT)
    assert papermill.returncode == 1 and papermill.stderr.rstrip().endswith(f"KitError: {message}")
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert [o["evalue"] for o in errors] == [message]
    assert [o["traceback"] for o in errors] == [f"KitError: {message}".split("\n")]


def test_a_parameter_that_a_notebook_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        user_ns = {"In": ["", "round = 1", '# Parameters\nparams_file = "params/laptop.yaml"\nrouns = 2\n']}
        set_custom_exc = Mock()

    monkeypatch.setattr("IPython.get_ipython", Shell)
    with pytest.raises(KitError, match="this notebook has no parameter rouns; did you mean `round`?"):
        notebook("params/laptop.yaml", round=1)


def test_a_mistake_is_told_in_plain_lines_whatever_it_quotes() -> None:
    error = KitError("a  model\nsaid \x1b[2J", "and more")
    assert str(error) == "a model said \\x1b[2J\nand more"
    assert error._render_traceback_() == ["KitError: a model said \\x1b[2J", "and more"]


@pytest.mark.parametrize(("given", "message"), [
    ({"schedule": "nosuch", "round": 1}, "has no schedule nosuch; there are base, iterative"),
    ({"schedule": "iterative", "round": "1"}, "`round` is '1'; should be a whole number (papermill: -p round 1)"),
])
def test_a_notebooks_own_parameters_are_looked_at_too(given: dict[str, Any], message: str) -> None:
    with pytest.raises(KitError) as caught:
        notebook("params/smoke.yaml", **given)
    assert message in str(caught.value)


def test_a_params_file_given_as_a_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="^smok.yaml: no such params file; did you mean params/smoke.yaml?"):
        load("smok.yaml")
    with pytest.raises(KitError, match="^5: no such params file"):
        notebook(5)  # papermill reads numbers
