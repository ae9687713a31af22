"""Keywords are counted as whole words and phrases, longest match first."""

from __future__ import annotations

import dataclasses

import pytest

from kit import behavior
from kit.config import Config
from kit.rollout import Rollout

HESITATION = ("wait", "but wait", "alternatively", "double-check")


@pytest.mark.parametrize(("text", "count"), [
    ("Wait, let me double-check.", 2),
    ("But wait. Wait!", 2),  # not three: "But wait" is one
    ("The waiter awaits; await", 0),
    ("Alternatively: double-checking", 1),
    ("", 0),
    ("wait wait wait", 3),
])
def test_whole_words_longest_first(text: str, count: int) -> None:
    assert behavior.count_keywords(text, HESITATION) == count


def test_rates_are_per_response_and_per_1000_tokens(tiny_world: Config) -> None:
    one = Rollout("a", "q", "1", None, ["Wait, wait.", ""], [100, 100], [True, True])  # 1 per response
    two = Rollout("b", "q", "1", None, ["Wait wait wait", "Wait wait wait"], [300, 300], [True, True])  # 3
    rate = behavior.keyword_rate([[one, two]], HESITATION, dataclasses.replace(tiny_world))
    assert rate["per_response"] == pytest.approx(2.0)
    assert rate["per_1000_tokens"] == pytest.approx(1000 * 2.0 / 200)
    assert (rate["per_response_low"], rate["per_response_high"]) == (1.0, 3.0)
