"""One pruning round on TRL's GRPOTrainer, and the paper's choice among its checkpoints.

Where this departs from TRL's defaults, because the official settings do:

- `loss_type="dapo"`: the mean over all response tokens of a step, not of per-response means. (`bnpo` takes that mean per
  forward pass, so it hangs on how a step is split over passes and devices; TRL's entropy bonus still does, a little.)
- `scale_rewards="group"`: advantage = (r - mean of the group) / (std of the group + 1e-4; the paper's code: 1e-6);
- `mask_truncated_completions=False`: a truncated response stays in the loss, its reward of 0 is the signal;
- `beta`: the KL to the round's start, as the k3 estimate without TRL's importance correction;
- constant learning rate, one optimizer step per batch of rollouts, split as `settings.Training` says;
- trained weights are float32 also where bfloat16 computes: in a bfloat16 weight an update of 1e-6 is rounded away.

`kit.training.launch` runs this in several processes where the params ask for them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kit.data import contamination, prompts
from kit.reward.token_limit import get_token_limit_reward
from kit.rollout import models, sampling
from kit.runs import catalog, files, lock, paths
from kit.settings import Config, KitError
from kit.training import checkpoints, watch

LOGGED = {  # column of log.csv: key in TRL's log
    "reward": "reward",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "no_variance": "frac_reward_zero_std",
    "entropy": "entropy",
    "kl": "kl",
    "loops": "loops",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "seconds": "step_time",
}


def training_rows(config: Config, tokenizer: Any, limit: int | None) -> list[dict[str, Any]]:
    """The training set as TRL wants it: prompt messages (stating `limit`), gold answer, id. Too long ones are dropped."""
    rows, dropped = [], 0
    for p in contamination.training_problems(config):
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


def prepare(config: Config, schedule: str, round: int) -> tuple[str, Any, list[dict[str, Any]]]:
    """What a round starts from, its tokenizer and its training rows; KitError, before anything is written, where this machine
    cannot run the round or something is missing."""
    t, plan = config.training, config.schedules[schedule]
    start = catalog.start_of_round(config, schedule, round)
    for package, needed in (("vllm", t.vllm != "off"), ("peft", t.lora_rank is not None)):
        if needed and importlib.util.find_spec(package) is None:
            key, extra = ("vllm", "vllm") if package == "vllm" else ("lora_rank", "lora")
            raise KitError(f"{config.file}: training.{key} needs {package}, which is not installed; pip install -e '.[{extra}]'")
    if t.vllm == "server":
        check_server(config, start)
    start = models.fetch(start, config.model.revision)
    tokenizer = models.load_tokenizer(start, config)
    return start, tokenizer, training_rows(config, tokenizer, plan.limits[round - 1] if plan.state_limit else None)


def check_server(config: Config, start: str) -> None:
    """KitError, with the command that starts one, when no vLLM server answers."""
    address = f"{config.training.vllm_host}:{config.training.vllm_port}"
    try:
        urllib.request.urlopen(f"http://{address}/health", timeout=10).close()
    except OSError as error:
        host, port = config.training.vllm_host, config.training.vllm_port
        raise KitError(
            f"{config.file}: training.vllm is server, but none answers at {address} ({error}); start it on devices of its own: "
            f"VLLM_SERVER_DEV_MODE=1 vllm serve {start} --host {host} --port {port} --logprobs-mode processed_logprobs "
            "--weight-transfer-config '{\"backend\": \"nccl\"}'"
        ) from None


def train_round(config: Config, schedule: str, round: int, bar: bool = True) -> Path:
    """Train round `round` of `schedule` from where the round before ended; resumes from its last whole checkpoint.

    Returns the folder of the round's checkpoints (every `training.checkpoint_every` steps). log.csv gets a row a step. Runs in
    this process; where the params ask for several, each of them runs this (`kit.training.launch`) and the first writes.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback, set_seed
    from trl import GRPOTrainer

    torch.set_num_threads(config.threads)
    limit, plan = config.schedules[schedule].limits[round - 1], config.schedules[schedule]
    start, tokenizer, rows = prepare(config, schedule, round)
    run = paths.of(config)
    folder, steps = run.models(schedule, round), catalog.steps_of(config, schedule)
    whole = [c for c in catalog.checkpoints(folder) if checkpoints.spoilt(c) is None]
    if whole and catalog.step_of(whole[-1]) >= steps:
        return folder
    seed = config.seed * 1000 + round
    args = grpo_settings(config, folder, limit, steps, seed, plan.checkpoint_every)
    if args.world_size != config.training.processes or args.n_gpu > 1:
        there = max(args.world_size, args.n_gpu)
        raise KitError(f"{config.file}: training.processes is {config.training.processes}, but there are {there} "
                       f"{'GPUs' if args.n_gpu > 1 else 'processes'}; set processes: {there}, or make one GPU visible "
                       "(CUDA_VISIBLE_DEVICES=0), or train with kit.training.launch")
    set_seed(seed)
    title = f"{schedule} round {round}"
    trainer = GRPOTrainer(
        model=str(start),
        args=args,
        reward_funcs=get_token_limit_reward(limit, tokenizer, plan.reading or config.training.reading),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[round_log(config, run.training(schedule, round) / "log.csv", limit, title, bar), checkpoints.room_check(folder)],
        peft_config=lora_settings(config),
    )
    for shown in (ProgressCallback, PrinterCallback):  # ours shows the figures that matter
        trainer.remove_callback(shown)
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):  # there processes share each forward pass
        trainer.model.generate = functools.partial(trainer.model.generate, custom_generate=sampling.sample)
    done = checkpoints.resumable(catalog.checkpoints(folder))
    alone = lock.hold(run.training(schedule, round), f"{run.shown}, {title}", patience=20)
    with alone if args.process_index == 0 else contextlib.nullcontext(), failing(title, trainer):
        trainer.train(resume_from_checkpoint=str(done) if done else None)
    if config.training.processes == 1:
        checkpoints.merge_adapters(config, schedule, round)
    return folder


