"""Executes the stages of a run with papermill, a kernel each (that frees the GPU's memory); schedules run side by side.

results/<run>/stages says of each stage what it was made from (kit.runs.fingerprint), whether it is done, and what it made:

- done, and made from the same: skipped;
- stopped in the middle, and made from the same settings and files: goes on, also when the code has changed since (a fix
  should not cost days of training), which is said and recorded;
- anything else: starts again, saying what changed. What it had made goes to replaced/.
"""

import contextlib
import dataclasses
import functools
import html
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML
from tqdm import tqdm

from kit.chain import kernels
from kit.chain.stages import NOTEBOOKS, Stage, inputs_of, outputs_of, results_of, stages
from kit.data import problems
from kit.evaluation import seeds
from kit.rollout import logs
from kit.runs import catalog, files, fingerprint, manifest, paths
from kit.settings import Config, KitError
from kit.training import trl_fields, watch

KERNELS: set[Path] = set()  # connection files of the kernels that this process has started and that still run


def run_notebook(config: Config) -> None:
    """Execute 00_run_all, the notebook that executes the others; what it prints is printed here. The run's folder is this
    command's and its kernels' alone, and what killed kernels have left in it is removed."""
    kernels.fork_kernels()
    run = paths.of(config)
    with files.hold(run.root, run.shown):
        shutil.rmtree(run.kernels, ignore_errors=True)
        os.environ[files.HELD] = str(run.root)  # its kernels may enter
        try:
            execute(Stage("00_run_all", "00_run_all", {}), config, stdout_file=sys.stdout)
        finally:
            del os.environ[files.HELD]
            shutil.rmtree(run.kernels, ignore_errors=True)


def run_all(config: Config, only: str | None = None) -> pd.DataFrame:
    """Execute all stages, or `only` one with those before it that it needs; returns a row per stage (executed or skipped,
    seconds). KitError names the stage that failed.

    The runs of several seeds go side by side, `parallel` at a time, one stage of each at a time; what the first one draws at the
    end shows them all.
    """
    found, interrupted = {stage.name: stage for stage in stages(config)}, threading.Event()
    if only and only not in found:
        raise KitError(f"{config.file} has no stage {only}; it has {', '.join(found)}")
    if not only:
        kernels.fork_kernels()
    # What would be refused hours later; and two threads that import TRL at once can fail.
    trl_fields.check(config)
    logs.check(config)
    if only:
        return run_stages(config, [found[name] for name in (*found[only].needs, only)], interrupted)
    others = seeds.write_params(config)
    if not others:
        return run_stages(config, list(found.values()), interrupted)
    tasks = {run.run: functools.partial(run_stages, dataclasses.replace(run, parallel=1), own, interrupted)
             for run, own in [(config, [stage for stage in found.values() if not stage.draws]),
                              *((other, stages(other)) for other in others)]}
    tables = side_by_side(config.parallel, tasks, interrupted)
    return pd.concat([*(table.assign(stage=f"{run}/" + table.stage) for run, table in tables.items()),
                      run_stages(config, list(found.values()), interrupted)])


def side_by_side(
    workers: int, tasks: Mapping[str, Callable[[], Any]], interrupted: threading.Event,
    needs: Mapping[str, Sequence[str]] | None = None, tell: Callable[[], None] = lambda: None, every: float = 20,
) -> dict[str, Any]:
    """The results of the tasks, `workers` at a time in threads: the first whose `needs` are done. `tell` is called every so many
    seconds. After a failure none is begun, and those that run are left to end.

    An interrupt (Jupyter's stop button) is passed on to the kernels that run, until all have ended; then it is a KitError.
    """
    waiting, running, results, failed = list(tasks), {}, {}, []
    with ThreadPoolExecutor(workers) as pool:
        try:
            while (waiting and not interrupted.is_set()) or running:
                ready = [name for name in waiting if all(need in results for need in (needs or {}).get(name, ()))]
                for name in ready[: workers - len(running)]:
                    running[pool.submit(tasks[name])] = name
                    waiting.remove(name)
                ended = wait(running, timeout=every, return_when=FIRST_COMPLETED).done
                for future in ended:
                    name = running.pop(future)
                    if error := future.exception():
                        failed.append(error)
                        waiting.clear()
                    else:
                        results[name] = future.result()
                if not ended:
                    tell()
        except KeyboardInterrupt:
            interrupted.set()
            while wait(running, timeout=0).not_done:
                interrupt_kernels()
                wait(running, timeout=10)  # again, if one was only starting; others must not be disturbed while they end
            raise KitError("interrupted; the same call goes on where it stopped") from None
    if failed:
        raise failed[0]
    return {name: results[name] for name in tasks if name in results}


