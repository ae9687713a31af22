"""Rewards for brevity, one small function each, so that they can be compared under one recipe. `METHODS` has them by name.

    f(correct, lengths, target, weight=…) -> rewards        of one group: the responses to one prompt

`correct` are booleans, `lengths` tokens of whole responses (thinking and answer), `target` is T in tokens. A function that needs
more asks for it by name: `finished` (the response ended by itself, within the generation cap), `boxed` (it gave an answer at
all). Other arguments are settings, with the authors' values. In formulas L is a length, c is 1 or 0.

Two things that a comparison must respect. Where all of a group are correct, division by the group's std (`scale="group"`) cancels
the weight of a length term: 0.05 and 0.4 give the same advantages. And penalties on wrong responses pay for being short without
being right; these are the ones that collapse. Formulas and values are those of the authors' code, or of the paper (P).
"""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from kit.reward.token_limit import TokenLimitReward
from kit.settings import Config, KitError, Reward, Training

Flags = Sequence[bool]
Lengths = Sequence[int]
Rewards = list[float]


def none(correct: Flags, lengths: Lengths, target: float) -> Rewards:
    """c. Correctness alone, the control: also such RL shortens (by 21 to 25 %, LAPO, arXiv 2507.15758)."""
    return [float(c) for c in correct]


def token_limit(correct: Flags, lengths: Lengths, target: float) -> Rewards:
    """c if the answer lies in the first T tokens, else 0 (ThinkPrune, arXiv 2504.01296).
    DLER is this with another recipe. Its advantages are whitened over the batch's tokens; `batch` is near, not equal."""
    return [float(c and n <= target) for c, n in zip(correct, lengths, strict=True)]


def arora_zanette(correct: Flags, lengths: Lengths, target: float, weight: float = 0.1, *, finished: Flags) -> Rewards:
    """c (1 - a sigmoid((L - m) / (s + 1e-7))), m and s (ddof 0) over the correct ones of the group (Arora and Zanette).
    Their weights a are 0.05, 0.1, 0.2 and 0.4. A response without its end token earns 0, and here does not count in m and s.
    Their RLOO has no std, with which the weight would be lost; it is our `none` times G / (G - 1)."""
    right = np.array(correct) & np.array(finished)
    n = np.array(lengths, dtype=float)
    m, s = (n[right].mean(), n[right].std()) if right.any() else (0.0, 0.0)
    return np.where(right, 1 - weight * expit((n - m) / (s + 1e-7)), 0.0).tolist()


def laser(correct: Flags, lengths: Lengths, target: float, weight: float = 0.5, *, boxed: Flags) -> Rewards:
    """base + a [c and L <= T]; base 1 if correct, -0.5 if wrong, -1 without a box (LASER). T 2048, 4096, 8192 of a cap of 16384.
    A long correct response keeps its 1: the step is milder than the limit's."""
    return [1 + weight * (n <= target) if c else -0.5 if box else -1.0
            for c, n, box in zip(correct, lengths, boxed, strict=True)]


def l1_exact(correct: Flags, lengths: Lengths, target: float, weight: float = 3e-4) -> Rewards:
    """c - a |L - T|, T per prompt from 100 to 4000 and stated: "Think for T tokens." (L1's LCPO-Exact).
    Wrong responses are penalized for their length as well. a is per token: for lengths of another order choose another."""
    return [c - weight * abs(n - target) for c, n in zip(correct, lengths, strict=True)]


def l1_max(correct: Flags, lengths: Lengths, target: float, weight: float = 3e-4) -> Rewards:
    """c clip(a (T - L) + 0.5, 0, 1), stated: "Think for maximum T tokens." (L1's LCPO-Max, P).
    The code has half of this slope, and its published script does not run."""
    return [c * min(max(weight * (target - n) + 0.5, 0.0), 1.0) for c, n in zip(correct, lengths, strict=True)]


def soft_overlong(correct: Flags, lengths: Lengths, target: float, weight: float = 1.0, buffer: float | None = None) -> Rewards:
    """c + a {0 up to T - B; (T - B - L) / B; -1 beyond T} (DAPO, equation 13; TRL's `get_soft_overlong_punishment`).
    T 20480, B 4096; B is T / 5 where `buffer` does not say. T is the generation cap there: where it is, -1 is its end."""
    width = target / 5 if buffer is None else buffer
    return [c + weight * (min(0.0, (target - width - n) / width) if n <= target else -1.0)
            for c, n in zip(correct, lengths, strict=True)]


