"""Which phase of problem solving is each step of a trace in? The paper's ten phases, by cues that can be read and argued with.

**Steps.** The thinking (what is before `</think>`; all of a response without that tag) is split at blank lines, as in the paper.
Logs without blank lines, such as the laptop's, are split into sentences instead. That is decided once for all models that are
compared (`unit_of`): a trace that became shorter must not change what a step is.

**Cues** stand in params/shared/phases.yaml, in order: a sentence has the first phase with a fitting cue, and without any cue it
goes on with the work (computing or simplifying). A step of several sentences has the phase of its opening if that is one of
STRONG (what "Wait" opens is a check, whatever is computed in it), else the commonest phase of its sentences.

**Place.** The first step is understanding the problem, and a last step that begins with "so" or "therefore" is the answer, unless
a cue says what else they are; so is a result said by itself ("That gives 29."). A check that is merely announced ("Let me
verify:") lasts through the computations that follow, until a step says "so", "now" or the like, but at most LASTS steps.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kit.runs import paths
from kit.settings import Config, KitError, read_yaml

UNDERSTAND = "Understanding the Problem"
REFORMULATE = "Reformulating the Problem"
KNOWN = "Applying Known Theorems/Properties"
BREAK_DOWN = "Breaking Down into Subproblems"
COMPUTE = "Computing or Simplifying Expressions"
SUBSTITUTE = "Substituting Known Values or Results"
CHECK_LOCAL = "Reassess and Verify Local Steps"
CHECK_WHOLE = "Reassess the Whole Solution"
EXPLORE = "Exploring Alternative Approaches"
ANSWER = "Finalize and Present the Answer"
# The paper's ten and what they come to, for colours and for the sentence "checking goes, core steps stay".
KINDS = {
    UNDERSTAND: "framing", REFORMULATE: "framing", KNOWN: "core", BREAK_DOWN: "core", COMPUTE: "core", SUBSTITUTE: "core",
    CHECK_LOCAL: "checking", CHECK_WHOLE: "checking", EXPLORE: "hesitation", ANSWER: "framing",
}
PHASES = tuple(KINDS)
LASTS = 6  # steps
SEEN = 240  # characters of a sentence that cues look at, so that a page of digits costs no more than a sentence
STRONG = {ANSWER, CHECK_WHOLE, EXPLORE, CHECK_LOCAL}

_GOES_ON = re.compile(r"\W*(?:so|therefore|thus|hence|now|next|then|okay|ok|alright|finally)\b", re.IGNORECASE)
_CONCLUDES = re.compile(r"\W*(?:so|therefore|thus|hence)\b", re.IGNORECASE)
_MARKUP = re.compile(r"\*\*|__|`|^[\s>#*•_-]+|^\d+[.)]\s+")
_INTERJECTIONS = re.compile(
    r"(?:(okay|ok|alright|all right|so|now|well|oh|ah|and|yes|yeah|then|therefore|thus|hence|actually|right|just)|"
    r"(no)|(but|however)|(hmm+)|(wait(?: a (?:minute|second|moment))?|hold on|hang on))\b[\s,.!?:;—–-]*")
_KEPT = ("", "no ", "but ", "hmm ", "wait ")  # by weight
_VERDICT = re.compile(r"(?:yes|yeah|yep|right|correct|no)\b", re.IGNORECASE)
_THAT_IS = re.compile(r"(?:yes|yeah|right),? (?:that|this|it)\b")
_RESULT = re.compile(r"(?:so |and |now |then )?(?:that|this|which) gives[^\w=]*[\d.,/]*\d[^\w=]*", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=\s[.!?])\s+|(?<=[^\s.][.!?])[\"'”)*\]]*\s+(?=[A-Z\"'“(\[$\\*•-])|\n+")


@dataclass(frozen=True, eq=False)
class Cues:
    """A phase and what a sentence of it looks like, in order of priority; and how a check is announced."""

    table: list[tuple[str, re.Pattern[str]]]
    announced: re.Pattern[str]


def cues_of(config: Config) -> Cues:
    """The cues in the file that `behavior.phases` names."""
    return read_cues(paths.given(config, config.behavior.phases))


def read_cues(path: Path) -> Cues:
    """The cues of a file like params/shared/phases.yaml. KitError, in one line, on anything in it that is not as it should be."""
    if not path.is_file():
        raise KitError(f"`behavior.phases`: no file {path}; the kit's own is params/shared/phases.yaml")
    table = read_yaml(path)
    words, cues = table.get("words", {}), table.get("cues")
    if not isinstance(words, dict) or not isinstance(cues, dict) or table.keys() - {"words", "cues", "announced"}:
        raise KitError(f"{path.name}: should have the tables `words` and `cues`, and `announced`; it has {', '.join(table)}")
    if other := sorted(map(str, cues.keys() ^ set(PHASES))):
        raise KitError(f"{path.name}: `cues` should have the ten phases that params/shared/phases.yaml has; {other[0]} is "
                       f"{'missing' if other[0] in PHASES else 'none of them'}")
    meant = {name: _pattern(text, f"{path.name}: `words.{name}`", {}).pattern for name, text in words.items()}
    return Cues([(phase, _pattern(text, f"{path.name}: `cues.{phase}`", meant)) for phase, text in cues.items()],
                _pattern(table.get("announced"), f"{path.name}: `announced`", meant))


def _pattern(lines: Any, where: str, words: dict[str, str]) -> re.Pattern[str]:
    """The regular expressions of a text, one a line, as one; the names of `words` are replaced by what they stand for."""
    found = [line.strip() for line in str(lines or "").splitlines() if line.strip()]
    for k, line in enumerate(found):
        for name, meant in words.items():
            found[k] = found[k].replace(name, meant)
        try:
            re.compile(found[k])
        except re.error as error:
            raise KitError(f"{where}: {line} is no regular expression ({error})") from None
    if not found:
        raise KitError(f"{where} should have regular expressions, one a line")
    return re.compile("|".join(found))


def thinking(response: str) -> str:
    """What comes before `</think>`; all of a response without that tag."""
    return response.split("</think>", 1)[0].replace("<think>", "", 1)


def unit_of(responses: Iterable[str]) -> str:
    """What a step is in these responses: "paragraphs" if at least half of their thinking has a blank line, else "sentences"."""
    blank = ["\n\n" in thinking(r).strip() for r in responses]
    return "paragraphs" if blank and 2 * sum(blank) >= len(blank) else "sentences"


def steps_of(response: str, unit: str) -> list[str]:
    """The steps of a response's thinking, in order."""
    return sentences(thinking(response), _SENTENCE_END if unit == "sentences" else _BLANK_LINE)


