"""What types cannot say of settings: what the keys say of each other."""

import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from kit.settings.defaults import folder_of, told_window
from kit.settings.schema import Config

# What metrics/ has besides a table per model.
TABLES = {
    "main", "changes", "training", "validation", "spend", "spend_gaps", "caps", "efficiency", "per_problem", "one_shot",
    "controls", "forcing", "forcing_gaps", "keywords", "words", "phases", "phases_judge", "first_answer", "repetition",
    "percentiles", "moves", "perplexity", "seeds", "seeds_combined", "frontier", "volumes", "reward_pairs", "spans", "inverted_u",
}


def problems_of(config: Config) -> Iterator[str]:
    """Every problem of these settings, each naming its keys and what would be right; none when they are fine."""
    yield from _names(config)
    yield from _training(config)
    judge, reference = config.behavior.judge, config.behavior.reference
    if judge.url and not judge.model:
        yield "`behavior.judge.model` is missing: which model should the endpoint use?"
    if reference == "trained" and (config.model.source != "arithmetic" or config.logs.models and not config.schedules):
        yield "`behavior.reference` is trained: that is for the laptop's language; name a model"
    if config.schedules or not config.logs.models:  # else nothing is trained and no model is asked
        yield from _schedules(config)
        yield from _prompts_and_forcing(config)
        yield from _model(config)


def _names(config: Config) -> Iterator[str]:
    """Of data sets, of models that are known by their logs, and of seeds' runs."""
    data, logs = config.data, config.logs
    sets = [name for name in (data.train, data.validation, *data.evaluation) if name]
    shown = [config.set_labels.get(name, name) for name in dict.fromkeys(data.evaluation)]
    called = [logs.labels.get(model, model) for model in logs.models]
    for told, names in (("`data` names a set twice", sets), ("`set_labels` calls two sets of data.evaluation the same", shown),
                        ("`logs.labels` calls two models the same", called)):
        if len(set(names)) < len(names):
            yield f"{told}: {', '.join(names)}"
    for name, source in data.sources.items():
        if bool(source.reasoning_gym) == bool(source.hub):
            yield f"`data.sources.{name}` should have either `reasoning_gym`, a task, or `hub`, the id of a data set"
    for name in set(data.files) - set(sets):  # others may be meant for a file that extends this one
        if close := difflib.get_close_matches(name, set(sets) - set(data.files), 1, 0.9):
            yield f"`data.files.{name}` is no set of this run; did you mean {close[0]}?"
    if "mean" in sets:
        yield "`data`: a set cannot be called mean, which is what the mean over the sets is called"
    for key, named in (("evaluation.samples_by_set", config.evaluation.samples_by_set),
                       ("behavior.reference_sets", config.behavior.reference_sets)):
        if others := sorted(set(named) - set(data.evaluation)):
            yield f"`{key}`: {', '.join(others)} is not in data.evaluation"
    if logs.models and "base" not in logs.models and not config.schedules:
        yield "`logs.models` has no `base`; the others are compared with it"
    rounds = [name.replace("/", "-") for name in rounds_of(config)[1:]]  # whose tables in metrics/ are called so
    for model, files in logs.models.items():
        if model in {*config.schedules, *TABLES, *rounds}:
            yield f"`logs.models.{model}`: a schedule or a table in metrics/ is called so; call the model something else"
        if wrong := sorted(set(files) ^ set(data.evaluation)):
            yield f"`logs.models.{model}` should name a log for each set of data.evaluation, and no other: {', '.join(wrong)}"
    for model in set(logs.labels) - set(logs.models):
        yield f"`logs.labels.{model}` is not in logs.models"
    yield from _unknown("behavior.pairs", config.behavior.pairs, dict.fromkeys([*rounds_of(config), *logs.models]))
    if len({config.seed, *config.seeds}) <= len(config.seeds):
        yield (f"`seeds` is {list(config.seeds)}; should be other seeds than `seed` ({config.seed}, the run {config.run} "
               "itself), each once")


