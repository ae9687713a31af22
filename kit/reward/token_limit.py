"""The reward of ThinkPrune, as a TRL reward function (paper, section 3).

    r(y) = 1 if the answer found in the first L tokens of the response y is correct, else 0

No length term, no format term: what is beyond the limit does not exist, and that alone teaches brevity. Truncated
responses stay in the loss; their 0 is the signal.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from kit.reward.grading import Grade, grade_many

ROUNDS = 3  # a loop is so many rounds or more of the same run ...
LENGTH = 24  # ... of so many words or tokens in all
SEEN = 2000  # of the end, which is looked at


class TokenLimitReward:
    """A reward function for `GRPOTrainer`: completion_ids (lists of token ids), the column `answer` (golds) and, where problems
    have one, `verifier` -> list of 0.0 / 1.0.

    Args:
        limit: L, in tokens; longer responses are cut there before grading.
        tokenizer: decodes the token ids that TRL passes as `completion_ids`.
        reading: "official" grades the last box anywhere in those tokens, also in unfinished thinking; "strict" only
            what follows `</think>`; "last-number" also answers without a box (reward/grading).
        ends: token ids that end a response; the tokenizer's EOS if not given."""

    def __init__(self, limit: int, tokenizer: Any, reading: str = "official", ends: set[int] | None = None) -> None:
        self.limit, self.tokenizer, self.reading, self.ends = limit, tokenizer, reading, ends or {tokenizer.eos_token_id}
        self.__name__ = f"token_limit_{limit}"

    def __call__(
        self, completion_ids: Sequence[list[int]], answer: Sequence[str], verifier: Sequence[str] | None = None,
        log_metric: Callable[[str, float], None] | None = None, **_: Any,
    ) -> list[float]:
        _, grades = self.graded([ids[: self.limit] for ids in completion_ids], answer, verifier, log_metric)
        return [float(grade.correct) for grade in grades]

    def graded(
        self, kept: Sequence[list[int]], answer: Sequence[str], verifier: Sequence[str] | None,
        log_metric: Callable[[str, float], None] | None,
    ) -> tuple[list[bool], list[Grade]]:
        """(whether each of these responses ended by itself, its grade). Logs the share of loops, the tokens of the thinking."""
        texts = self.tokenizer.batch_decode(kept, skip_special_tokens=True)
        finished = [bool(ids) and ids[-1] in self.ends for ids in kept]
        if log_metric and kept:
            log_metric("limit", self.limit)
            log_metric("loops", sum(map(ends_in_loop, kept)) / len(kept))
            close = self.tokenizer.convert_tokens_to_ids("</think>")
            if close not in (None, self.tokenizer.unk_token_id):  # else it is no word of this tokenizer
                log_metric("thinking", sum(ids.index(close) + 1 if close in ids else len(ids) for ids in kept) / len(kept))
        return finished, grade_many(texts, list(answer), reading=self.reading, finished=finished, verifiers=verifier)


def ends_in_loop(words: Sequence[Hashable]) -> bool:
    """Whether a response (its token ids, or words) ends in ROUNDS or more rounds of the same ones, LENGTH or more in all; the
    last round may be cut.

    >>> ends_in_loop("so x is 2 . wait".split() + "no , x is 3 . ".split() * 5), ends_in_loop("no , x is 3 .".split() * 2)
    (True, False)
    """
    back = words[: -SEEN - 1 : -1]
    border = [0] * len(back)  # Knuth, Morris and Pratt: the longest proper prefix of back[:i + 1] that is also its suffix
    for i in range(1, len(back)):
        k = border[i - 1]
        while k and back[i] != back[k]:
            k = border[k - 1]
        border[i] = k + (back[i] == back[k])
        if i + 1 >= max(LENGTH, ROUNDS * (i + 1 - border[i])):
            return True
    return False