def sentences(text: str, end: re.Pattern[str] = _SENTENCE_END) -> list[str]:
    """Sentences and lines. A full stop that stands alone, as in word-level text, ends one too; those in 3.5 and e.g. do not."""
    return [s for part in end.split(text) if (s := part.strip())]


def label(steps: Sequence[str], cues: Cues) -> list[str]:
    """The phase of each step of one trace."""
    labels: list[str] = []
    check, left = "", 0  # the check that was announced, and how many more steps it may last
    for i, step in enumerate(steps):
        found, announces = _of_step(step, cues)
        if i == 0 and (found in (None, BREAK_DOWN, KNOWN, CHECK_LOCAL) or found == COMPUTE and "=" not in step):
            found = UNDERSTAND
        elif i + 1 == len(steps) and found in (None, COMPUTE) and _CONCLUDES.match(step):
            found = ANSWER
        elif found == UNDERSTAND and i >= max(3, len(steps) // 5):
            found = BREAK_DOWN
        bare = found is None and _RESULT.fullmatch(step)
        within = found in (COMPUTE, SUBSTITUTE) or bare or found is None and _VERDICT.match(step)
        if left and within and not _GOES_ON.match(step):
            found, left = check, left - 1
        else:
            check, left = (found, LASTS) if announces and found else ("", 0)
        labels.append(found or (ANSWER if bare else COMPUTE))
    return labels


@lru_cache(maxsize=200_000)
def _of_step(step: str, cues: Cues) -> tuple[str | None, bool]:
    """The phase that a step's own words say, None without any cue; and whether it ends by announcing a check."""
    texts = [plain(s) for s in sentences(step)]
    found = [next((phase for phase, pattern in cues.table if pattern.search(text)), None) for text in texts]
    known = Counter(f for f in found if f)
    if not known:
        return None, False
    phase = found[0] if found[0] in STRONG else max(known, key=lambda f: (known[f], -found.index(f)))
    return phase, found[-1] in (CHECK_LOCAL, CHECK_WHOLE) and phase in STRONG and bool(cues.announced.search(texts[-1]))


def plain(sentence: str) -> str:
    """A sentence as the cues see it.

    >>> plain("**Okay, but wait —** is `x` 3 ?"), plain("2. So, Compute 17 * 4 .")
    ('wait is x 3?', 'compute 17 * 4.')
    """
    text = _MARKUP.sub("", sentence[:SEEN].lower().replace("’", "'"))
    text = re.sub(r"\s+", " ", re.sub(r"\s+(?=[,.;:!?])|^\s+", "", text))
    kept, start = 0, 0
    while not (start == 0 and _THAT_IS.match(text)) and (found := _INTERJECTIONS.match(text, start)):
        start = found.end()
        kept = max(kept, found.lastindex - 1)  # type: ignore[operator]
    return _KEPT[kept] + text[start:]
