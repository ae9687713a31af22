"""One pruning round on TRL's GRPOTrainer (paper, section 3): from where the round before ended, under one token limit.

Where this departs from TRL's defaults, because the official settings do (`grpo_settings`, training/trl_fields):

- `loss_type="bnpo"`: the mean over the tokens of each forward/backward pass, and over passes and devices of those means: with
  `micro_batch: 4` the official loss on any number of devices. `dapo` takes one mean over all tokens of a step;
- `scale_rewards="group"`: advantage = (r - mean of the group) / (std of the group + 1e-4; the paper's code: 1e-6);
- `mask_truncated_completions=False`: a truncated response stays in the loss, its reward of 0 is the signal;
- `beta`: the KL to the round's start, as the k3 estimate without TRL's importance correction, added to the loss (the official
  code subtracts it);
- constant learning rate, weight decay 0.01, one optimizer step per batch of rollouts, split as `settings.Training` says;
- trained weights are float32 also where bfloat16 computes: in a bfloat16 weight an update of 1e-6 is rounded away.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kit.data import contamination, prompts
from kit.reward import grading, length_rewards
from kit.reward.token_limit import TokenLimitReward
from kit.rollout import models, sampling
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, Schedule
from kit.training import checkpoints, trl_fields, watch

HINTS = {  # what an error of the training says: what to do
    "probability tensor": "its weights are spoilt: try a smaller training.learning_rate",
    "No space|PytorchStreamWriter|inline_container": "make room on this disk",
    "out of memory": "try a smaller training.micro_batch (with training: {trl: {loss_type: dapo}} that changes memory alone)",
}


def train_round(config: Config, schedule: str, round: int, draw: watch.Draw | None = None) -> Path:
    """Train round `round` (from 1) of `schedule` in this process; where the params ask for several, each of them runs this
    (training/launch) and the first writes: a checkpoint every `training.checkpoint_every` steps, a row of log.csv each step.
    Resumes from the last whole checkpoint. Returns their folder. `draw` makes the plot that a notebook shows meanwhile."""
    import torch
    from datasets import Dataset
    from transformers import GenerationConfig, PrinterCallback, set_seed
    from transformers.utils import logging
    from trl import GRPOTrainer

    logging.disable_progress_bar()  # bars for each model loaded or saved
    torch.set_num_threads(config.threads)
    config = dataclasses.replace(config, training=length_rewards.training_of(config.training, config.schedules[schedule].reward))
    start, tokenizer, rows = prepare(config, schedule, round)
    t, run, plan, title = config.training, paths.of(config), config.schedules[schedule], f"{schedule} round {round}"
    limit, steps = plan.limits[round - 1], catalog.steps_of(config, schedule)
    seed = (config.seed * 1000 + round) % 2**31  # a date as seed would be too large for numpy
    folder, place = run.models(schedule, round), run.training(schedule, round)
    named = trl_fields.begin_trackers(config, schedule, round)
    args = grpo_settings(config, folder, limit, steps, seed, save_steps=plan.checkpoint_every or t.checkpoint_every, **named)
    there = max(args.world_size, args.n_gpu)
    if there != t.processes or args.n_gpu > 1:
        raise KitError(f"{config.file}: training.processes is {t.processes}, but there are {there} "
                       f"{'GPUs' if args.n_gpu > 1 else 'processes'}; set processes: {there}, or make one GPU visible "
                       "(CUDA_VISIBLE_DEVICES=0), or train with kit.training.launch")
    if checkpoints.last_step(folder) < steps:
        done = checkpoints.resumable(folder)
        for answers in (place / "validation").glob("step*.jsonl"):  # of checkpoints that are gone: they are made anew
            if int(answers.stem.removeprefix("step")) > (catalog.step_of(done) if done else 0):
                answers.unlink(missing_ok=True)
        ends, reading, adapter = models.end_tokens(start, config, tokenizer), plan.reading or t.reading, None
        reward = TokenLimitReward(limit, tokenizer, reading, ends) if plan.reward is None else length_rewards.LengthReward(
            plan.reward, limit, tokenizer, reading, ends, t.responses_per_prompt, steps)
        if t.lora_rank is not None:
            from peft import LoraConfig

            adapter = LoraConfig(r=t.lora_rank, lora_alpha=t.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        set_seed(seed)
        with failing(config, title):
            trainer = GRPOTrainer(
                model=str(start), args=args, reward_funcs=reward, train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer, peft_config=adapter,
                callbacks=[watch.round_log(config, place / "log.csv", limit, title, draw)])
        trainer.remove_callback(PrinterCallback)  # ours shows the figures that matter
        own = trainer.model.generation_config  # what TRL leaves open, such as min_p, would be filled from here: only tokens stay
        trainer.model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):  # there processes share each forward pass
            trainer.model.generate = functools.partial(trainer.model.generate, custom_generate=sampling.sample)
        if t.processes == 1:
            trainer._get_per_token_logps_and_entropies = by_length(trainer)
        if t.drop_groups:
            trainer._generate_and_score_completions = without_equal_groups(trainer)
        keep_time(trainer)
        epochs = int(files.read_json(done / "trainer_state.json")["epoch"]) if done else 0
        trainer._get_train_sampler = functools.partial(after_epochs, epochs, trainer._get_train_sampler)
        alone = files.hold(place, f"{run.shown}, {title}", patience=20)
        with alone if args.process_index == 0 else contextlib.nullcontext(), failing(config, title, trainer):
            trainer.train(resume_from_checkpoint=str(done) if done else None)
    if t.processes == 1:
        checkpoints.merge_adapters(config, schedule, round)
    return folder


def prepare(config: Config, schedule: str, round: int) -> tuple[str, Any, list[dict[str, Any]]]:
    """What a round starts from, its tokenizer and its training rows; KitError, before anything is written, where this machine
    cannot run the round or something is missing."""
    t, plan = config.training, config.schedules[schedule]
    trl_fields.check(config)
    start = catalog.start_of_round(config, schedule, round)
    for package, key, needed in (("vllm", "vllm", t.vllm != "off"), ("peft", "lora_rank", t.lora_rank is not None)):
        if needed and importlib.util.find_spec(package) is None:
            extra = key.removesuffix("_rank")
            raise KitError(f"{config.file}: training.{key} needs {package}, which is not installed; pip install -e '.[{extra}]'")
    if t.vllm == "server":
        host, port = (trl_fields.fields(config)[f"vllm_server_{name}"] for name in ("host", "port"))
        try:
            urllib.request.urlopen(f"http://{host}:{port}/health", timeout=10).close()
        except OSError as error:
            raise KitError(
                f"{config.file}: training.vllm is server, but none answers at {host}:{port} ({error}); start it on devices of "
                f"its own: VLLM_SERVER_DEV_MODE=1 vllm serve {start} --host {host} --port {port} --logprobs-mode "
                "processed_logprobs --weight-transfer-config '{\"backend\": \"nccl\"}'") from None
    start = models.fetch(start, config.model.revision)
    tokenizer = models.load_tokenizer(start, config)
    return start, tokenizer, training_rows(config, tokenizer, plan.limits[round - 1] if plan.state_limit else None, plan)


def without_equal_groups(trainer: Any) -> Callable[[Any], dict[str, Any]]:
    """The trainer's rollouts without the tokens of groups that teach nothing: they count neither in the loss nor in its mean."""
    score, size = trainer._generate_and_score_completions, trainer.num_generations

    def scored(inputs: Any) -> dict[str, Any]:
        found = score(inputs)
        teaches = (found["advantages"].view(-1, size) != 0).any(1).repeat_interleave(size)
        mask = found["completion_mask"] * teaches[:, None]
        return found | {"completion_mask": mask, "num_items_in_batch": trainer.accelerator.gather(mask.sum()).sum()}

    return scored