def lora_settings(config: Config) -> Any:
    """`LoraConfig` on every linear layer but the output's, or None when all weights are trained."""
    if config.training.lora_rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=config.training.lora_rank, lora_alpha=config.training.lora_alpha, lora_dropout=0.0, bias="none",
                      target_modules="all-linear", task_type="CAUSAL_LM")


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
    """`GRPOConfig` of a round. A generation batch is prompts_per_step x responses_per_prompt responses over all processes."""
    import torch
    from trl import GRPOConfig

    t, half = config.training, config.model.dtype == "bfloat16"
    cuda = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder), seed=seed, data_seed=seed, report_to="none", disable_tqdm=True, log_level="error",
        max_steps=steps, save_steps=every or t.checkpoint_every, save_strategy="steps", logging_steps=1,
        learning_rate=t.learning_rate, lr_scheduler_type="constant",
        max_grad_norm=t.max_grad_norm, weight_decay=0.0,
        num_generations=t.responses_per_prompt, per_device_train_batch_size=t.responses_per_pass,
        gradient_accumulation_steps=t.passes, steps_per_generation=t.passes, num_iterations=1,
        max_completion_length=limit, temperature=t.temperature, top_p=t.top_p, top_k=0,
        loss_type="dapo", logging_nan_inf_filter=False, scale_rewards="group", mask_truncated_completions=False,
        epsilon=t.clip_ratio, beta=t.kl_coefficient, entropy_coef=t.entropy_coefficient, use_bias_correction_kl=False,
        bf16=half, gradient_checkpointing=half if t.gradient_checkpointing is None else t.gradient_checkpointing,
        use_cpu=not cuda, dataloader_pin_memory=cuda,
        ddp_timeout=int(60 * t.timeout_minutes), ddp_find_unused_parameters=False,
        trust_remote_code=config.model.trust_remote_code,
        model_init_kwargs={"dtype": "float32" if t.lora_rank is None else config.model.dtype, "use_safetensors": True},
        **vllm_settings(config, limit),
    )


def vllm_settings(config: Config, limit: int) -> dict[str, Any]:
    """The part of `GRPOConfig` that has vLLM write the rollouts; empty when transformers does."""
    t = config.training
    if t.vllm == "off":
        return {}
    correction: dict[str, Any] = {"vllm_importance_sampling_correction": t.vllm_correction != "off"}
    if t.vllm_correction != "off":
        correction |= {"vllm_importance_sampling_mode": t.vllm_correction,
                       "vllm_importance_sampling_clip_max": t.vllm_correction_cap}
    return {
        "use_vllm": True, "vllm_mode": t.vllm, "vllm_max_model_length": config.data.prompt_cap + limit,
        "vllm_gpu_memory_utilization": t.vllm_memory_share, "vllm_tensor_parallel_size": t.vllm_tensor_parallel,
        "vllm_enable_sleep_mode": t.vllm_sleep and t.vllm == "colocate",
        "vllm_server_host": t.vllm_host, "vllm_server_port": t.vllm_port, **correction,
    }


def round_log(config: Config, path: Path, limit: int, title: str, bar: bool = True) -> Any:
    """A trainer callback of the first process: a row of log.csv a step, warnings in warnings.csv; `bar` shows both.

    KitError, before the step's checkpoint is written, when going on is pointless (kit.training.watch).
    """
    import pandas as pd
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class RoundLog(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.rows = rows_until(path, state.global_step)  # resumed: keep the rows up to the checkpoint
            self.warnings = rows_until(path.with_name("warnings.csv"), state.global_step)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=title, disable=not bar)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "reward" not in logs or not state.is_world_process_zero:
                return
            self.rows.append({"step": state.global_step, "limit": limit, **{k: logs.get(v) for k, v in LOGGED.items()}})
            files.write_csv(path, pd.DataFrame(self.rows))
            found = watch.warnings_about(self.rows, config.watch)
            self.warnings += [{"step": w.step, "warning": w.name, "text": w.text} for w in found]
            if found:
                files.write_csv(path.with_name("warnings.csv"), pd.DataFrame(self.warnings))
            if bar:
                show(self.bar, self.rows[-1], found, title)
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


def show(bar: Any, row: dict[str, Any], warnings: Sequence[watch.Warning], title: str) -> None:
    """Move the bar to this step's row, with its figures; say what is wrong with it."""
    bar.update(row["step"] - bar.n)
    bar.set_postfix_str(f"reward {row['reward']:.3f}, length {row['length']:.0f}, truncated {row['truncated']:.1%}")
    for warning in warnings:
        bar.write(f"warning, {title} step {row['step']}: {warning}")
