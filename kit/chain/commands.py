"""The one command line: `python -m kit COMMAND …`. A user's mistake is told in a line of `error: …`, with exit code 1."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kit.chain import dry_run, new, plan, runner, verify
from kit.data import problems
from kit.evaluation import evaluate, metrics, reference
from kit.laptop import smollm2
from kit.rollout import logs
from kit.runs import files, paths
from kit.settings import ROOT, KitError, load, schema_text
from kit.training import launch

# The first line of a command's function is its help. What draws (kit.report) takes seconds to import.


def run(params: str, stage: str | None) -> None:
    """The whole chain: execute notebooks/00_run_all.ipynb, which executes the others. Or one stage, with what it needs."""
    config = load(params)
    shown = paths.of(config).shown
    if stage:
        runner.run_all(config, stage)
        print(f"done: {shown}/notebooks/{stage}.ipynb")
        return
    print(f"{config.file} -> {shown}", flush=True)
    runner.run_notebook(config)
    print(f"done: {shown}/report.html; tables and figures in {shown}/figures, executed notebooks in {shown}/notebooks")
    for sentence in reference.compare(config)[1]:
        print(sentence)


def show_plan(params: str) -> None:
    """What a run needs: memory, tokens, hours, disk, and whether it fits the hardware of its params."""
    memory, work, verdict = plan.report(load(params))
    print(f"GiB of one device:\n{memory.to_string()}\n\n{work.to_string()}\n\n{verdict}")


def run_dry(params: str) -> None:
    """The whole path of a params file with a tiny model, in seconds."""
    config = load(params)
    dry_run.run(config)
    print(f"dry run of {config.file}: passed")


def compute_again(name: str) -> int:
    """Compute all numbers of a run again from its stored rollouts; exit code 1 and the cells that differ, if any do."""
    differences, cells = verify.verify(paths.results().resolve() / name)
    for difference in differences[:50]:
        print(difference)
    if differences:
        print(f"{len(differences)} cells do not match what follows from the stored rollouts of {name}")
        return 1
    print(f"{name}: all {cells} cells match what follows from its stored rollouts")
    return 0


def show_data(params: str) -> None:
    """A line per data set of the run; what is not here is fetched, as before going offline."""
    print(pd.DataFrame(problems.facts(load(params))).T.to_string())


def read_logs(given: list[Path], official: Path | None) -> None:
    """Read generation logs, of the kit or of another tool: accuracy and length of each; --official writes them in that format."""
    for log in given:
        if not log.exists():
            raise KitError(f"{log}: no such file or folder")
        found = logs.read(log)
        (row,) = metrics.measure({"log": evaluate.grade(found)}, 2000, 0).to_dict("records")
        told = [f"{what} {row[what]:,.1f} {unit} [{row[f'{what}_low']:,.1f}, {row[f'{what}_high']:,.1f}]"
                if row[what] == row[what] else f"{what} unknown" for what, unit in (("accuracy", "%"), ("length", "tokens"))]
        responses = sum(len(r.model_answer) for r in found)
        print(f"{log.name}: {responses} responses to {len(found)} problems; {', '.join(told)} (95 % intervals)")
        if official:
            logs.write(official / log.stem / "rank0.jsonl", found)


def export(name: str, folder: Path | None, organization: str) -> None:
    """Write a run's results for other tools: Every Eval Ever, and logs in the official format."""
    from kit.report import exports

    folder = folder or paths.results() / name / "export"
    written = exports.export(verify.settings_of(paths.results() / name), folder, organization)
    print(f"{folder}: {len(written)} files written")


def push(params: str, model: str, repository: str, yes: bool) -> None:
    """Write the card of a pruned model, and with --yes upload both to the hub; needs a token of the user's."""
    from kit.report import card

    card.push(load(params), model, repository, yes)


def write_reference(params: str, of: str | None, more: str | None, same_base: str | None) -> None:
    """Make the reference of a params file from finished runs of many seeds, or add to it, and write README's table from it."""
    from kit.report import texts

    path = reference.path_of(params)
    made = reference.make(load(of), params) if of else files.read_json(path)
    if more:
        reference.extend(made, load(more))
    if same_base:
        reference.vary(made, load(same_base))
    files.write_json(path, made)
    texts.write_readme(made)
    print(f"{path.relative_to(ROOT)} and README.md: {len(made['figures'])} figures of {len(made['seeds'])} seeds")


