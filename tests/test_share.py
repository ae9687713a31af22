"""What leaves the kit: a card beside the selected checkpoint, its upload on the user's word only, and what trackers are told."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fake_run
import hub
import pytest
from conftest import tiny
from huggingface_hub import ModelCard

from kit.chain import commands
from kit.evaluation import comparisons
from kit.laptop import arithmetic
from kit.report import card, inputs
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, KitError
from kit.training import trl_fields

# --- the card ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, results: Path) -> Config:
    """A run whose first iterative round selected checkpoint 2, a small model; the second kept its start."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fake_run.behavior, "write_tables", lambda _: None)  # a card has nothing of them
        config = fake_run.make(fake_run.settings(tmp_path_factory.mktemp("params"), "shared"))
    comparisons.compare_models(config)
    run = paths.of(config)
    facts = {name: {"problems": 20, "origin": "generated", "revision": None} for name in ("train", "validation", "two", "three")}
    files.write_json(run.manifest, {**files.read_json(run.manifest), "data": facts})
    for k, step in ((1, 2), (2, 0)):
        files.write_json(run.training("iterative", k) / "selected.json", {"step": step, "rule": "rule", "tolerance": 0.3})
    folder = run.models("iterative", 1) / "checkpoint-2"
    small, tokenizer = tiny().arithmetic, arithmetic.make_tokenizer()
    arithmetic.make_model(small, tokenizer, 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("trainer_state.json", "optimizer.pt"):
        (folder / name).write_text("{}")
    return config


def test_the_card_says_what_the_checkpoint_is_and_what_it_reached(finished: Config) -> None:
    (path,) = card.write_all(finished)
    assert path.parent == Path(catalog.selected(finished, "iterative", 1))
    text = path.read_text()
    read = ModelCard(text)  # as the hub reads it
    assert read.data.to_dict() == {"library_name": "transformers", "pipeline_tag": "text-generation",
                                   "tags": ["thinkprune", "grpo", "trl", "efficient-reasoning"]}
    main = {(r.model, r.set): r for r in inputs.rows_of(finished, "main", overall=False)}
    for name in ("two", "three", "mean"):
        after = main["iterative/round1", name]
        begins = f"| {inputs.set_label(finished, name)} | {after.problems} |"
        (row,) = [line for line in text.splitlines() if line.startswith(begins)]
        numbers = [float(n) for n in re.findall(r"[\d.]+", row.rpartition("|")[0].rpartition("|")[2])]
        expected = [after.accuracy, after.accuracy_low, after.accuracy_high, after.length, after.length_low, after.length_high]
        assert numbers == pytest.approx(expected, abs=0.5)
    for part in ("(limits: 60 tokens), step 2 of 6:\nthe shortest", "keeps 70 % of the accuracy", "Commit 0000000, params",
                 "learning_rate: 0.0003", "- validation: 20 problems, generated", "## Limits", "## Licence",
                 "arXiv preprint 2504.01296"):
        assert part in text
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


@pytest.mark.parametrize(("model", "told"), [
    ("base", "no round of"), ("iterative/round2", "kept its start"), ("one-shot/round1", "02_prune")])
def test_there_is_no_card_where_nothing_was_selected(finished: Config, model: str, told: str) -> None:
    with pytest.raises(KitError, match=told):
        card.write(finished, model)


# --- the upload -------------------------------------------------------------------------------------------------------


PUSH = """
import os, sys
from pathlib import Path
from kit.chain import commands
for token in sys.argv[3:]:
    os.environ["HF_TOKEN"] = token
    code = commands.main(["push", sys.argv[1], "iterative/round1", "me/pruned", "--yes"])
    print(f"exit code {code}, there: {sorted(path.name for path in Path(sys.argv[2]).glob('me*'))};;", flush=True)
"""


def push(config: Config, root: Path, *tokens: str) -> tuple[list[str], list[str]]:
    """(what the command with --yes printed with each token, its exit code and what the hub then had; what the hub was asked), in
    a process that has this hub from its start."""
    with hub.serve(root) as (address, asked):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
                       "HF_HOME": str(root / "home")}
        done = subprocess.run([sys.executable, "-u", "-c", PUSH, config.file, str(root), *tokens], cwd=ROOT, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.split(";;\n")[:-1], asked


def test_nothing_is_uploaded_without_the_users_word_and_a_token(
    finished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", None)  # whoever asked it would fail
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    command = ["push", finished.file, "iterative/round1", "me/pruned"]
    assert commands.main(command) == 0
    said = capsys.readouterr().out
    assert "model.safetensors: " in said and "README.md: " in said and "Nothing was uploaded. --yes" in said
    assert commands.main([*command, "--yes"]) == 1
    assert "error: no token of the hub" in capsys.readouterr().err


def test_a_checkpoint_is_uploaded_with_its_card_to_a_private_repository(finished: Config, tmp_path: Path) -> None:
    (refused, said), asked = push(finished, tmp_path, "hf_wrong", hub.TOKEN)
    assert "error: me/pruned: the hub refused it (Client error '401" in refused and refused.endswith("exit code 1, there: []")
    assert f"/me/pruned: uploaded, commit {hub.COMMIT[:7]}" in said and "visibility: private" in asked, said
    assert said.endswith("exit code 0, there: ['me']")
    there, own = tmp_path / "me" / "pruned", Path(catalog.selected(finished, "iterative", 1))
    names = {path.name for path in there.iterdir()}
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not names & {"trainer_state.json", "optimizer.pt"}
    assert all((there / name).read_bytes() == (own / name).read_bytes() for name in names)


# --- trackers ---------------------------------------------------------------------------------------------------------


def with_trackers(*names: str, run: str) -> Config:
    config = tiny(run)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, trl={**config.training.trl,
                                                                                       "report_to": list(names)}))


