"""The messages of each stage, and their rendering with the model's own chat template.

The training prompt has a system message that ends in the token limit; the evaluation prompt has neither, and its wording is
another one; budget forcing has a wording of its own. The wordings are values of the params file, not of this module.

Ways for a prompt to go wrong in silence, and what is done about each:

- the template writes the beginning-of-sequence token and the tokenizer adds another: `tokenize` adds none;
- the template leaves a system message out, or cuts an earlier answer at `</think>`: `render` looks for every message;
- some templates already open the thinking (`<think>`) and some leave that to the model: nothing here needs the opening tag,
  thinking is what comes before `</think>`;
- a tokenizer counts `</think>` among its special tokens, so that decoding would drop it: `rollout.models.load_tokenizer`
  makes it a word;
- AutoTokenizer goes by the model's type and may put other rules over those of tokenizer.json: that file is read as it is.

TRL renders and tokenizes the training prompts itself, by the tokenizer's `apply_chat_template`: the same ids as `encode`.
"""

from __future__ import annotations

from typing import Any

from kit.settings import Config, KitError, Prompts

Messages = list[dict[str, str]]
TAGS = ("<think>", "</think>")


def training_messages(prompts: Prompts, question: str, limit: int | None) -> Messages:
    """System message (with the limit in tokens; None leaves the sentence out), then the question."""
    system = prompts.system
    if limit is not None:
        system += " " + prompts.limit_sentence.replace("{limit}", str(limit))
    user = prompts.text("train_user").replace("{question}", question)
    if prompts.system_role == "user":
        return [{"role": "user", "content": f"{system}\n\n{user}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def evaluation_messages(prompts: Prompts, question: str) -> Messages:
    """The question alone: no system message, no limit."""
    return [{"role": "user", "content": prompts.text("evaluation_user").replace("{question}", question)}]


def forcing_messages(prompts: Prompts, question: str) -> Messages:
    """Budget forcing's prompt: the question in its own wording, no system message."""
    return [{"role": "user", "content": prompts.text("forcing_user").replace("{question}", question)}]


def forcing_ending(tokenizer: Any, prompts: Prompts) -> list[int]:
    """Token ids to put behind thinking that was stopped, before the model is let to answer.

    They continue the ids of prompt and thinking. Never render such a response as an assistant message: DeepSeek's and QwQ's
    templates cut everything before `</think>` out of it.
    """
    return tokenize(tokenizer, prompts.text("forcing_ending"))


def render(tokenizer: Any, messages: Messages) -> str:
    """The prompt as the model reads it, up to where its response begins.

    Raises KitError when the chat template refuses the messages or does not show the whole of each.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError) as error:  # ValueError: there is no template
        raise KitError(f"the model's chat template refuses the messages ({error}){_remedy(messages)}") from None
    for message in messages:
        if message["content"].strip() not in text:
            raise KitError(f"the model's chat template leaves out (part of) the {message['role']} message, "
                           f"which says: {message['content'][:60]} …{_remedy(messages)}")
    return text


def _remedy(messages: Messages) -> str:
    if messages[0]["role"] != "system":
        return ""
    return "; say `prompts: {system_role: user}` to put the system message, which states the limit, before the question"


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that has its special tokens already; none are added.

    Raises KitError when a word-level tokenizer does not know a word of it.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        known = tokenizer.get_vocab()
        words = [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) if word not in known]
        raise KitError(f"the tokenizer has no token for {', '.join(sorted(set(words)))} in the prompt: {text}")
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
    forced = render(tokenizer, forcing_messages(words, question))
    return {
        "training": render(tokenizer, training_messages(words, question, limit)),
        "evaluation": render(tokenizer, evaluation_messages(words, question)),
        "budget forcing": f"{forced}[thinking, stopped at the budget]{words.text('forcing_ending')}",
    }