def write_gallery(params: str) -> None:
    """Write the executed notebooks of a finished run into notebooks/gallery, small, as readers see them on a code host."""
    from kit.report import gallery

    for path in gallery.make(load(params)):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")


def write_schema() -> None:
    """Write params/schema.json, by which editors complete and check params files."""
    (ROOT / "params" / "schema.json").write_text(schema_text(), encoding="utf-8")
    print("params/schema.json: written")


PARAMS = {"params": {"nargs": "?", "default": "params/laptop.yaml", "help": "a params file (default: %(default)s)"}}
RUN = {"name": {"nargs": "?", "default": "laptop", "help": "the run's folder in results/ (default: %(default)s)"}}
COMMANDS: dict[str, tuple[Callable[..., int | None], dict[str, dict[str, Any]]]] = {
    "run": (run, {**PARAMS, "stage": {
        "nargs": "?", "help": "only this one and what it needs, such as 02_prune_round-iterative-2"}}),
    "new": (new.new, {
        "name": {"help": "of the params file and the run"}, "--model": {"required": True, "help": "folder, or hub id"},
        "--train": {"required": True, "type": Path, "help": "problems to train on: JSON lines, CSV or parquet"},
        "--test": {"required": True, "type": Path, "help": "problems to evaluate on"},
        "--validation": {"type": Path, "help": "problems to choose checkpoints on (default: a tenth of the training problems)"},
        "--limits": {"type": int, "nargs": "+", "help": "token limit of each round (default: by the model's window)"},
        "--steps": {"type": int, "default": 180, "help": "optimizer steps of a round (default: %(default)s, the paper's)"}}),
    "plan": (show_plan, PARAMS), "dry-run": (run_dry, PARAMS), "data": (show_data, PARAMS), "verify": (compute_again, RUN),
    "export": (export, {**RUN, "--folder": {"type": Path, "help": "where to (default: export/ in the run's folder)"},
                        "--organization": {"default": "unknown", "help": "who evaluated (default: %(default)s)"}}),
    "logs": (read_logs, {"given": {"nargs": "+", "type": Path, "metavar": "LOG", "help": "a file, or a folder of one log"},
                         "--official": {"type": Path, "metavar": "FOLDER", "help": "write them as FOLDER/<log>/rank0.jsonl"}}),
    "push": (push, {"params": {"help": "a params file"}, "model": {"help": "<schedule>/round<k>"},
                    "repository": {"help": "owner/name"},
                    "--yes": {"action": "store_true", "help": "upload; without it nothing leaves this machine"}}),
    "round": (launch.work, {"settings": {"help": "a params file, or the settings.json of a round"}, "schedule": {},
                            "round": {"type": int},
                            "--start": {"metavar": "HOST:PORT", "help": "start this machine's processes, which meet there"}}),
    "reference": (write_reference, {
        "--params": {"default": "params/laptop.yaml", "help": "the file it is for (default: %(default)s)"},
        "--of": {"help": "make it anew from these runs, such as params/laptop-seeds.yaml"},
        "--more": {"help": "add runs of other seeds, which also tell whether the ranges of those before hold"},
        "--same-base": {"help": "put runs beside it that vary the seed of the RL alone"}}),
    "gallery": (write_gallery, PARAMS), "smollm2": (smollm2.make, {}), "schema": (write_schema, {}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    top = argparse.ArgumentParser(prog="python -m kit", description="ThinkPrune, reproducible.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, known) in COMMANDS.items():
        told = (command.__doc__ or "").splitlines()[0]
        added = commands.add_parser(name, help=told, description=told)
        added.set_defaults(command=command)
        for argument, how in known.items():
            added.add_argument(argument, **how)
    chosen = vars(top.parse_args(arguments))
    try:
        return chosen.pop("command")(**chosen) or 0
    except KitError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # it would show the traceback of what was cut off
        print("interrupted; the same command goes on where it stopped", file=sys.stderr, flush=True)
        return 130
