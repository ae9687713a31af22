"""Params files: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.settings import ROOT, KitError, load
from kit.settings import schema as kit_settings


def write(folder: Path, changes: dict, base: str = "laptop.yaml") -> Path:
    """A params file that extends one of ours by `changes`."""
    file = folder / "mine.yaml"
    (folder / "laptop.yaml").write_text((ROOT / "params" / base).read_text())
    file.write_text(yaml.safe_dump({"extends": "laptop.yaml", **changes}))
    return file


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "params").glob("*.yaml") if p.name != "published.yaml"))
def test_every_params_file_of_the_project_loads(name: str) -> None:
    loaded = load(ROOT / "params" / name)
    assert loaded.file == f"params/{name}"
    assert all(schedule.limits for schedule in loaded.schedules.values())


def test_a_params_file_is_found_from_the_notebooks_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    assert load("params/laptop.yaml").run == "laptop"


def test_a_params_file_outside_the_project_is_found_again_by_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(write(tmp_path, {"seed": 7}))
    monkeypatch.chdir(ROOT / "notebooks")
    assert load(loaded.file) == loaded and loaded.seed == 7


def test_defaults_are_the_official_settings() -> None:
    t, e = kit_settings.Training(), kit_settings.Evaluation()
    assert (t.prompts_per_step, t.responses_per_prompt, t.steps, t.checkpoint_every) == (128, 16, 190, 20)
    assert (t.learning_rate, t.clip_ratio, t.kl_coefficient, t.entropy_coefficient) == (1e-6, 0.2, 0.001, 0.001)
    assert (t.temperature, t.top_p, t.max_grad_norm) == (1.0, 1.0, 1.0)
    assert (e.temperature, e.top_p, e.max_new_tokens) == (0.6, 0.95, 32000)
    assert kit_settings.Selection().tolerance == 0.10


def test_extends_lays_keys_over_keys_and_replaces_schedules_whole(tmp_path: Path) -> None:
    file = write(tmp_path, {"training": {"learning_rate": 1e-5}, "schedules": {"only": {"limits": [50]}}})
    loaded = load(file)
    assert loaded.training.learning_rate == 1e-5
    assert loaded.training.prompts_per_step == 12  # from laptop.yaml; the default is 128
    assert list(loaded.schedules) == ["only"]


def test_several_parents_are_laid_over_one_another_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\nthreads: 3\ntraining: {steps: 40, learning_rate: 1e-5}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\ntraining: {steps: 60}\n")
    file = write(tmp_path, {"extends": ["laptop.yaml", "a.yaml", "b.yaml"], "threads": 2})
    loaded = load(file)
    assert (loaded.seed, loaded.threads, loaded.training.steps, loaded.training.learning_rate) == (2, 2, 60, 1e-5)


def test_a_number_in_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    file = write(tmp_path, {})
    file.write_text("extends: laptop.yaml\ntraining: {learning_rate: 1e-6}\n")
    assert load(file).training.learning_rate == 1e-6


REFUSED = [
    ({"trainin": {}}, "unknown key `trainin`; did you mean `training`?"),
    ({"training": {"learning_rat": 1}}, "unknown key `training.learning_rat`; did you mean `learning_rate`?"),
    ({"training": {"learning_rate": "fast"}}, "`training.learning_rate` is 'fast'; should be a number"),
    ({"training": {"learning_rate": 0}}, "`training.learning_rate` is 0.0; should be above 0"),
    ({"training": {"steps": 2.5}}, "`training.steps` is 2.5; should be a whole number"),
    ({"training": {"steps": True}}, "`training.steps` is True; should be a whole number"),
    ({"training": {"responses_per_prompt": 1, "micro_batch": 1}}, "a group needs at least 2 responses"),
    ({"training": {"micro_batch": 0}}, "`training.micro_batch` is 0; should be above 0"),
    ({"training": {"processes": 5}},
     "`training.processes` is 5; 12 prompts x 8 responses = 96 do not split into 5 equal shares, but into 3, 4, 6"),
    ({"training": {"processes": 4, "machines": 3}}, "`training.machines` is 3; should divide processes = 4"),
    ({"training": {"processes": 4, "vllm": "colocate", "vllm_tensor_parallel": 8}},
     "`training.vllm_tensor_parallel` is 8; should divide processes = 4"),
    ({"training": {"vllm": True}}, "`training.vllm` is True; should be one of off, colocate, server"),
    ({"training": {"vllm_memory_share": 1.5}}, "`training.vllm_memory_share` is 1.5; a share below 1"),
    ({"training": {"lora_rank": 0}}, "`training.lora_rank` is 0; should be above 0"),
    ({"training": {"reading": "lenient"}}, "`training.reading` is 'lenient'; should be one of official, strict"),
    ({"schedules": {"a": {"limits": [50], "steps": 5, "checkpoint_every": 99}}}, "no checkpoint would be saved"),
    ({"schedules": {}}, "`schedules` is empty"),
    ({"schedules": {"a": {"limits": [50, 60]}}}, "`schedules.a.limits` is [50, 60]; limits should fall from round to round"),
    ({"schedules": {"a": {"limits": [105]}}}, "the laptop model has no word for the limit [105]; up to 100, or tens up to 600"),
    ({"schedules": {"a": {"limits": []}}}, "`schedules.a.limits` should list token limits above 0"),
    ({"schedules": {"a/b": {"limits": [9]}}}, "`schedules.a/b` is not a folder name"),
    ({"schedules": {"base": {"limits": [9]}}}, "`schedules.base`: this name is kept for the base model"),
    ({"schedules": {"a": {"limit": [9]}}}, "unknown key `schedules.a.limit`; did you mean `limits`?"),
    ({"schedules": [1]}, "`schedules` is [1]; should be a table of keys"),
    ({"run": "../elsewhere"}, "`run` is '../elsewhere'; a folder name"),
    ({"run": ".."}, "`run` is '..'; a folder name"),
    ({"evaluation": {"top_p": 0}}, "`evaluation.top_p` is 0.0; should be above 0"),
    ({"evaluation": {"temperature": -1}}, "`evaluation.temperature` is -1.0; should not be negative"),
    ({"evaluation": {"temperature": float("nan")}}, "`evaluation.temperature` is nan; should be a number"),
    ({"evaluation": {"samples_by_set": {"nine": 4}}}, "`evaluation.samples_by_set.nine` is not in data.evaluation"),
    ({"selection": {"tolerance": 1.5}}, "`selection.tolerance` is 1.5; a share below 1"),
    ({"data": {"evaluation": ["train"]}}, "names a set twice"),
    ({"data": {"evaluation": "two"}}, "`data.evaluation` is 'two'; should be a list"),
    ({"data": {"evaluation": ["seven"]}}, "`arithmetic.operations.seven` should list numbers of operations"),
    ({"prompts": {"limit_sentence": "Be brief."}}, "`prompts.limit_sentence` should contain {limit}"),
    ({"prompts": {"train_user": "Hello"}}, "`prompts.train_user` should contain {question}"),
    ({"prompts": {"forcing_user": "output-within"}}, "`prompts.forcing_user` should contain {question}"),
    ({"prompts": {"forcing_ending": "So"}}, "`prompts.forcing_ending` should contain </think>"),
    ({"prompts": {"wordings": {"a": "{question}"}, "train_user": "b"}}, "{question} or name one of prompts.wordings (a)"),
    ({"model": {"trust_remote_code": "yes"}}, "`model.trust_remote_code` is 'yes'; should be true or false"),
    ({"model": {"dtype": "float16"}}, "should be one of float32, bfloat16"),
    ({"arithmetic": {"largest": 1000}}, "`arithmetic.largest` is 1000; should be between 9 and 99"),
    ({"arithmetic": {"habits": {"restate": 2}}}, "`arithmetic.habits.restate` is 2.0; should be between 0 and 1"),
    ({"arithmetic": {"heads": 5}}, "`arithmetic.hidden_size` should be a multiple of twice `heads`"),
    ({"hardware": {"memory_gib": 0}}, "`hardware.memory_gib` is 0.0; should be above 0"),
    ({"hardware": {"compute_share": 2}}, "`hardware.compute_share` is 2.0; a share of at most 1"),
    ({"hardware": {"lengths": {"two": -1}}}, "`hardware.lengths.two` is -1.0; should be above 0"),
    ({"hardware": {"reserve_gib": -1}}, "`hardware.reserve_gib` is -1.0; should not be negative"),
    ({"model": {"shape": {"hidden_size": 8}}}, "`model.shape.vocab_size` is missing"),
    ({"seed": -1}, "`seed` is -1; should be between 0 and 2147483647"),
    ({"parallel": 0}, "`parallel` is 0; should be above 0"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[m[:50] for _, m in REFUSED])
def test_a_bad_setting_is_refused_by_file_key_and_remedy(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(KitError) as caught:
        load(write(tmp_path, changes))
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(KitError) as caught:
        load(write(tmp_path, {"training": {"steps": "x", "lr": 1}, "seeed": 3}))
    assert all(f"`{key}`" in str(caught.value) for key in ("training.steps", "training.lr", "seeed"))


@pytest.mark.parametrize(("text", "message"), [
    ("run: [", "line 1"), ("- a\n- b\n", "a table of `key: value` lines"), ("run: a\nrun: b\n", "key `run` twice"),
    ("run: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
    ("extends: nowhere.yaml\n", "no file nowhere.yaml"),
    ("extends: [broken.yaml]\n", "leads back to this file"), ("extends: {a: b}\n", "no file {'a': 'b'}"),
], ids=["syntax", "list", "twice", "python object", "no parent", "circle", "table of parents"])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(KitError) as caught:
        load(file)
    assert message in str(caught.value) and "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_those_that_exist() -> None:
    with pytest.raises(KitError, match="params/laptop.yaml"):
        load("params/desktop.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)
keys = st.sampled_from(["run", "seed", "training", "data", "schedules", "evaluation", "prompts", "model", "arithmetic", "x"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(keys, values, max_size=3))
def test_anything_at_all_is_either_loaded_or_refused_in_one_line(tmp_path: Path, changes: dict) -> None:
    try:
        file = write(tmp_path, changes)
    except (ValueError, UnicodeEncodeError):
        return  # YAML itself cannot hold it
    try:
        load(file)
    except KitError as error:
        assert "mine.yaml" in str(error) and "\n" not in str(error)