def interrupt_kernels() -> None:
    """Interrupt what the kernels of all running stages do, as Jupyter's stop button does."""
    from jupyter_client import BlockingKernelClient

    for connection in tuple(KERNELS):
        client = BlockingKernelClient()
        try:
            client.load_connection_file(str(connection))
            client.control_channel.send(client.session.msg("interrupt_request", {}))
            client.control_channel.get_msg(timeout=1)
        except (OSError, ValueError, queue.Empty):
            pass  # the kernel is only starting, or has just ended
        finally:
            client.stop_channels()


def run_stages(config: Config, found: Sequence[Stage], interrupted: threading.Event) -> pd.DataFrame:
    """Execute stages of one run, as `run_all`; none is begun once `interrupted` is set.

    Prints a line when a stage starts or ends, and every 20 seconds one on where the running ones stand; in a notebook that
    somebody looks at there are bars instead, redrawn in place. Another run in the same folder is refused.
    """
    run, began, place = paths.of(config), time.monotonic(), watch.place()
    if not config.schedules:
        manifest.write_manifest(config, {})  # else notebook 01 does, with the prompts
    made: dict[str, dict[str, list]] = {}
    names = [stage.name for stage in found]
    running: dict[str, tuple[Stage, float, int]] = {}  # with when it began, and how much of it was done then

    def say(text: str, name: str = "") -> None:
        where = f"{names.index(name) + 1} of {len(names)}  {name}: " if name else ""
        clock = tqdm.format_interval(time.monotonic() - began)
        print(f"{clock}  {where}{text}\n", end="", flush=True)  # one write: lanes print side by side

    def tell() -> None:
        bars = [bar(f"{len(made)} of {len(names)} stages", len(made) / len(names))]
        for name, (stage, since, before) in tuple(running.items()):
            done, total, told = progress(config, stage)
            seconds = (total - done) * (time.monotonic() - since) / max(done - before, 1e-9)
            told += f", about {tqdm.format_interval(seconds)} left" if before < done < total else ""
            bars.append(bar(f"{name}: {told}", done / max(total, 1)))
            if not place:
                say(told, name)
        if place:
            place.update(HTML("".join(bars)))

    def work(stage: Stage) -> dict[str, Any]:
        running[stage.name] = stage, time.monotonic(), progress(config, stage)[0]
        try:
            return run_stage(config, stage, made, functools.partial(say, name=stage.name))
        except BaseException:
            if not interrupted.is_set():
                say("failed; what runs beside it is left to end", stage.name)
            raise
        finally:
            del running[stage.name]

    with files.hold(run.root, run.shown):
        for unfinished in run.root.rglob(".*.tmp"):  # by processes that were killed
            unfinished.unlink(missing_ok=True)
        say(f"{config.file} -> {run.shown}")
        rows = side_by_side(config.parallel, {stage.name: functools.partial(work, stage) for stage in found}, interrupted,
                            {stage.name: stage.needs for stage in found}, tell, 2 if place else 20)
        tell()
        files.write_csv(run.account, manifest.account(config))
        with contextlib.suppress(OSError):
            run.kernels.rmdir()
    return pd.DataFrame(list(rows.values()))


def bar(told: str, done: float) -> str:
    """A bar for what is told, with the share of it that is done, as HTML."""
    text = html.escape(told)
    return f'<div><progress max="1" value="{done:.3f}" aria-label="{text}"></progress> {text}</div>'


def run_stage(config: Config, stage: Stage, made: dict[str, dict[str, list]], say: Callable[[str], None]) -> dict[str, Any]:
    """Execute a stage, or skip it; returns its row of the table, and puts its files into `made`."""
    run = paths.of(config)
    marker, inputs = run.stages / f"{stage.name}.json", inputs_of(config, stage, made)
    before = files.read_json(marker) if marker.is_file() else {}
    results = before.get("results") if before.get("inputs") == inputs else None
    if results is not None and all((run.root / name).is_file() for name in results):
        now = made[stage.name] = fingerprint.files([run.root / name for name in results], run.root, results)
        other = [name for name in results if now[name][2] != results[name][2]]
        say("unchanged, skipped" + (f" ({', '.join(other)}: not as it was made)" if other else ""))
        return {"stage": stage.name, "status": "skipped", "seconds": 0.0}
    goes_on, said, code = resumption(before, inputs, {f"file: {file}": name for name in stage.needs for file in made[name]})
    say(said)
    if before and not goes_on:
        set_aside(config, stage)
    record = {"inputs": inputs, "done": False, "other_code": code}
    files.write_json(marker, record)
    started = time.monotonic()
    execute(stage, config)
    seconds = round(time.monotonic() - started, 1)
    made[stage.name] = fingerprint.files(results_of(config, stage), run.root)
    files.write_json(marker, record | {"done": True, "results": made[stage.name], "seconds": seconds,
                                       "commit": manifest.commit(), "finished": files.now()})
    say(f"done in {seconds:.0f} s")
    return {"stage": stage.name, "status": "executed", "seconds": seconds}


