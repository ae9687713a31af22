"""`training.trl` of a params file: fields of TRL's `GRPOConfig` that are passed through, checked before anything starts."""

import dataclasses
import difflib
from typing import Any, get_type_hints

from kit.settings import Config, KitError

OURS = {  # key of params: the fields that the kit sets from it
    "run": "output_dir project",
    "seed": "seed data_seed",
    "schedules": "max_completion_length max_steps num_train_epochs run_name",
    "training.prompts_per_step, responses_per_prompt and micro_batch":
        "num_generations per_device_train_batch_size gradient_accumulation_steps generation_batch_size steps_per_generation "
        "auto_find_batch_size",
    "training.learning_rate": "learning_rate",
    "training.max_grad_norm": "max_grad_norm",
    "training.temperature": "temperature",
    "training.top_p": "top_p",
    "training.clip_ratio": "epsilon",
    "training.kl_coefficient": "beta",
    "training.entropy_coefficient": "entropy_coef",
    "training.checkpoint_every": "save_strategy save_steps save_total_limit save_only_model save_on_each_node",
    "training.accelerate": "fsdp fsdp_config deepspeed accelerator_config parallelism_config",
    "training.vllm": "use_vllm vllm_mode vllm_max_model_length",
    "model.dtype": "bf16 fp16 use_cpu model_init_kwargs",
    "model.trust_remote_code": "trust_remote_code",
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


def fields(config: Config) -> dict[str, Any]:
    """Fields of `GRPOConfig` for which the kit has a default of its own, the official one where there is one, and those of
    `training.trl`, which go before.

    `vllm_importance_sampling_correction` is on in TRL: it drops responses whose probabilities, a product over all tokens, differ
    too much between trainer and vLLM: long ones first. The paper's code has no such thing.
    """
    return {
        "loss_type": "bnpo", "weight_decay": 0.01, "scale_rewards": "group", "mask_truncated_completions": False,
        "use_bias_correction_kl": False, "gradient_checkpointing": config.model.dtype == "bfloat16", "ddp_timeout": 3600,
        "report_to": "none",
        "vllm_gpu_memory_utilization": 0.3, "vllm_tensor_parallel_size": 1,
        "vllm_enable_sleep_mode": config.training.vllm == "colocate", "vllm_server_host": "127.0.0.1", "vllm_server_port": 8000,
        "vllm_importance_sampling_correction": False,
    } | config.training.trl


def passed(config: Config) -> dict[str, Any]:
    """The fields and their values, of the types that `GRPOConfig` gives them; TRL is not imported when there are none.

    KitError when a field does not exist, is set from another key of params, or has a value of the wrong type.
    """
    given = config.training.trl
    if not given:
        return {}
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