def cosine(
    correct: Flags, lengths: Lengths, target: float, weight: float = 1.0, correct_long: float = 1.0, wrong_short: float = -10.0,
    wrong_long: float = 0.0, over: float = -10.0, *, finished: Flags,
) -> Rewards:
    """long + (short - long) / 2 (1 + cos(pi L / T)): from 2 to 1 if correct, from -10 to 0 if wrong; -10 over the cap
    (arXiv 2502.03373; TRL's `get_cosine_scaled_reward`, whose values are other and which has no value over the cap).
    `weight` is what the shortest correct response has above the longest, T the length at which the curve ends. open-r1's version
    counts characters. It was made for PPO, to which `batch` is nearest."""
    bounds = [(correct_long + weight, correct_long) if c else (wrong_short, wrong_long) for c in correct]
    return [long + (short - long) / 2 * (1 + math.cos(math.pi * min(n / target, 1.0))) if end else over
            for (short, long), n, end in zip(bounds, lengths, finished, strict=True)]


def kimi(correct: Flags, lengths: Lengths, target: float, weight: float = 0.4) -> Rewards:
    """c + a l if correct, c + a min(0, l) if wrong; l = 0.5 - (L - min L) / (max L - min L) over all of the group (Kimi k1.5, P).
    0 where all are of one length. a is Laser's value; the paper switches the term on after a warm-up."""
    short, span = min(lengths), max(lengths) - min(lengths)
    terms = [0.5 - (n - short) / span if span else 0.0 for n in lengths]
    return [c + weight * (term if c else min(0.0, term)) for c, term in zip(correct, terms, strict=True)]


def pass_rate_linear(correct: Flags, lengths: Lengths, target: float, weight: float = 0.25) -> Rewards:
    """c - p a L / max L of the group, p the share of correct ones (prime-rl; ALP is like it): easy prompts pay more for length.
    Wrong responses pay, too."""
    price = weight * sum(correct) / len(correct) / max(1, *lengths)
    return [c - price * n for c, n in zip(correct, lengths, strict=True)]


def gr3(correct: Flags, lengths: Lengths, target: float, weight: float = 0.33) -> Rewards:
    """c / (1 + a L / mean L of the group) (GR3, P). Wrong responses earn 0 at any length."""
    mean = sum(lengths) / len(lengths) or 1
    return [c / (1 + weight * n / mean) for c, n in zip(correct, lengths, strict=True)]


def shorter_better(correct: Flags, lengths: Lengths, target: float, weight: float = 1e-3, worth: float = 2.0) -> Rewards:
    """b c - a |L - L*|, L* the shortest correct one of the group, their mean length if none is (ShorterBetter); b is `worth`.
    Wrong responses are drawn to L* as well. a is per token: for lengths of another order choose another."""
    best = min((n for c, n in zip(correct, lengths, strict=True) if c), default=sum(lengths) / len(lengths))
    return [worth * c - weight * abs(n - best) for c, n in zip(correct, lengths, strict=True)]


# --- by name, with what goes with each --------------------------------------------------------------------------------


class Method(NamedTuple):
    """A function, its own normalization (TRL's `scale_rewards`) and its paper's optimizer settings, by their keys of `training`
    or TRL's. `grouped`: it compares responses of a group; `cuts`: what lies beyond the target is neither graded nor counted."""

    function: Callable[..., Rewards]
    scale: str
    grouped: bool = False
    cuts: bool = False
    recipe: Mapping[str, Any] = {}


METHODS = {
    "none": Method(none, "group"),
    "token_limit": Method(token_limit, "group", cuts=True, recipe={
        "clip_ratio": 0.2, "kl_coefficient": 1e-3, "temperature": 1.0}),
    "dler": Method(token_limit, "batch", cuts=True, recipe={
        "clip_ratio": 0.2, "epsilon_high": 0.28, "kl_coefficient": 5e-4, "drop_groups": True}),
    "arora_zanette": Method(arora_zanette, "none", grouped=True),
    "laser": Method(laser, "group", recipe={
        "clip_ratio": 0.2, "epsilon_high": 0.28, "kl_coefficient": 1e-3, "temperature": 0.6}),
    "l1_exact": Method(l1_exact, "group"),
    "l1_max": Method(l1_max, "group"),
    "soft_overlong": Method(soft_overlong, "group", recipe={
        "clip_ratio": 0.2, "epsilon_high": 0.28, "kl_coefficient": 0.0, "drop_groups": True}),
    "cosine": Method(cosine, "batch"),
    "kimi": Method(kimi, "none", grouped=True),
    "pass_rate_linear": Method(pass_rate_linear, "none", grouped=True),
    "gr3": Method(gr3, "group", grouped=True),
    "shorter_better": Method(shorter_better, "group", grouped=True),
}
FACTS = ("finished", "boxed")  # what a function may ask for beside its settings

