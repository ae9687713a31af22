"""Shared by the tests: a small arithmetic world in a temporary results folder, and the folder of real data."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from kit.behavior.phases import Cues, read_cues
from kit.chain.stages import Stage, inputs_of
from kit.settings import ROOT, Config, Schedule, load
from kit.training import selection

DATA = Path(os.environ.get("KIT_DATA", ROOT.parent / "shared" / "data"))


def real(name: str) -> Path:
    """A file or folder of the real data, which are not part of the project; skips where they are absent."""
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent (set KIT_DATA to the folder of the real data)")
    return DATA / name


@pytest.fixture(scope="session")
def cues() -> Cues:
    """The kit's own phase cues."""
    return read_cues(ROOT / "params" / "shared" / "phases.yaml")


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub; those that need one have their own (tests/hub)


# Files that begin first, so that little is left over at the end. Behind test_kill a small one: it has two tests, at which xdist
# already gives its process the next file.
LONG = ("chain", "dry_run", "kill", "lesson", "own_model", "launch", "report", "grading_safety", "training_scale", "training",
        "logs", "share", "library", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": k for k, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


LARGE = {"pandas", "matplotlib.pyplot", "torch", "transformers.generation.utils", "trl.trainer.grpo_trainer"}
IMPORTED: set[str] = set()


def pytest_runtest_setup() -> None:
    """Keep what is imported out of the garbage collector's rounds: every training begins with one, over half a million things."""
    large = LARGE & set(sys.modules)
    if large > IMPORTED:
        IMPORTED.update(large)
        gc.freeze()


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty results folder in place of the project's own."""
    folder = tmp_path_factory.mktemp("results")
    before = os.environ.get("KIT_RESULTS")
    os.environ["KIT_RESULTS"] = str(folder)
    yield folder
    if before is None:
        del os.environ["KIT_RESULTS"]
    else:
        os.environ["KIT_RESULTS"] = before


def tiny(run: str = "tiny", **training: object) -> Config:
    """The smoke settings, smaller still: a model of a few thousand parameters that is hardly trained."""
    smoke = load(ROOT / "params" / "smoke.yaml")
    arithmetic = dataclasses.replace(
        smoke.arithmetic, train_problems=64, validation_problems=8, evaluation_problems=8,
        hidden_size=32, layers=1, heads=2, key_value_heads=1, intermediate_size=32, drill_steps=2, sft_steps=3, sft_batch=8,
    )
    settings = {"prompts_per_step": 4, "responses_per_prompt": 4, "micro_batch": 8, "steps": 2, "checkpoint_every": 1, **training}
    return dataclasses.replace(
        smoke, run=run, arithmetic=arithmetic, training=dataclasses.replace(smoke.training, **settings),
        evaluation=dataclasses.replace(smoke.evaluation, max_new_tokens=24, batch_size=16, resamples=200),
        schedules={"iterative": Schedule(limits=(24, 16), steps=2)},
    )


@pytest.fixture(scope="session")
def tiny_world(results: Path) -> Config:
    """A run whose data sets and (hardly trained) base model exist."""
    from kit.laptop import arithmetic

    config = tiny()
    arithmetic.make_data(config)
    arithmetic.train_base(config)
    selection.validate_base(config)
    return config


def stage_keys(config: Config, found: Iterable[Stage]) -> dict[str, str]:
    """For each stage a hash of its inputs, as if a stage with other inputs made other files."""
    made: dict[str, dict[str, list]] = {}
    keys: dict[str, str] = {}
    for stage in found:
        inputs = inputs_of(config, stage, made)
        keys[stage.name] = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        made[stage.name] = {f"{stage.name}.csv": [0, 0, keys[stage.name]]}
    return keys


# --- the whole chain, very small --------------------------------------------------------------------------------------

SMALL = """
run: small
arithmetic: {train_problems: 64, validation_problems: 8, evaluation_problems: 8, hidden_size: 32, layers: 1, heads: 2,
  key_value_heads: 1, intermediate_size: 32, drill_steps: 2, sft_steps: 4, sft_batch: 8}
training: {prompts_per_step: 4, responses_per_prompt: 4, micro_batch: 8, steps: 2, checkpoint_every: 1}
selection: {samples: 2}
data: {evaluation: [two]}
evaluation: {samples: 2, max_new_tokens: 24, batch_size: 16, resamples: 200}
watch: {patience: 0}
forcing: {budgets: []}
behavior: {reference: ""}
keywords: {hesitation: [wait], core: [compute]}
schedules: {iterative: {limits: [24]}}
"""


@dataclasses.dataclass
class Chain:
    """The small chain, run by the command that `make reproduce` runs, in a session of its own; `lines` are (seconds, printed)."""

    params: Path
    results: Path
    process: subprocess.Popen[str] | None = None
    lines: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.results / "small"

    def start(self, *, runner: bool = True) -> None:
        """`runner=False`: without notebook 00 around the stages, which takes seconds of a core and adds nothing to them."""
        stages_only = ["-c", "import sys; from kit.chain import runner; from kit.settings import load; "
                             "runner.run_all(load(sys.argv[1]))"]
        scratch = self.results / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        self.lines, began = [], time.monotonic()
        command = ["-m", "kit", "run"] if runner else stages_only
        self.process = subprocess.Popen(
            [sys.executable, *command, str(self.params)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "KIT_RESULTS": str(self.results), "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        )

        def read(pipe: Iterable[str]) -> None:
            for line in pipe:
                self.lines.append((time.monotonic() - began, line.rstrip()))

        self.reader = threading.Thread(target=read, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def end(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait()
        self.reader.join(timeout=10)
        return code

    @property
    def printed(self) -> str:
        return "\n".join(line for _, line in self.lines)


def small_chain(folder: Path, settings: str = SMALL) -> Chain:
    """A chain that has not been started, with a params file (smoke.yaml and `settings`) and a results folder of its own."""
    params = folder / "small.yaml"
    params.write_text(f"extends: {ROOT / 'params' / 'smoke.yaml'}{settings}")
    return Chain(params, folder / "results")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The small chain, run once from start to end."""
    chain = small_chain(tmp_path_factory.mktemp("undisturbed"))
    chain.start(runner=False)
    assert chain.end() == 0, chain.printed[-3000:]
    return chain
