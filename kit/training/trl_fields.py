"""`training.trl` of a params file: fields of TRL's `GRPOConfig` that are passed through, checked before anything starts; and the
trackers that its `report_to` names.

Trackers get every step's figures from TRL, and what was selected from here: a run of the kit is a project, each of its rounds a
run in it. All stays on this machine unless the user's environment or params say otherwise.
"""

import dataclasses
import difflib
import importlib.util
import os
from typing import Any, get_type_hints

from kit.reward import length_rewards
from kit.runs import paths
from kit.settings import Config, KitError

OURS = {  # key of params: the fields that the kit sets from it
    "run": "output_dir project", "seed": "seed data_seed",
    "schedules": "max_completion_length max_steps num_train_epochs run_name",
    "training.prompts_per_step, responses_per_prompt and micro_batch":
        "num_generations per_device_train_batch_size gradient_accumulation_steps generation_batch_size steps_per_generation "
        "auto_find_batch_size",
    "training.learning_rate": "learning_rate", "training.max_grad_norm": "max_grad_norm",
    "training.temperature": "temperature", "training.top_p": "top_p",
    "training.clip_ratio": "epsilon", "training.kl_coefficient": "beta", "training.entropy_coefficient": "entropy_coef",
    "training.checkpoint_every": "save_strategy save_steps save_total_limit save_only_model save_on_each_node",
    "training.accelerate": "fsdp fsdp_config deepspeed accelerator_config parallelism_config",
    "training.vllm": "use_vllm vllm_mode vllm_max_model_length", "model.trust_remote_code": "trust_remote_code",
    "model.dtype": "bf16 fp16 use_cpu model_init_kwargs",
    "selection": "do_eval eval_strategy eval_steps eval_on_start load_best_model_at_end metric_for_best_model",
    "watch, which reads a row of log.csv for every step":
        "logging_strategy logging_steps logging_first_step logging_nan_inf_filter disable_tqdm",
    "nothing: the same call resumes": "resume_from_checkpoint ignore_data_skip",
    "nothing: no model is published, and no token belongs into params": "push_to_hub hub_token hub_model_id hub_strategy",
}
# Fields that say where, and in which pieces, a round is worked out: its outcome is the same.
PLACES = ("gradient_checkpointing", "ddp_timeout", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size",
          "vllm_enable_sleep_mode", "vllm_server_host", "vllm_server_port", "report_to", "trackio_space_id", "trackio_bucket_id",
          "trackio_static_space_id")


def defaults(config: Config) -> dict[str, Any]:
    """Fields of `GRPOConfig` for which the kit has a default of its own, the official one where there is one.
    `vllm_importance_sampling_correction` is on in TRL: it drops responses whose probabilities, a product over all tokens, differ
    too much between trainer and vLLM: long ones first. The paper's code has no such thing."""
    return {
        "loss_type": "bnpo", "weight_decay": 0.01, "scale_rewards": "group", "mask_truncated_completions": False,
        "use_bias_correction_kl": False, "gradient_checkpointing": config.model.dtype == "bfloat16", "ddp_timeout": 3600,
        "report_to": "none", "vllm_gpu_memory_utilization": 0.3, "vllm_tensor_parallel_size": 1,
        "vllm_enable_sleep_mode": config.training.vllm == "colocate", "vllm_server_host": "127.0.0.1", "vllm_server_port": 8000,
        "vllm_importance_sampling_correction": False,
    }


def fields(config: Config) -> dict[str, Any]:
    """The `defaults`, and the fields of `training.trl`, which go before."""
    return defaults(config) | config.training.trl


def check(config: Config) -> None:
    """KitError for what a round would be refused for: the setting of a length reward, or a field of `training.trl`."""
    length_rewards.check(config)
    passed(config)


def passed(config: Config) -> dict[str, Any]:
    """The fields and their values, of the types that `GRPOConfig` gives them; TRL, which takes seconds, is imported only for
    fields that are not known from the kit's own defaults. KitError when a field does not exist, is set from another key of
    params, or has a value of the wrong type."""
    given, own = config.training.trl, defaults(config)
    if all(type(value) is type(own.get(name)) for name, value in given.items()):
        return given
    from pydantic import TypeAdapter, ValidationError
    from trl import GRPOConfig

    elsewhere = {name: key for key, names in OURS.items() for name in names.split()}
    types = get_type_hints(GRPOConfig)
    known = {field.name for field in dataclasses.fields(GRPOConfig) if field.init} - set(elsewhere)
    found, wrong = {}, []
    for name, value in given.items():
        if name in elsewhere:
            wrong.append(f"{name} is set by the kit, from {elsewhere[name]}")
        elif name not in known:
            close = difflib.get_close_matches(name, known, 1)
            wrong.append(f"{name} is no field of TRL's GRPOConfig" + (f"; did you mean {close[0]}?" if close else ""))
        else:
            try:
                found[name] = TypeAdapter(types[name]).validate_python(value)
            except ValidationError as error:
                wrong.append(f"{name} is {value!r}; {error.errors()[0]['msg']}")
    if wrong:
        raise KitError(f"{config.file}: training.trl: {'. '.join(wrong)}")
    return found


def trackers(config: Config) -> list[str]:
    """The trackers that `training.trl.report_to` names."""
    given = fields(config)["report_to"] or "none"
    return [name for name in ([given] if isinstance(given, str) else given) if name != "none"]


def begin_trackers(config: Config, schedule: str, round: int) -> dict[str, str]:
    """Name the round to its trackers, and where to write; the fields of `GRPOConfig` that do. KitError where one is missing."""
    title, place = f"{schedule}-round{round}", str(paths.of(config).trackers)  # trackio writes to its usual folder
    for name in trackers(config):
        if name in ("tensorboard", "trackio", "wandb") and importlib.util.find_spec(name) is None:
            raise KitError(f"{config.file}: training.trl.report_to names {name}, which is not installed; pip install {name}")
        os.makedirs(place, exist_ok=True)
        os.environ |= {"TENSORBOARD_LOGGING_DIR": f"{place}/{title}", "WANDB_RUN_ID": f"{config.run}-{title}",
                       "WANDB_RESUME": "allow", "WANDB_PROJECT": config.run}
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": place} | os.environ
    return {"project": config.run, "run_name": title}


def log_to_trackers(config: Config, schedule: str, round: int, figures: dict[str, float]) -> None:
    """Add figures to what the round's trackers have, behind its last step."""
    title = begin_trackers(config, schedule, round)["run_name"]
    how: dict[str, dict[str, Any]] = {
        "tensorboard": {"run_name": title, "logging_dir": paths.of(config).trackers},
        "trackio": {"run_name": config.run, "name": title, "resume": "allow", "embed": False},
        "wandb": {"run_name": config.run, "name": title}}
    for name in how.keys() & trackers(config):
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # their log asks which process this is; the round may have been trained in others
        tracker = LOGGER_TYPE_TO_CLASS[name](**how[name])
        tracker.start()
        tracker.log(figures)
        tracker.finish()


def dashboard(config: Config) -> None:
    """Show trackio's dashboard of this run in the notebook, from this machine alone; nothing where params do not name trackio."""
    if "trackio" in trackers(config):
        import trackio

        trackio.show(config.run, open_browser=False, block_thread=False, share=False)