# --- in a training ----------------------------------------------------------------------------------------------------


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The settings of a method with their values, `weight` first where it has one."""
    own = list(inspect.signature(function).parameters.values())[3:]
    return {p.name: p.default for p in own if p.name not in FACTS}


def check(config: Config) -> None:
    """KitError for a reward that there is not, a setting it does not have, or processes that would tear its groups."""
    t, wrong = config.training, []
    for name, plan in config.schedules.items():
        reward, where = plan.reward or Reward(), f"{config.file}: schedules.{name}.reward"
        if (found := METHODS.get(reward.name)) is None:
            close = difflib.get_close_matches(reward.name, METHODS, 1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(METHODS)}"
            wrong.append(f"{where}.name: no reward is called {reward.name}; {meant}")
            continue
        if reward.recipe == "own" and not found.recipe:
            wrong.append(f"{where}.recipe: of {reward.name} no recipe of its own is known; leave it out")
        known = settings_of(found.function)
        wrong += [f"{where}: {reward.name} has no {key}; it has {', '.join(known) or 'no settings'}"
                  for key in ("weight",) * (reward.weight is not None) + tuple(reward.settings) if key not in known]
        alike = found.grouped or reward.targets  # a group has one target
        whole = "dropping groups" if training_of(t, plan.reward).drop_groups else reward.name if alike else ""
        if whole and t.responses_per_process % t.responses_per_prompt:
            wrong.append(f"{where}: {whole} needs whole groups, but training.processes ({t.processes}) tears them; "
                         f"training.prompts_per_step ({t.prompts_per_step}) should be a multiple of it")
    if wrong:
        raise KitError(*wrong)


def training_of(t: Training, reward: Reward | None) -> Training:
    """The training settings of a schedule: the run's, with its reward's own normalization unless `training.trl` says another, and
    with its paper's optimizer settings where `recipe: own` asks for them."""
    if reward is None:
        return t
    found = METHODS[reward.name]
    own = found.recipe if reward.recipe == "own" else {}
    ours = {key: value for key, value in own.items() if hasattr(t, key)}
    trl = {"scale_rewards": found.scale, **t.trl, **{key: value for key, value in own.items() if key not in ours}}
    if reward.scale_rewards:
        trl["scale_rewards"] = reward.scale_rewards
    return dataclasses.replace(t, **ours, trl=trl)


def rewards_of(
    reward: Reward, correct: Flags, lengths: Lengths, target: float, finished: Flags | None = None, boxed: Flags | None = None
) -> Rewards:
    """The rewards of one group, by the method and the settings that params name. All are finished and boxed if not given."""
    function = METHODS[reward.name].function
    given = {**reward.settings, **({} if reward.weight is None else {"weight": reward.weight})}
    facts = {"finished": finished, "boxed": boxed}
    asked = {name: facts[name] or [True] * len(correct) for name in FACTS if name in inspect.signature(function).parameters}
    return function(correct, lengths, target, **given, **asked)


def advantages(groups: Sequence[Sequence[float]], scale: str) -> np.ndarray:
    """The advantages of a batch of groups, as TRL works them out: r - mean of the group, over the std (ddof 1) of the group or of
    the batch + 1e-4, or over nothing (`none`)."""
    rewards = np.array(groups, dtype=float)
    spread = {"group": rewards.std(axis=1, ddof=1, keepdims=True), "batch": rewards.std(ddof=1), "none": 1 - 1e-4}[scale]
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (spread + 1e-4)


class LengthReward(TokenLimitReward):
    """A TRL reward function: completion_ids, the columns `answer` (golds) and `target` (tokens) -> rewards, group by group.

    `size`: responses to a prompt, which follow each other; `steps`: of the round, over which a target falls to `target_to`."""

    def __init__(self, reward: Reward, limit: int, tokenizer: Any, reading: str, ends: set[int], size: int, steps: int) -> None:
        super().__init__(limit, tokenizer, reading, ends)
        self.reward, self.size, self.steps = reward, size, steps
        self.__name__ = reward.name

    def __call__(
        self, completion_ids: Sequence[list[int]], answer: Sequence[str], verifier: Sequence[str] | None = None,
        target: Sequence[int] = (), trainer_state: Any = None, log_metric: Callable[[str, float], None] | None = None, **_: Any,
    ) -> Rewards:
        targets = list(target) or [self.reward.target or self.limit] * len(completion_ids)
        if self.reward.target_to is not None:
            done = trainer_state.global_step / max(self.steps - 1, 1)
            targets = [round(n + (self.reward.target_to - n) * done) for n in targets]
        cuts = METHODS[self.reward.name].cuts
        kept = [ids[: min(self.limit, n) if cuts else self.limit] for ids, n in zip(completion_ids, targets, strict=True)]
        finished, grades = self.graded(kept, answer, verifier, log_metric)
        found: list[float] = []
        for i in range(0, len(kept), self.size):
            group = slice(i, i + self.size)
            found += rewards_of(
                self.reward, [g.correct for g in grades[group]], [len(ids) for ids in kept[group]], targets[i], finished[group],
                [g.verdict != "no answer" for g in grades[group]])
        if log_metric and kept:
            log_metric("right", sum(g.correct for g in grades) / len(grades))
        return found