def resumption(before: dict[str, Any], inputs: dict[str, Any], makers: Mapping[str, str]) -> tuple[bool, str, list[str]]:
    """(whether a stage goes on with what it had made, what is said of it, code that has changed since it began). `makers`: of the
    files among its inputs, the stage that makes each."""
    if not before:
        return False, "starts", []
    changed = fingerprint.differing(before["inputs"], inputs)
    if not changed:
        said = "some of its files are gone, goes on" if before["done"] else "continues where it stopped"
        return True, said, before["other_code"]
    why = fingerprint.told(before["inputs"], inputs, makers)
    code = [name.removeprefix("code: ") for name in changed if name.startswith("code: ")]
    if len(code) == len(changed) and not before["done"]:
        return True, f"continues where it stopped, though {why} since", sorted({*before["other_code"], *code})
    return False, f"{why}: starts again", []


def set_aside(config: Config, stage: Stage) -> None:
    """Move what a stage had made to replaced/<stage>, in place of what was there from before. Can be killed anywhere."""
    run = paths.of(config)
    kept, moving = run.replaced / stage.name, run.replaced / f".{stage.name}"
    for path in outputs_of(config, stage):
        if path.exists():
            target = moving / path.relative_to(run.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    if moving.exists():
        shutil.rmtree(kept, ignore_errors=True)
        moving.rename(kept)


def execute(stage: Stage, config: Config, **options: Any) -> None:
    """Execute one notebook into the run's folder; KitError in one line when a cell of it fails."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError
    from traitlets.config import Config as Settings

    run = paths.of(config)
    copy, connection = run.notebooks / f"{stage.name}.ipynb", run.kernels / f"{stage.name}.json"
    copy.parent.mkdir(parents=True, exist_ok=True)
    connection.parent.mkdir(mode=0o700, exist_ok=True)  # in the system's /tmp those of killed runs would pile up
    connection.unlink(missing_ok=True)
    os.environ.update(kernels.ENVIRONMENT | os.environ)
    if os.path.expanduser("~") == "~":  # a container's user without a home: Jupyter wants one
        os.environ["HOME"] = str(run.kernels.resolve())
    KERNELS.add(connection)
    try:
        papermill.execute_notebook(
            str(NOTEBOOKS / f"{stage.notebook}.ipynb"), str(copy), {"params_file": config.file, **stage.parameters},
            cwd=str(NOTEBOOKS), progress_bar=False, request_save_on_cell_execute=False,
            extra_arguments=["--IPKernelApp.log_level=50"],
            config=Settings({"KernelManager": {"connection_file": str(connection)}}), **options)
    except (PapermillException, CellTimeoutError, DeadKernelError) as error:
        told = " ".join(str(error).split())[:300]
        if isinstance(error, PapermillExecutionError):
            told = " ".join((error.evalue if error.ename == "KitError" else f"{error.ename}: {error.evalue}").split())
        raise KitError(f"{stage.name}: {told} (see {run.shown}/notebooks/{copy.name})") from None
    finally:
        KERNELS.discard(connection)
        if copy.is_file():
            files.write_text(copy, manifest.scrubbed(copy.read_text(encoding="utf-8"), config))


def progress(config: Config, stage: Stage) -> tuple[int, int, str]:
    """How much of a running stage is done and of how much (steps or problems), and that in words; 0 of 0 where no file tells."""
    run, own, round = paths.of(config), stage.schedule or "base", stage.parameters.get("round", 0)
    with contextlib.suppress(OSError, ValueError, IndexError, KitError):  # no log yet
        if stage.notebook in ("01_base_model", "02_prune_round"):
            row = pd.read_csv(run.training(own, round) / "log.csv").iloc[-1]
            steps = catalog.steps_of(config, own) if round else config.arithmetic.drill_steps + config.arithmetic.sft_steps
            if row.step < steps:
                told = f"loss {row.loss:.3f}" if "reward" not in row else \
                    f"reward {row.reward:.2f}, length {row.length:.0f}, truncated {row.truncated:.0%}"
                return int(row.step), steps, f"step {row.step:.0f} of {steps}: {told}"
            validated = len(list(run.validation(own, round, 0).parent.glob("*.jsonl")))
            return steps, steps, f"trained; validation, {validated} checkpoints begun"
        asked = config.data.evaluation if stage.schedule not in config.logs.models else ()
        sizes = {name: len(problems.load(name, config)) for name in asked}
        written = {
            "03_evaluate": {run.rollouts(model, name): sizes[name] for model in catalog.models_of(config, own) for name in sizes},
            "04_budget_forcing": {run.forcing(model, name) / f"budget{budget}.jsonl": sizes[name]
                                  for model in config.forced_models for name in sizes for budget in config.forcing.budgets},
        }.get(stage.notebook)
        if written:
            done = sum(path.read_bytes().count(b"\n") for path in written if path.is_file())
            return done, sum(written.values()), f"{done:,} of {sum(written.values()):,} problems answered"
    return 0, 0, "runs"
