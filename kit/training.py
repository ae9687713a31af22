"""One pruning round on TRL's GRPOTrainer, and the paper's choice among its checkpoints.

Where this departs from TRL's defaults, because the official settings do (FACTS 2):

- `loss_type="bnpo"`: the mean over all response tokens of a batch, not of per-response means;
- `scale_rewards="group"`: advantage = (r - mean of the group) / (std of the group + 1e-4; the paper's code: 1e-6);
- `mask_truncated_completions=False`: a truncated response stays in the loss, its reward of 0 is the signal;
- `beta`: the KL to the round's start, as the k3 estimate without TRL's importance correction;
- constant learning rate, one optimizer step per batch of rollouts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import disk, lock, paths, problems, prompts, watch
from kit.config import Config, KitError
from kit.rewards import get_token_limit_reward

LOGGED = {  # column of log.csv: key in TRL's log
    "reward": "reward",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "no_variance": "frac_reward_zero_std",
    "entropy": "entropy",
    "kl": "kl",
    "repeated": "repeated",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "seconds": "step_time",
}


def steps_of(config: Config, schedule: str) -> int:
    """Optimizer steps of each round of this schedule."""
    own = config.schedules[schedule].steps
    return config.training.steps if own is None else own


def start_of_round(config: Config, schedule: str, round: int) -> str:
    """What round `round` (counted from 1) starts from: the base model, or what the round before selected."""
    if not 1 <= round <= len(config.schedules[schedule].limits):
        limits = config.schedules[schedule].limits
        raise KitError(f"{config.file}: schedules.{schedule} has {len(limits)} round(s), there is no round {round}")
    if round == 1:
        return base_model(config)
    return selected(config, schedule, round - 1)


def base_model(config: Config) -> str:
    """Folder or hub id of the base model; KitError when the laptop's has not been trained yet."""
    if config.model.source != "arithmetic":
        return config.model.source
    folder = paths.of(config).base_model
    if not has_weights(folder):
        raise KitError(f"{folder}: no base model yet; run notebooks/01_base_model.ipynb with {config.file} first")
    return str(folder)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a saved model."""
    return any(folder.glob("*.safetensors"))


def start_name(config: Config, source: str) -> str:
    """A model as written into files: relative to the run's folder where it lies in it."""
    root = paths.of(config).root
    return str(Path(source).relative_to(root)) if Path(source).is_relative_to(root) else source


def selected(config: Config, schedule: str, round: int) -> str:
    """Folder of the checkpoint that round `round` selected."""
    file = paths.of(config).training(schedule, round) / "selected.json"
    if not file.is_file():
        raise KitError(f"{file}: not there yet; run notebooks/02_prune_round.ipynb with schedule={schedule} round={round} first")
    step = paths.read_json(file)["step"]
    if step == 0:
        return start_of_round(config, schedule, round)
    return str(paths.of(config).models(schedule, round) / f"checkpoint-{step}")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a round, by step."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def training_rows(config: Config, tokenizer: Any, limit: int | None) -> list[dict[str, Any]]:
    """The training set as TRL wants it: prompt messages (stating `limit`), gold answer, id. Too long ones are dropped."""
    rows, dropped = [], 0
    for p in problems.load(config.data.train, config):
        messages = prompts.training_messages(config.prompts, p.question, limit)
        if len(prompts.encode(tokenizer, messages)) > config.data.prompt_cap:
            dropped += 1
            continue
        rows.append({"prompt": messages, "answer": p.answer, "id": p.id})
    if dropped:
        print(f"{dropped} of {dropped + len(rows)} training prompts are over {config.data.prompt_cap} tokens: dropped")
    if len(rows) < config.training.prompts_per_step:
        raise KitError(f"{config.file}: training.prompts_per_step is {config.training.prompts_per_step}, "
                       f"but {config.data.train} has {len(rows)} problems")
    return rows


def train_round(config: Config, schedule: str, round: int) -> Path:
    """Train round `round` of `schedule` from where the round before ended; resumes from its last whole checkpoint.

    Returns the folder of the round's checkpoints (every `training.checkpoint_every` steps). log.csv gets a row a step.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback, set_seed
    from trl import GRPOTrainer

    torch.set_num_threads(config.threads)
    limit, plan = config.schedules[schedule].limits[round - 1], config.schedules[schedule]
    start = start_of_round(config, schedule, round)
    run = paths.of(config)
    folder, steps = run.models(schedule, round), steps_of(config, schedule)
    tokenizer = prompts.load_tokenizer(start, config)
    rows = training_rows(config, tokenizer, limit if plan.state_limit else None)
    whole = [c for c in checkpoints(folder) if disk.spoilt(c) is None]
    if whole and int(whole[-1].name.split("-")[1]) >= steps:
        return folder
    seed = config.seed * 1000 + round
    set_seed(seed)
    title = f"{schedule} round {round}"
    trainer = GRPOTrainer(
        model=str(start),
        args=grpo_settings(config, folder, limit, steps, seed, plan.checkpoint_every),
        reward_funcs=get_token_limit_reward(limit, tokenizer, config.training.reading),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[round_log(config, run.training(schedule, round) / "log.csv", limit, title), disk.room_check(folder)],
    )
    for shown in (ProgressCallback, PrinterCallback):  # ours shows the figures that matter
        trainer.remove_callback(shown)
    done = disk.resumable(checkpoints(folder))
    with lock.hold(run.training(schedule, round), f"{run.shown}, {title}", patience=20), failing(title, trainer):
        trainer.train(resume_from_checkpoint=str(done) if done else None)
    return folder


@contextlib.contextmanager
def failing(title: str, trainer: Any) -> Iterator[None]:
    """Tell in one line what broke off a training, where, and that it goes on from its last checkpoint."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = ""
        if "probability tensor" in reason:
            hint = "; its weights are spoilt: try a smaller training.learning_rate"
        elif "out of memory" in reason:
            hint = "; try a smaller training.micro_batch"
        step = trainer.state.global_step + 1
        raise KitError(f"{title}, step {step}: {reason}{hint}; run this again to go on from the last checkpoint") from error


