"""When a response ends in a loop: one definition, for token ids (training) and for words (behavior)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

ROUNDS = 3  # or more rounds of the same run ...
LENGTH = 24  # ... of so many words or tokens in all
SEEN = 2000  # of the end, which is looked at


def ends_in_loop(words: Sequence[Hashable]) -> bool:
    """Whether a response ends in ROUNDS or more rounds of the same words, LENGTH or more in all (the last round may be cut).

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
