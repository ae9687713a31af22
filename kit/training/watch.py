"""The log of a training round, shown while it grows; what goes wrong in it, with what to try; when going on is pointless.

A row is a step of log.csv: shares between 0 and 1, `entropy` and `kl` in nats per token, `length` in tokens. Thresholds are
`settings.Watch`. A warning is given when it first holds and at every tenth step that it keeps holding. Four stop the round:
`non-finite` at once, `no movement` after five steps in a row, `no reward` and a KL ten times over its threshold after `patience`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from kit.runs import catalog, files
from kit.settings import Config, KitError, Watch
from kit.training import checkpoints

Row = Mapping[str, Any]
Draw = Callable[[Sequence[Row], int, str], Any]  # (rows so far, steps of the round, title) -> what a notebook shows
LATELY = 10  # steps whose mean time says how long the rest will take
LINES = 10  # lines that a round without a plot prints
AGAIN = 10  # steps after which a warning that keeps holding is told again
FIRST = 5  # steps that show whether the learning rate moves anything
LOGGED = {  # column of log.csv: key in TRL's log
    "reward": "reward",
    "right": "right",  # share of correct responses, where the reward is another
    "length": "completions/mean_length",
    "thinking": "thinking",  # tokens up to `</think>`
    "truncated": "completions/clipped_ratio",
    "no_variance": "frac_reward_zero_std",
    "entropy": "entropy", "kl": "kl", "loops": "loops", "grad_norm": "grad_norm", "loss": "loss",
    "seconds": "step_time",  # of which, by part (rounds.keep_time):
    "generate": "seconds/generate", "grade": "seconds/grade", "reference": "seconds/rollouts",
}


class Warning(NamedTuple):
    """`text` says what is wrong and what to try; `stop`: going on is pointless."""

    step: int
    name: str
    text: str
    stop: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def round_log(config: Config, path: Path, limit: int, title: str, draw: Draw | None = None) -> Any:
    """A trainer callback of the first process: a row of log.csv a step, warnings in warnings.csv; `Shown` shows them. KitError,
    before the step's checkpoint is written, when going on is pointless."""
    import pandas as pd
    from transformers import TrainerCallback

    class RoundLog(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.rows = rows_until(path, state.global_step)  # resumed: keep the rows up to the checkpoint
            self.warnings = rows_until(path.with_name("warnings.csv"), state.global_step)
            self.shown = Shown(title, state.max_steps, draw)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "reward" not in logs or not state.is_world_process_zero:
                return
            row = {"step": state.global_step, "limit": limit, **{k: logs.get(v) for k, v in LOGGED.items()}}
            if row["reference"]:
                row["reference"] -= row["generate"] + row["grade"]
            self.rows.append(row)
            files.write_csv(path, pd.DataFrame(self.rows))
            found = warnings_about(self.rows, config.watch, state.max_steps)
            self.warnings += [{"step": w.step, "warning": w.name, "text": w.text} for w in found]
            if found:
                files.write_csv(path.with_name("warnings.csv"), pd.DataFrame(self.warnings))
            self.shown.tell(self.rows, found)
            for warning in found:
                if warning.stop:
                    raise KitError(f"{title} stopped at step {warning.step}, for going on is pointless: {warning}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # A resume starts from the last checkpoint, or from the one before if that is spoilt.
            for older in catalog.checkpoints(Path(args.output_dir))[:-2] if state.is_world_process_zero else ():
                checkpoints.drop(older, checkpoints.RESUME)

    return RoundLog()


def rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a log up to a step; what is not there is None."""
    if not step or not path.is_file():
        return []
    before = files.read_csv(path)
    return before[before["step"] <= step].astype(object).where(before.notna(), None).to_dict("records")


def place() -> Any:
    """An IPython display handle, whose `update` puts another object in its place; None where nobody looks on: JupyterLab and its
    like name the cell when they send it to the kernel, papermill does not, and a terminal has no cells."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    cell = getattr(get_ipython(), "get_parent", dict)().get("metadata", {})
    return display(HTML(""), display_id=True) if "cellId" in cell else None


class Shown:
    """A round while it trains: in a notebook that somebody looks at a plot, redrawn in place; elsewhere LINES plain lines."""

    def __init__(self, title: str, steps: int, draw: Draw | None) -> None:
        self.title, self.steps, self.draw, self.due = title, steps, draw, 0.0
        self.place = place() if draw else None

    def tell(self, rows: Sequence[Row], warnings: Sequence[Warning] = ()) -> None:
        """Show the rows of the round up to now, and say what is wrong with the last one."""
        step, began = rows[-1]["step"], time.monotonic()
        if self.place and (began >= self.due or step == self.steps):
            self.place.update(self.draw(rows, self.steps, f"{self.title}, {standing(rows, self.steps)}"))
            self.due = time.monotonic() + max(1.0, 10 * (time.monotonic() - began))  # a tenth of the time at most
        elif not self.place and LINES * step // self.steps > LINES * (step - 1) // self.steps:
            print(f"{self.title}, {standing(rows, self.steps)}", flush=True)
        for warning in warnings:
            print(f"warning, {self.title} step {step}: {warning}", flush=True)


def standing(rows: Sequence[Row], steps: int) -> str:
    """Where a round stands, in words: its last step, what that came to, and how long the rest will take."""
    from tqdm import tqdm

    row, lately = rows[-1], [r["seconds"] for r in rows[-LATELY:] if (r.get("seconds") or 0) > 0]
    left = (steps - row["step"]) * fmean(lately) if lately else 0
    return (f"step {row['step']:.0f} of {steps}: reward {row['reward']:.2f}, length {row['length']:.0f}, "
            f"truncated {row['truncated']:.0%}" + (f", about {tqdm.format_interval(left)} left" if left else ""))


def warnings_about(rows: Sequence[Row], watch: Watch, steps: int) -> list[Warning]:
    """What is to be said about the last of these rows, which are those of a round of `steps` steps from its first one on."""
    found = []
    for name, text in _holds(rows, len(rows) - 1, watch, steps).items():
        streak = 1
        while streak < len(rows) and name in _holds(rows, len(rows) - 1 - streak, watch, steps):
            streak += 1
        patient = watch.patience and streak >= watch.patience
        far = name == "KL blow-up" and all(_number(r, "kl") > 10 * watch.kl for r in rows[-streak:][-watch.patience :])
        stop = name == "non-finite" or bool(patient and (name == "no reward" or far))
        stop |= name == "no movement" and streak >= FIRST and watch.patience > 0
        if stop or streak % AGAIN == 1:
            found.append(Warning(int(rows[-1]["step"]), name, text + (f" ({streak} steps in a row)" if streak > 1 else ""), stop))
    return found


def _holds(rows: Sequence[Row], k: int, watch: Watch, steps: int) -> dict[str, str]:
    """The warnings that hold at row k, by name, with what is wrong and what to try."""
    row = rows[k]
    truncated, loops, kl, entropy = (_number(row, name) for name in ("truncated", "loops", "kl", "entropy"))
    began = sum(_number(r, "entropy") for r in rows[:3]) / len(rows[:3])
    alike = _number(row, "no_variance") >= 1  # rewards agree within every group
    ahead = kl * (steps / (k + 1)) ** 2  # a steady drift grows with the square of the steps
    moved = any(_number(r, "no_variance") < 1 for r in rows[:k])  # there was something to learn from
    broken = [c for c in ("loss", "grad_norm", "kl", "entropy", "reward") if row.get(c) is not None and not math.isfinite(row[c])]
    if broken:
        return {"non-finite": f"{', '.join(broken)} {'is' if len(broken) == 1 else 'are'} not a number any more, and an update "
                "with it spoils every weight; try a smaller training.learning_rate or training.max_grad_norm"}
    told = {
        "truncated": truncated > watch.truncated and
            f"{truncated:.0%} of the responses were cut at {row['limit']:.0f} tokens, so nearly every reward is 0 and there is "
            "little to learn from; start with a higher limit",
        "no reward": alike and row["reward"] <= 0 and
            "every reward is 0, so every advantage is 0 and nothing is learned; try a higher limit, easier problems, or more "
            "responses per prompt",
        "no variance": alike and row["reward"] > 0 and
            "no group has any variance in reward, so every advantage is 0 and nothing is learned; change the limit, the "
            "difficulty of the problems, or the number of responses per prompt",
        "entropy collapse": k >= 3 and entropy < watch.entropy * began and
            f"entropy is {entropy:.3g} nats a token, {entropy / began:.0%} of the {began:.3g} that the round began with: "
            "responses of a group are nearly alike; try a larger training.entropy_coefficient or a smaller "
            "training.learning_rate",
        "KL blow-up": kl > watch.kl and
            f"the policy is {kl:.3g} nats a token from the round's start (more than {watch.kl:g}); try a smaller "
            "training.learning_rate or a larger training.kl_coefficient",
        "no movement": k + 1 >= FIRST and moved and ahead < watch.still and
            f"after {k + 1} steps the policy is {kl:.2g} nats a token from the round's start, on the way to {ahead:.2g} in "
            f"{steps} steps: this training.learning_rate moves nothing; try ten times as much",
        "loops": loops > watch.loops and
            f"{loops:.0%} of the responses end in a loop; try a smaller training.learning_rate, or look at the round's start: "
            "its own responses may loop",
    }
    return {name: text for name, text in told.items() if text}


def _number(row: Row, column: str) -> float:
    """A figure of a row; NaN, which no threshold is above or below, when it is not there."""
    value = row.get(column)
    return math.nan if value is None else float(value)