def grpo_settings(config: Config, folder: Path, limit: int, steps: int, seed: int, every: int | None = None) -> Any:
    """`GRPOConfig` of a round. A generation batch is prompts_per_step x responses_per_prompt responses."""
    import torch
    from trl import GRPOConfig

    t = config.training
    batch = t.prompts_per_step * t.responses_per_prompt
    passes = batch // t.micro_batch
    return GRPOConfig(
        output_dir=str(folder), seed=seed, data_seed=seed, report_to="none", disable_tqdm=True, log_level="error",
        max_steps=steps, save_steps=every or t.checkpoint_every, save_strategy="steps", logging_steps=1,
        learning_rate=t.learning_rate, lr_scheduler_type="constant",
        max_grad_norm=t.max_grad_norm, weight_decay=0.0,
        num_generations=t.responses_per_prompt, per_device_train_batch_size=t.micro_batch,
        gradient_accumulation_steps=passes, steps_per_generation=passes, num_iterations=1,
        max_completion_length=limit, temperature=t.temperature, top_p=t.top_p, top_k=0,
        loss_type="bnpo", logging_nan_inf_filter=False, scale_rewards="group", mask_truncated_completions=False,
        epsilon=t.clip_ratio, beta=t.kl_coefficient, entropy_coef=t.entropy_coefficient, use_bias_correction_kl=False,
        bf16=config.model.dtype == "bfloat16", gradient_checkpointing=config.model.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
        trust_remote_code=config.model.trust_remote_code, model_init_kwargs={"dtype": config.model.dtype},
    )


def round_log(config: Config, path: Path, limit: int, title: str) -> Any:
    """A trainer callback: a progress bar with the figures that matter, a row of log.csv a step, warnings in words and in
    warnings.csv. KitError, before the step's checkpoint is written, when going on is pointless (kit.watch)."""
    import pandas as pd
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class RoundLog(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.rows = rows_until(path, state.global_step)  # resumed: keep the rows up to the checkpoint
            self.warnings = rows_until(path.with_name("warnings.csv"), state.global_step)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=title)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "reward" not in logs:
                return
            row = {"step": state.global_step, "limit": limit, **{k: logs.get(v) for k, v in LOGGED.items()}}
            self.rows.append(row)
            paths.write_csv(path, pd.DataFrame(self.rows))
            self.bar.update(state.global_step - self.bar.n)
            self.bar.set_postfix_str(
                f"reward {row['reward']:.3f}, length {row['length']:.0f}, truncated {row['truncated']:.1%}"
            )
            found = watch.warnings_about(self.rows, config.watch)
            for warning in found:
                self.bar.write(f"warning, {title} step {warning.step}: {warning}")
                self.warnings.append({"step": warning.step, "warning": warning.name, "text": warning.text})
                paths.write_csv(path.with_name("warnings.csv"), pd.DataFrame(self.warnings))
            for warning in found:
                if warning.stop:
                    raise KitError(f"{title} stopped at step {warning.step}, for going on is pointless: {warning}")

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.bar.close()

    return RoundLog()


def rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a log up to a step; what is not there is None."""
    import pandas as pd

    if not step or not path.is_file():
        return []
    before = pd.read_csv(path)
    return before[before["step"] <= step].astype(object).where(before.notna(), None).to_dict("records")


# --- selection --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Validation of one checkpoint: accuracy (percent or share, the same for all) and mean length in tokens."""

    step: int
    accuracy: float
    length: float


def select(points: Sequence[Point], start_accuracy: float, tolerance: float = 0.10) -> Point | None:
    """The shortest checkpoint whose accuracy is at least (1 - tolerance) x `start_accuracy` (the paper's rule, FACTS 1).

    `start_accuracy` is that of the round's starting model on the same problems. None when no checkpoint qualifies.
    """
    floor = (1 - tolerance) * start_accuracy
    fit = [p for p in points if p.accuracy >= floor - 1e-9]
    return min(fit, key=lambda p: (p.length, p.step), default=None)
