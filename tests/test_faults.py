"""What goes wrong around a run: a cut-off checkpoint, a full or forbidden disk, an engine that breaks off, a second run.

Each is told in one line, nothing that was finished is lost, and the same call goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.provisioning import local_provisioner

from kit import settings
from kit.chain import commands, kernels, runner
from kit.chain.stages import Stage, inputs_of
from kit.evaluation import evaluate
from kit.rollout import models, records
from kit.rollout.records import Response, Sampling
from kit.runs import catalog, files, fingerprint, paths
from kit.settings import ROOT, Config, KitError, Schedule, load
from kit.training import checkpoints, rounds


def weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


def scheduled(config: Config, name: str, steps: int = 2) -> Config:
    return dataclasses.replace(config, schedules={name: Schedule(limits=(24,), steps=steps)})


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_world: Config) -> tuple[Config, Path]:
    """A round of two steps with a checkpoint after each."""
    config = scheduled(tiny_world, "whole")
    return config, rounds.train_round(config, "whole", 1)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "config.json", "trainer_state.json"])
def test_a_checkpoint_that_is_cut_off_is_passed_over_by_name(trained: tuple[Config, Path], tmp_path: Path, name: str) -> None:
    for step in (1, 2):
        shutil.copytree(trained[1] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    whole = sorted(tmp_path.glob("checkpoint-*"))
    assert [checkpoints.spoilt(c) for c in whole] == [None, None]
    file, said = whole[1] / name, []
    os.truncate(file, file.stat().st_size // 2)
    assert checkpoints.resumable(tmp_path, said.append) == whole[0]
    assert len(said) == 1 and said[0].startswith("checkpoint-2: ") and name in said[0]


def test_a_round_goes_on_from_the_checkpoint_before_the_spoilt_one_to_the_same_weights(trained: tuple[Config, Path]) -> None:
    config, whole = trained
    again = scheduled(config, "spoilt")
    folder = rounds.train_round(again, "spoilt", 1)
    os.truncate(folder / "checkpoint-2" / "model.safetensors", 1000)
    assert rounds.train_round(again, "spoilt", 1) == folder
    one, two = weights(whole / "checkpoint-2"), weights(folder / "checkpoint-2")
    assert all((one[key] == two[key]).all() for key in one)


def test_a_checkpoint_that_the_disk_cuts_off_is_one_line_and_is_made_again(
    trained: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer's file of the second one ends at half its size, as the system lets no file become longer."""
    from transformers import Trainer

    config, whole = trained
    cramped = scheduled(config, "cramped")
    folder, save = paths.of(cramped).models("cramped", 1), Trainer._save_optimizer_and_scheduler
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def cut_off(*given: Any) -> None:
        if (folder / "checkpoint-1" / "trainer_state.json").is_file():
            half = (whole / "checkpoint-1" / "optimizer.pt").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (half, before[1]))
        try:
            save(*given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_optimizer_and_scheduler", cut_off)
        with pytest.raises(KitError, match="^cramped round 1, step 3: .*; make room on this disk; run this again to go on"):
            rounds.train_round(cramped, "cramped", 1)
    assert [c.name for c in catalog.checkpoints(folder)] == ["checkpoint-1"] and checkpoints.last_step(folder) == 1
    rounds.train_round(cramped, "cramped", 1)
    one, two = weights(whole / "checkpoint-2"), weights(folder / "checkpoint-2")
    assert all((one[key] == two[key]).all() for key in one)


def test_old_checkpoints_are_thinned_but_never_the_selected_one(trained: tuple[Config, Path], tmp_path: Path) -> None:
    found = [Path(shutil.copytree(trained[1] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")) for step in (1, 2)]
    checkpoints.thin(found, found[0], "selected")
    assert [(c / "model.safetensors").exists() for c in found] == [True, False]
    assert not [*tmp_path.rglob("*.pt"), *tmp_path.rglob("*.pth")]
    assert all((c / "trainer_state.json").exists() for c in found)  # what was validated can still be seen


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "said"), [
    (errno.ENOSPC, "no space left on device"), (errno.EROFS, "read-only file system"), (errno.EACCES, "permission denied"),
])
def test_a_table_appears_whole_or_not_at_all_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    files.write_json(tmp_path / "facts.json", {"before": 1})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(KitError, match=said):
            files.write_json(tmp_path / "facts.json", {"after": 2})
    assert files.read_json(tmp_path / "facts.json") == {"before": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def command(folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kit", "run", "params/smoke.yaml"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "KIT_RESULTS": folder}, check=False)


@pytest.mark.parametrize("place", ["/proc/nowhere", "/sys/nowhere", "a file"])
def test_results_where_nothing_can_be_written_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / place))  # an absolute place stays as it is
    assert commands.main(["run", "params/smoke.yaml"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"error: {tmp_path / place}")


# --- an engine that breaks off ----------------------------------------------------------------------------------------


class Breaks:
    """An engine of one problem at a time that ends in an error at its third."""

    batch_size, breaks = 2, True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.asked = tokenizer, 0

    def generate(self, prompts: Sequence[list[int]], how: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, list[Response]]]:
        for k in range(len(prompts)):
            self.asked += 1
            if self.breaks and self.asked == 3:
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nand a page of advice")
            yield k, [Response(f"{seeds[k]}", 3, True)] * how.samples

    def close(self) -> None:
        pass


def test_an_engine_that_breaks_off_is_one_line_and_what_it_had_answered_is_kept(tiny_world: Config, tmp_path: Path) -> None:
    engine = Breaks(models.load_tokenizer(catalog.base_model(tiny_world), tiny_world))
    arguments = (tiny_world, lambda: engine, "two", Sampling(2, 1.0, 1.0, 8), tmp_path / "two.jsonl", "base: two")
    with pytest.raises(KitError, match="base: two: the engine broke off .CUDA error: .* kept, run this again") as caught:
        evaluate.respond(*arguments)
    assert "advice" not in str(caught.value) and len(list(records.read(tmp_path / "two.jsonl"))) == 2
    engine.breaks = False
    assert len(evaluate.respond(*arguments)) == 8 and engine.asked == 3 + 6  # the two answered ones are not asked again


# --- two runs in one folder -------------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused_with_the_firsts_process_and_machine(tmp_path: Path) -> None:
    with files.hold(tmp_path / "smoke", "smoke"):
        done = command(str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr and "is at work here" in done.stderr
    assert list((tmp_path / "smoke").iterdir()) == []


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = ("import sys, time; from pathlib import Path; from kit.runs import files\n"
            "with files.hold(Path(sys.argv[1]), 'run'): print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(KitError, match=f"process {holder.pid} on .* is at work here"), files.hold(tmp_path, "run"):
            pass
        holder.send_signal(signal.SIGKILL)
    with files.hold(tmp_path, "run"):
        assert f"process {os.getpid()} " in (tmp_path / files.LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_what_the_holder_starts_may_enter_and_others_may_not(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from kit.runs import files\n"
            "with files.hold(Path(sys.argv[1]), 'run'): print('inside')")
    start = [sys.executable, "-c", code, str(tmp_path)]
    with files.hold(tmp_path, "run"):
        held = {**os.environ, files.HELD: str(tmp_path)}
        assert subprocess.run(start, cwd=ROOT, env=held, capture_output=True, text=True, check=True).stdout == "inside\n"
        assert (tmp_path / files.LOCK).is_file()  # it was not the child's to give back
        assert "is at work here" in subprocess.run(start, cwd=ROOT, capture_output=True, text=True, check=False).stderr


def test_a_file_system_without_locks_is_worked_on_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with files.hold(tmp_path, "run"):
        assert (tmp_path / files.LOCK).is_file()
    assert list(tmp_path.iterdir()) == []


# --- an interrupt -----------------------------------------------------------------------------------------------------


def test_an_interrupt_stops_the_kernels_of_all_running_stages_at_once_and_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With real kernels, as Jupyter's stop button in notebook 00 does it: two stages run, a third waits behind one of them. The
    process that is forked has imported no more than they need."""
    work = f"import time; from pathlib import Path\n(Path({str(tmp_path)!r}) / schedule).touch()\ntime.sleep(600)"
    nbformat.write(nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("params_file = schedule = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(work)], metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    ), tmp_path / "03_evaluate.ipynb")
    config = dataclasses.replace(load(ROOT / "params" / "smoke.yaml"), parallel=2)
    one, two, behind = (Stage(name, "03_evaluate", {"schedule": name}) for name in ("base", "iterative", "one-shot"))
    markers = tmp_path / "results" / "smoke" / "stages"
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("kit.chain.runner.NOTEBOOKS", tmp_path)
    monkeypatch.setattr("kit.chain.stages.NOTEBOOKS", tmp_path)
    monkeypatch.setattr("kit.chain.runner.stages", lambda config: [one, two, behind])

    few = "from kit.chain import kernels; kernels.MODULES, kernels.LATER = kernels.MODULES[:1], (); kernels.main()"
    line, its = Pipe()
    with its:
        parent = subprocess.Popen([sys.executable, "-P", "-c", few], stdin=its.fileno())
    monkeypatch.setattr(kernels, "parent", lambda: line)
    monkeypatch.setattr(local_provisioner, "launch_kernel", local_provisioner.launch_kernel)  # put back afterwards

    def stop() -> None:
        while not all((tmp_path / name).is_file() for name in ("base", "iterative")):
            time.sleep(0.1)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    pressed: list[float] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(KitError, match="^interrupted; the same call goes on where it stopped$"):
            runner.run_all(config)
    finally:
        signal.signal(signal.SIGINT, before)
        line.close()
        parent.wait()  # it ends with what it reads
    assert time.monotonic() - pressed[0] < 20
    assert sorted(path.name for path in markers.iterdir()) == ["base.json", "iterative.json"]  # the third was not begun
    said = [line for line in capsys.readouterr().out.splitlines() if not line.endswith(": runs")]  # where kernels start slowly
    assert len(said) == 3  # where the results go, and that the two start
    for stage in (one, two):
        said = runner.resumption(files.read_json(markers / f"{stage.name}.json"), inputs_of(config, stage, {}), {})[1]
        assert said == "continues where it stopped"


def test_ctrl_c_ends_the_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What papermill awaited is cut off: when such a task is forgotten, asyncio logs its error with a traceback."""
    tasks: list[asyncio.Task] = []

    async def cell() -> None:
        raise ValueError("the kernel died")

    async def cut_off() -> None:
        tasks.append(asyncio.get_running_loop().create_task(cell()))
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", False)  # put back afterwards
    monkeypatch.setattr(runner, "run_notebook", lambda config: asyncio.run(cut_off()))
    assert commands.main(["run", "params/smoke.yaml"]) == 130
    tasks.clear()
    assert capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n" and not caplog.records


def test_the_stop_button_shows_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    settings.notebook(str(ROOT / "params" / "smoke.yaml"))
    assert isinstance(shell.run_cell("raise KeyboardInterrupt").error_in_exec, KeyboardInterrupt)
    assert capsys.readouterr().out == "interrupted; what was finished is kept, run this cell again and it goes on from there\n"
    shell.run_cell("1 / 0")
    assert "ZeroDivisionError" in capsys.readouterr().out  # other errors are told as ever


# --- what a stage was made from ---------------------------------------------------------------------------------------


def test_comments_and_layout_are_no_change_of_code_and_a_number_is(tmp_path: Path) -> None:
    def digest(source: str) -> str:
        path = tmp_path / f"m{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source)
        return fingerprint._module(path)[0]

    one = digest('"""What it is."""\nfrom kit.runs import paths\n\n\ndef f(x):\n    """Twice."""\n    return 2 * x\n')
    assert digest('"""New."""\nfrom kit.runs import paths\ndef f(x):\n    """Two times."""\n    return (2 * x)  # so\n') == one
    assert digest('"""What it is."""\nfrom kit.runs import paths\n\n\ndef f(x):\n    """Twice."""\n    return 3 * x\n') != one


def notebook(path: Path, parameters: str, work: str) -> Path:
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [parameters]},
             {"cell_type": "code", "metadata": {}, "source": [work]}]
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_editing_the_cell_of_parameters_is_no_change_of_code_and_editing_another_is(tmp_path: Path) -> None:
    """The notebooks call that cell the only one to edit; finished training must not be thrown away for it."""
    one = fingerprint.code(notebook(tmp_path / "n.ipynb", "round = 1", "print(1)"))
    assert fingerprint.code(notebook(tmp_path / "n.ipynb", "round = 2  # mine", "print(1)")) == one
    assert fingerprint.code(notebook(tmp_path / "n.ipynb", "round = 1", "print(2)")) != one


def test_figures_hang_on_labels_and_the_report_and_training_hangs_on_neither(tmp_path: Path) -> None:
    work = "from kit.report import tables\nfrom kit.runs import catalog, files\nfrom kit.training import rounds, watch"
    file = notebook(tmp_path / "n.ipynb", "", work)
    trained, drawn = fingerprint.code(file), fingerprint.code(file, draws=True)
    assert set(trained) >= {f"code: kit/{name}.py" for name in ("training/rounds", "reward/token_limit", "settings/sets")}
    assert set(drawn) - set(trained) >= {"code: kit/report/tables.py", "code: kit/runs/catalog.py"}
    for name in ("runs/files", "training/watch", "settings/schema"):
        assert f"code: kit/{name}.py" not in drawn


def test_what_changed_is_told_by_name() -> None:
    before = {"training.learning_rate": 1e-4, "code: kit/reward/token_limit.py": "a", "file: data/two.jsonl": "x"}
    now = {"training.learning_rate": 2e-4, "code: kit/reward/token_limit.py": "b", "file: data/two.jsonl": "x", "seed": 1}
    names = fingerprint.differing(before, now)
    assert names == ["code: kit/reward/token_limit.py", "seed", "training.learning_rate"]
    assert fingerprint.told(before, now) == (
        "kit/reward/token_limit.py changed, seed is 1, was null, training.learning_rate is 0.0002, was 0.0001")
    made = {f"file: models/checkpoint-3/{name}": "x" for name in ("config.json", "model.safetensors")}
    makers = dict.fromkeys(made, "02_prune_round-iterative-1")
    assert fingerprint.told(made, {"seed": 1}, makers) == (
        "what 02_prune_round-iterative-1 made changed, seed is 1, was null")
