"""The messages of each stage, and their rendering with the model's own chat template.

The training prompt has a system message that ends in the token limit; the evaluation prompt has neither, in another wording;
budget forcing has a wording of its own. The wordings are values of the params file. Prompts go wrong in silence where a template
writes the beginning-of-sequence token and the tokenizer adds another (`tokenize` adds none), or where it leaves a message out
(`render` looks for each). Whether the template opens the thinking (`<think>`) or the model does makes no difference here:
thinking is what comes before `</think>`. TRL renders and tokenizes the training prompts by itself, to the same ids as `encode`.
"""

from typing import Any

from kit.settings import Config, KitError, Prompts, Schedule

Messages = list[dict[str, str]]
TAGS = ("<think>", "</think>")


def training_messages(prompts: Prompts, question: str, limit: int | None, plan: Schedule | None = None) -> Messages:
    """System message (with the limit in tokens; None leaves the sentence out; behind it what the schedule's reward wants stated),
    then the question."""
    system = prompts.system
    if limit is not None:
        system += " " + prompts.limit_sentence.replace("{limit}", str(limit))
    if plan and plan.reward and plan.reward.state_target:
        system += " " + plan.reward.state_target.replace("{target}", str(plan.reward.target_of(question)))
    user = prompts.text("train_user").replace("{question}", question)
    if prompts.system_role == "user":
        return [{"role": "user", "content": f"{system}\n\n{user}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def evaluation_messages(prompts: Prompts, question: str, wording: str = "evaluation_user") -> Messages:
    """The question alone, no system message, no limit; budget forcing has a `wording` of its own: forcing_user."""
    return [{"role": "user", "content": prompts.text(wording).replace("{question}", question)}]


def render(tokenizer: Any, messages: Messages) -> str:
    """The prompt as the model reads it, up to where its response begins. Raises KitError when the chat template refuses the
    messages or does not show the whole of each."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise KitError("the model has no chat template (a base model?); put a chat_template.jinja into its folder, or take the "
                       "model that was taught to follow instructions")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        lost = [m for m in messages if m["content"].strip() not in text]
        opened = text.rpartition(messages[-1]["content"].strip())[2].strip() not in ("", tokenizer.eos_token)
        if not lost and opened:
            return text
        fault = "does not open the assistant's turn (add_generation_prompt): every response would begin with the role"
        if lost:
            fault = f"leaves out (part of) the {lost[0]['role']} message, which says: {lost[0]['content'][:60]} …"
    except (TemplateError, ValueError) as error:  # ValueError: there is no template
        fault = f"refuses the messages ({error})"
    remedy = "; say `prompts: {system_role: user}` to put the system message, which states the limit, before the question"
    raise KitError(f"the model's chat template {fault}{remedy if messages[0]['role'] == 'system' else ''}")


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that has its special tokens already; none are added. Raises KitError when a tokenizer does not know a
    word or character of it."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, unknown = found["input_ids"], tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        parts = {text[slice(*at)] for token, at in zip(ids, found["offset_mapping"], strict=True) if token == unknown}
        if words := sorted(parts - {tokenizer.unk_token}):  # in some families it is the beginning token, too
            raise KitError(f"the tokenizer has no token for {', '.join(words)} in the prompt: {text}; word the problems, and "
                           "under `prompts` what stands around them, as the model knows it (the laptop's: params/laptop.yaml)")
    return ids


def encode(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the rendered prompt; KitError as in `render` and `tokenize`, or when the template itself says BOS twice."""
    ids, first = tokenize(tokenizer, render(tokenizer, messages)), tokenizer.bos_token_id
    if first is not None and ids[:2] == [first, first]:
        raise KitError(f"the model's chat template begins with {tokenizer.bos_token} twice; correct its chat_template.jinja")
    return ids


def examples(config: Config, tokenizer: Any, question: str) -> dict[str, str]:
    """One rendered prompt per stage, for the screen and the manifest."""
    words = config.prompts
    first = next(iter(config.schedules.values()))
    limit = first.limits[0] if first.state_limit else None
    forced = render(tokenizer, evaluation_messages(words, question, "forcing_user"))
    return {
        "training": render(tokenizer, training_messages(words, question, limit)),
        "evaluation": render(tokenizer, evaluation_messages(words, question)),
        "budget forcing": f"{forced}[thinking, stopped at the budget]{words.text('forcing_ending')}",
    }
