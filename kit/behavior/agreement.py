"""How far the rule-based phases agree with labels that somebody's model gave: Cohen's kappa, by prompts, with an interval.

The labelled file has R1-distilled models thinking aloud, each sentence or so marked with one of six classes: `["deduction"]
So x is 3. ["end-section"]`. A marked section is taken as a step and labelled by behavior/phases. The mapping, made before any
number was looked at:

| six classes | ten phases |
| --- | --- |
| initializing | Understanding · Reformulating |
| adding-knowledge | Applying Known Theorems/Properties |
| deduction | Breaking Down · Computing or Simplifying · Substituting · Finalize and Present |
| uncertainty-estimation | Reassess and Verify Local Steps · Reassess the Whole Solution |
| backtracking | Exploring Alternative Approaches |
| example-testing | none: trying out examples is no phase of the ten; left out |

Kappa is given on the five classes that both have (`five`), and with the last two counted as one (`four`): one scheme divides
second thoughts by doubt or change of course, the other by what is looked at again, and the labelling model itself is not sure
there. `all six` counts every step marked example-testing as a disagreement.

The rules were written while looking at the development half of the prompts. No trace of the held-out half was looked at, and
that half is what counts; its kappa was computed twice (five classes: 0.405, and 0.428 after a last round of cues that were
chosen on the development half). Halves go by prompt, so that two models' traces of one prompt are on the same side.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kit.behavior import phases
from kit.evaluation import uncertainty
from kit.settings import KitError

SIX = ("initializing", "deduction", "adding-knowledge", "example-testing", "uncertainty-estimation", "backtracking")
SIX_OF_TEN = {
    phases.UNDERSTAND: "initializing", phases.REFORMULATE: "initializing", phases.KNOWN: "adding-knowledge",
    phases.BREAK_DOWN: "deduction", phases.COMPUTE: "deduction", phases.SUBSTITUTE: "deduction", phases.ANSWER: "deduction",
    phases.CHECK_LOCAL: "uncertainty-estimation", phases.CHECK_WHOLE: "uncertainty-estimation", phases.EXPLORE: "backtracking",
}
NO_COUNTERPART = "example-testing"
SECOND_THOUGHTS = ("uncertainty-estimation", "backtracking")
_SEEN = "What's the probability of getting no pairs when dealt 5 cards?"  # its labels were read before the halves were made
_MARK = re.compile(r'\[\s*"?\s*(?:\d+\.\s*)?(end-section|' + "|".join(SIX) + r')\s*"?\s*\]')


@dataclass(frozen=True)
class Labelled:
    """One trace: (class, text) of each marked section, in order; the class is None where a mark is missing."""

    model: str
    question: str
    sections: list[tuple[str | None, str]]

    @property
    def half(self) -> str:
        """`development` or `held out`, by the prompt alone."""
        return "held out" if zlib.crc32(self.question.encode()) % 2 and self.question != _SEEN else "development"


def read(path: Path) -> list[Labelled]:
    """The labelled traces of a JSON-lines file with `model`, `question`, `annotated_response`."""
    if not path.is_file():
        raise KitError(f"{path}: no such file of labelled traces")
    found = []
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found.append(Labelled(str(record["model"]), str(record["question"]), sections(record["annotated_response"])))
        except (ValueError, KeyError, TypeError):
            raise KitError(f"{path.name} row {row}: should have model, question and annotated_response") from None
    return found


def sections(text: str) -> list[tuple[str | None, str]]:
    """The marked sections of an annotated response; marks are written in several ways in one and the same file.

    >>> sections('["deduction"] So x is 3. ["end-section"] [2. backtracking]Wait.["end-section"] [ 1, 2 ]')
    [('deduction', 'So x is 3.'), ('backtracking', 'Wait.'), (None, '[ 1, 2 ]')]
    """
    found: list[tuple[str | None, str]] = []
    label, start = None, 0
    for mark in _MARK.finditer(text):
        found.append((label, text[start : mark.start()].strip()))
        label, start = None if mark[1] == "end-section" else mark[1], mark.end()
    return [(one, part) for one, part in [*found, (label, text[start:].strip())] if part]


def steps(traces: Sequence[Labelled]) -> pd.DataFrame:
    """A row per marked section: model, question, half, theirs (six classes), phase (ten), ours (the phase's class)."""
    rows = []
    for trace in traces:
        labels = phases.label([text for _, text in trace.sections])
        rows += [(trace.model, trace.question, trace.half, theirs, phase, SIX_OF_TEN[phase])
                 for (theirs, _), phase in zip(trace.sections, labels, strict=True) if theirs]
    return pd.DataFrame(rows, columns=["model", "question", "half", "theirs", "phase", "ours"])


def kappa(table: np.ndarray) -> np.ndarray:
    """Cohen's kappa of confusion tables (..., k, k): (observed - expected) / (1 - expected) agreement; NaN without any steps.

    >>> round(float(kappa(np.array([[20, 5], [10, 15]]))), 2)
    0.4
    """
    n = table.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / n
        expected = (table.sum(-1) * table.sum(-2)).sum(-1) / n**2
        return (observed - expected) / (1 - expected)


def compare(table: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Kappa of `steps`, a row per half and way of counting, with a 95 % interval from a bootstrap over prompts."""
    one = dict.fromkeys(SECOND_THOUGHTS, "second thoughts")
    both = table[table.theirs != NO_COUNTERPART]
    ways = {"five": both, "four": both.replace({"theirs": one, "ours": one}), "all six": table}
    rows = []
    for half in ("development", "held out"):
        for classes, used in ways.items():
            part = used[used.half == half]
            if part.empty:
                continue
            names = sorted({*part.theirs, *part.ours})
            prompt = np.unique(part.question, return_inverse=True)[1]
            counts = np.zeros((prompt.max() + 1, len(names), len(names)))
            np.add.at(counts, (prompt, part.theirs.map(names.index), part.ours.map(names.index)), 1)
            drawn = np.tensordot(uncertainty.bootstrap_weights(len(counts), resamples, seed), counts, 1)
            low, high = uncertainty.interval(kappa(drawn))
            rows.append({
                "half": half, "classes": classes, "kappa": float(kappa(counts.sum(0))), "kappa_low": low, "kappa_high": high,
                "agreement": 100 * (part.theirs == part.ours).mean(), "steps": len(part), "prompts": len(counts)})
    return pd.DataFrame(rows)