def by_length(trainer: Any, passes: int = 8) -> Callable[..., Any]:
    """TRL's log-probabilities of the tokens of a pass, worked out in so many parts: rows of like length together, without the
    padding that only longer ones need. The values are the same. Pictures and an auxiliary loss go TRL's own way."""
    import torch

    plain, pad = trainer._get_per_token_logps_and_entropies, torch.nn.functional.pad

    def call(model: Any, ids: Any, mask: Any, kept: int, batch_size: int | None = None, **more: Any) -> tuple[Any, Any, Any]:
        rows, width = ids.shape
        if more.get("compute_aux_loss") or any(isinstance(value, torch.Tensor) for value in more.values()):
            return plain(model, ids, mask, kept, batch_size, **more)
        ends = (mask * torch.arange(1, width + 1, device=mask.device)).amax(1).clamp(min=width - kept + 1)
        order, found = ends.argsort(), []
        for part in order.split(max(1, min(batch_size or rows, rows // passes))):
            end = int(ends[part[-1]])
            made = plain(model, ids[part, :end], mask[part, :end], kept - width + end, **more)
            found.append([values if values is None else pad(values, (0, width - end)) for values in made])
        logps, entropies = ([part[k] for part in found] for k in (0, 1))
        back = order.argsort()
        return torch.cat(logps)[back], None if entropies[0] is None else torch.cat(entropies)[back], None

    return call


def training_rows(config: Config, tokenizer: Any, limit: int | None, plan: Schedule | None = None) -> list[dict[str, Any]]:
    """The training set as TRL wants it: prompt messages (stating `limit`, and what the reward wants stated), gold answer, id, and
    the reward's target in tokens where it has one. Too long ones are dropped."""
    known, rows = contamination.training_problems(config), []
    for p in known:
        messages = prompts.training_messages(config.prompts, p.question, limit, plan)
        if len(prompts.encode(tokenizer, messages)) <= config.data.prompt_cap:
            target = plan and plan.reward and plan.reward.target_of(p.question)
            rows.append({"prompt": messages, "answer": p.answer, "id": p.id, "verifier": p.verifier}
                        | ({"target": target} if target else {}))
    if len(rows) < len(known):
        print(f"{len(known) - len(rows)} of {len(known)} training prompts are over {config.data.prompt_cap} tokens: dropped")
    plain = [row for row in rows if not row["verifier"]]
    for line in grading.check_golds([row["answer"] for row in plain], [row["id"] for row in plain]):
        print(f"{config.data.train}: {line}")
    if len(rows) < config.training.prompts_per_step:
        raise KitError(f"{config.file}: training.prompts_per_step is {config.training.prompts_per_step}, "
                       f"but {config.data.train} has {len(rows)} problems (after what was dropped, as told above)")
    return rows


def keep_time(trainer: Any) -> None:
    """Let TRL's log of a step have the seconds of its parts: `seconds/generate`, `seconds/grade`, and `seconds/rollouts`, which
    has both and the reference model's pass over the responses."""
    parts = {"_generate": "generate", "_calculate_rewards": "grade", "_generate_and_score_completions": "rollouts"}

    def timed(plain: Callable[..., Any], part: str, *given: Any) -> Any:
        began = time.perf_counter()
        found = plain(*given)
        trainer._metrics["train"][f"seconds/{part}"].append(time.perf_counter() - began)
        return found

    for method, part in parts.items():
        setattr(trainer, method, functools.partial(timed, getattr(trainer, method), part))


def after_epochs(epochs: int, sampler_of: Callable[..., Any], *given: Any) -> Any:
    """A sampler of `sampler_of` that has drawn the order of so many epochs. TRL's draw an epoch's when it begins, from a
    generator seeded when they are made: a round that is resumed in a later epoch would see the first one's order again."""
    sampler = sampler_of(*given)
    for _ in range(epochs):
        next(iter(sampler))
    return sampler


@contextlib.contextmanager
def failing(config: Config, title: str, trainer: Any = None) -> Iterator[None]:
    """Tell in one line what broke off a training, where, and that it goes on from its last checkpoint."""
    from safetensors import SafetensorError

    passed = (ValueError, TypeError, ImportError, NotImplementedError) if config.training.trl else ()
    try:
        yield
    except KeyboardInterrupt:
        if trainer is None:
            raise
        raise KitError(f"{title}: interrupted after step {trainer.state.global_step}; run this again to go on from the last "
                       "checkpoint") from None
    except (RuntimeError, OSError, SafetensorError, *passed) as error:
        reason = files.first_line(error)
        if isinstance(error, passed):
            raise KitError(f"{title}: {reason}; perhaps by a field of training.trl in {config.file}") from error
        if trainer is None:
            raise
        hint = next((f"; {told}" for found, told in HINTS.items() if re.search(found, reason)), "")
        raise KitError(f"{title}, step {trainer.state.global_step + 1}: {reason}{hint}; run this again to go on from the last "
                       "checkpoint") from error


def grpo_settings(config: Config, folder: Path, limit: int, steps: int, seed: int, **own: Any) -> Any:
    """`GRPOConfig` of a round, with fields of its `own`. A generation batch is prompts_per_step x responses_per_prompt responses
    over all processes. KitError when it refuses a field of `training.trl`."""
    import torch
    from trl import GRPOConfig

    t, half = config.training, config.model.dtype == "bfloat16"
    cuda = torch.cuda.is_available()
    settings = {
        "output_dir": str(folder), "seed": seed, "data_seed": seed, "disable_tqdm": True, "log_level": "error",
        "max_steps": steps, "save_steps": t.checkpoint_every, "save_strategy": "steps",
        "logging_steps": 1, "logging_nan_inf_filter": False,
        "learning_rate": t.learning_rate, "lr_scheduler_type": "constant", "max_grad_norm": t.max_grad_norm,
        "num_generations": t.responses_per_prompt, "per_device_train_batch_size": t.responses_per_pass,
        "gradient_accumulation_steps": t.passes, "steps_per_generation": t.passes, "num_iterations": 1,
        "max_completion_length": limit, "temperature": t.temperature, "top_p": t.top_p, "top_k": 0,
        "epsilon": t.clip_ratio, "beta": t.kl_coefficient, "entropy_coef": t.entropy_coefficient,
        "bf16": half, "use_cpu": not cuda, "dataloader_pin_memory": cuda, "ddp_find_unused_parameters": False,
        "trust_remote_code": config.model.trust_remote_code,
        "model_init_kwargs": {"dtype": "float32" if t.lora_rank is None else config.model.dtype, "use_safetensors": True},
    }
    if t.vllm != "off":
        settings |= {"use_vllm": True, "vllm_mode": t.vllm, "vllm_max_model_length": config.data.prompt_cap + limit}
    with failing(config, "GRPOConfig"):
        return GRPOConfig(**settings | own | trl_fields.fields(config) | trl_fields.passed(config))
