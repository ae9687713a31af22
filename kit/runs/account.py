"""What a run's time went into, from what it leaves behind: executed notebooks tell the seconds of each cell (papermill's), and a
round's log.csv those of a step's parts."""

import re

import pandas as pd

from kit.runs import files, paths
from kit.settings import Config

PARTS = ("generate", "grade", "reference")  # of a training step: responses, their grades, the reference model; the rest: update
CALL = re.compile(r"\b(?!catalog|inputs|comparisons\.gather)([a-z_]+\.[a-z_]+)\(")  # those do not take long
SHORT = 1.0  # seconds; what is shorter is told together


def table(config: Config) -> pd.DataFrame:
    """A row per stage and part, in seconds: `start` (the kernel, and what is imported), each cell of a second or more by its
    first call, `other` cells, and of a cell that trains the parts of its steps and what is beside them (checkpoints)."""
    run, rows = paths.of(config), []
    for path in sorted(run.notebooks.glob("0[1-9]*.ipynb")):
        notebook = files.read_json(path)
        if not (whole := notebook["metadata"]["papermill"]["duration"]):  # it still runs
            continue
        cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        seconds = [c["metadata"].get("papermill", {}).get("duration") or 0.0 for c in cells]
        parts = {"start": max(0.0, whole - sum(seconds)) + sum(seconds[:1])}
        for cell, spent in list(zip(cells, seconds, strict=True))[1:]:
            call = CALL.search("".join(cell["source"]))
            name = call[1] if call and spent >= SHORT else "other"
            parts[name] = parts.get(name, 0.0) + spent
        given = re.fullmatch(r"02_prune_round-(.+)-(\d+)", path.stem)
        if given and (log := run.training(given[1], int(given[2])) / "log.csv").is_file() and "launch.train_round" in parts:
            steps = files.read_csv(log).reindex(columns=["seconds", *PARTS]).sum()
            split = {f"train: {part}": steps[part] for part in PARTS}
            split["train: update"] = steps["seconds"] - sum(split.values())
            parts["train: checkpoints and the rest"] = parts.pop("launch.train_round") - steps["seconds"]
            parts |= split
        rows += [{"stage": path.stem, "part": part, "seconds": round(spent, 1)} for part, spent in parts.items()]
    return pd.DataFrame(rows, columns=["stage", "part", "seconds"])
