"""What the time went into: from the executed notebooks and the logs of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import tiny

from kit.runs import manifest, paths


def cell(source: str, seconds: float) -> dict[str, Any]:
    return {"cell_type": "code", "source": [source], "metadata": {"papermill": {"duration": seconds}}}


def test_seconds_of_a_round_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook of 30 s: imports 2, training 20 (two steps of 4 and 5 s), validation 5, a cell of 0.5; 2.5 for its kernel."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    config = dataclasses.replace(tiny(), run="timed")
    run = paths.of(config)
    run.notebooks.mkdir(parents=True)
    cells = [cell("import torch", 2.0), cell("launch.train_round(config, schedule, round)", 20.0), {"cell_type": "markdown"},
             cell("table = selection.validate_round(config, schedule, round)", 5.0), cell("catalog.labels(config)", 0.5)]
    notebook = {"metadata": {"papermill": {"duration": 30.0}}, "cells": cells}
    (run.notebooks / "02_prune_round-iterative-1.ipynb").write_text(json.dumps(notebook))
    run.training("iterative", 1).mkdir(parents=True)
    steps = pd.DataFrame({"seconds": [4.0, 5.0], "generate": [2.0, 2.5], "grade": [0.25, 0.25], "reference": [0.5, 0.5]})
    steps.to_csv(run.training("iterative", 1) / "log.csv", index=False)
    found = manifest.account(config).set_index("part").seconds.to_dict()
    assert found == {"start": 4.5, "selection.validate_round": 5.0, "other": 0.5, "train: checkpoints and the rest": 11.0,
                     "train: generate": 4.5, "train: grade": 0.5, "train: reference": 1.0, "train: update": 3.0}