ROUND = """
import dataclasses, importlib.util, json, sys
from accelerate import PartialState
from conftest import tiny
from kit.runs import paths
from kit.training import launch, selection
config, names = tiny("tracked"), sys.argv[1:]
trl = {**config.training.trl, "report_to": names}
config = dataclasses.replace(config, training=dataclasses.replace(config.training, trl=trl))
launch.train_round(config, "iterative", 1)
PartialState._reset_state()  # as in a process that did not train
selection.validate_round(config, "iterative", 1)
found = {}
if "trackio" in names:
    from trackio.sqlite_storage import SQLiteStorage
    rows = SQLiteStorage.get_logs("tracked", "iterative-round1")
    found["trackio"] = {name: [row[name] for row in rows if name in row] for name in {n for row in rows for n in row}}
if "tensorboard" in names:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(paths.of(config).trackers / "iterative-round1")).Reload()
    found["tensorboard"] = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
print(json.dumps(found, default=str))
"""


def test_trackers_get_every_step_of_a_round_and_what_was_selected(tiny_world: Config, tmp_path: Path) -> None:
    """Two steps under a limit of 24 tokens, with real trackers on this machine, read back as their users read them."""
    names = [name for name in ("trackio", "tensorboard") if importlib.util.find_spec(name)]
    if not names:
        pytest.skip("neither trackio nor tensorboard (extra trackers) is installed")
    run = paths.of(tiny_world)
    for part in ("data", "models/base", "training/base"):
        shutil.copytree(run.root / part, run.root.parent / "tracked" / part)
    done = subprocess.run([sys.executable, "-c", ROUND, *names], cwd=ROOT / "tests", capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
    place = run.root.parent / "tracked" / "training" / "iterative" / "round1"
    log, table = files.read_csv(place / "log.csv"), files.read_csv(place / "validation.csv")
    chosen = table[table.selected].iloc[0]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert list(found) == names
    for figures in found.values():
        assert figures["train/limit"] == [24, 24] and figures["limit"] == [24]
        assert figures["train/completions/clipped_ratio"] == pytest.approx(list(log.truncated), abs=1e-5)
        assert figures["selected/step"] == [chosen.step]
        assert figures["selected/length"] == pytest.approx([chosen.length], rel=1e-4)


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="report_to names wandb, which is not installed; pip install wandb"):
        trl_fields.begin_trackers(with_trackers("wandb", run="x"), "iterative", 1)


def test_a_tracker_redoes_no_training_and_nothing_is_sent_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "report_to" in trl_fields.PLACES and trl_fields.trackers(tiny()) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for name in ("TENSORBOARD_LOGGING_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    named = trl_fields.begin_trackers(with_trackers("wandb", run="x"), "iterative", 1)
    assert named == {"project": "x", "run_name": "iterative-round1"}
    assert os.environ["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")  # the user's word
    trl_fields.begin_trackers(with_trackers("wandb", run="x"), "iterative", 1)
    assert os.environ["WANDB_MODE"] == "online"