def _unknown(key: str, named: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    for name in set(named).difference(known):
        yield f"`{key}` names {name}; there are {', '.join(known)}"


def rounds_of(config: Config) -> list[str]:
    """The models of the schedules, by their names in the run; the base model first."""
    return ["base", *(f"{name}/round{k}" for name, plan in config.schedules.items() for k in range(1, len(plan.limits) + 1))]


def _training(config: Config) -> Iterator[str]:
    """How a step's responses are shared out among processes, and by whom they are written."""
    t, batch = config.training, config.training.prompts_per_step * config.training.responses_per_prompt
    if batch % t.processes:
        yield (f"`training.processes` is {t.processes}; should divide the {t.prompts_per_step} prompts x "
               f"{t.responses_per_prompt} responses = {batch} of a step")
    if t.vllm != "off" and t.trl.get("vllm_importance_sampling_correction") and t.top_p < 1:
        yield (f"`training.top_p` is {t.top_p}; with vLLM's correction it should be 1: below it vLLM's probabilities are those "
               "of a cut distribution, and their ratio to the trainer's is biased")
    if t.trl.get("loss_type", "bnpo") == "bnpo" and t.responses_per_pass < min(t.micro_batch, t.responses_per_process):
        yield (f"`training.micro_batch` is {t.micro_batch}; should divide the {t.responses_per_process} responses of a process: "
               "the loss is the token mean of each pass (training: {trl: {loss_type: dapo}} takes that of the whole step)")
    if t.processes % t.machines:
        yield f"`training.machines` is {t.machines}; should divide processes = {t.processes}"


def _schedules(config: Config) -> Iterator[str]:
    if not config.schedules:
        yield "`schedules` is empty; name at least one, e.g. iterative: {limits: [4000, 3000, 2000]}"
    if not config.data.train or not config.data.validation:
        yield "`data.train` and `data.validation` should each name a data set"
    if "base" in config.schedules:
        yield "`schedules.base`: this name is kept for the base model"
    called: dict[str, str] = {}
    for name, schedule in config.schedules.items():
        for limit in schedule.limits:
            label = (schedule.label or name) + (f", {limit}" if schedule.state_limit else "")
            if called.setdefault(label, name) != name:
                yield f"`schedules.{name}` and {called[label]} have a model of one name, {label}; give one another `label`"
        if any(a <= b for a, b in pairwise(schedule.limits)):
            yield f"`schedules.{name}.limits` is {list(schedule.limits)}; limits should fall from round to round"
        steps = schedule.steps or config.training.steps
        every = schedule.checkpoint_every or config.training.checkpoint_every
        if steps < every:
            yield f"`schedules.{name}.steps` is {steps}, checkpoint_every {every}: no checkpoint would be saved"
        if r := schedule.reward:
            for key, n in (("target", r.target), ("target_to", r.target_to), ("targets", max(r.targets or (0,)))):
                if n and n > schedule.limits[-1]:
                    yield f"`schedules.{name}.reward.{key}` is {n}; up to {schedule.limits[-1]} tokens are generated (`limits`)"
            if r.targets and (r.target or r.targets[0] > r.targets[1]):
                yield f"`schedules.{name}.reward`: `targets` are two, the smaller one first, and stand in place of `target`"
            if r.state_target and not (r.target or r.targets) or r.target_to and (not r.target or r.state_target):
                yield (f"`schedules.{name}.reward`: `state_target` and `target_to` need a `target`, and one that changes cannot "
                       "be stated")
        if schedule.compare_with not in {None, *config.schedules} - {name}:
            yield f"`schedules.{name}.compare_with` is {schedule.compare_with}; should be another schedule's name"


def _prompts_and_forcing(config: Config) -> Iterator[str]:
    p, f = config.prompts, config.forcing
    if p is None:
        yield "`prompts` is missing"
    else:
        named = f" or name one of prompts.wordings ({', '.join(p.wordings)})" if p.wordings else ""
        for key in ("train_user", "evaluation_user", "forcing_user"):
            if "{question}" not in p.text(key):
                yield f"`prompts.{key}` should contain {{question}}{named}"
        if not p.text("forcing_ending").strip():
            yield f"`prompts.forcing_ending` is empty; should make the model answer, like </think> The final answer is{named}"
    if any(a >= b for a, b in pairwise(f.budgets)):
        yield f"`forcing.budgets` is {list(f.budgets)}; each should be larger than the one before"
    yield from _unknown("forcing.models", config.forced_models, rounds_of(config))
    if f.budgets and not f.models:
        yield "`forcing.models` is empty; name at least base, or leave `forcing.budgets` empty"


def _model(config: Config) -> Iterator[str]:
    """The base model is there; the laptop's can hold and say what the other keys ask of it."""
    source, a, f = config.model.source, config.arithmetic, config.forcing
    there = source.strip() and folder_of(source).is_dir() or config.model.shape  # with a shape it can be planned for
    if not there and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
        yield f"`model.source` is {source!r}; there is no such folder, and a hub id is `owner/name`"
    longest = max([config.evaluation.max_new_tokens, *(n for s in config.schedules.values() for n in s.limits)])
    if source != "arithmetic":
        if there and (window := told_window(source)) and config.data.prompt_cap + longest > window:
            yield (f"`model.source`: {source} can take {window} tokens; `data.prompt_cap` ({config.data.prompt_cap}) and the "
                   f"longest response ({longest}, by `evaluation.max_new_tokens` or `schedules`) are more")
        return
    if longest + 64 > a.max_length:
        yield (f"`arithmetic.max_length` is {a.max_length}; a prompt (64 tokens) and the longest response ({longest} tokens, by "
               "`evaluation.max_new_tokens` or `schedules`) do not fit into it")
    if f.budgets and max(f.budgets) + f.answer_tokens > a.max_length - 150:
        yield (f"`forcing`: largest budget + answer_tokens exceed {a.max_length - 150} tokens (what arithmetic.max_length leaves "
               "beside the prompt and the ending)")
    if a.hidden_size % (2 * a.heads) or a.heads % a.key_value_heads:
        yield "`arithmetic.hidden_size` should be a multiple of twice `heads`, and `heads` of `key_value_heads`"
    stated = [n for s in config.schedules.values() if s.state_limit for n in s.limits]
    stated += [n for s in config.schedules.values() if s.reward and s.reward.state_target
               for n in s.reward.targets or (s.reward.target or 0,)]
    if bad := [n for n in stated if n > 600 or n > 100 and n % 10]:
        yield f"`schedules`: the laptop model has no word for the limit {bad}; up to 100, or tens up to 600"
    for name in (config.data.train, config.data.validation, *config.data.evaluation):
        if name and name not in a.operations:
            own = "; for problems in other words take another model (python -m kit new)" * (name in config.data.files)
            yield f"`arithmetic.operations.{name}` is missing; should list numbers of operations between 1 and 6{own}"
