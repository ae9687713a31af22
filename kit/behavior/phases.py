r"""Which phase of problem solving is each step of a trace in? The paper's ten phases, by rules that can be read and argued with.

**Steps.** The thinking (what is before `</think>`; all of a response without that tag) is split at blank lines, as in the
paper. Logs without blank lines, such as the laptop's word-level traces, are split into sentences instead. That is decided
once for all models that are compared (`unit_of`): a trace that became shorter must not change what a step is.

**Rules.** A sentence has the first phase in RULES with a fitting cue: an answer; a check of all; a turn to something else; a
doubt or a check of one thing; and only then what kind of work it is. So "Wait, 3 + 4 is 8?" is a check, not a computation. A
sentence without any cue goes on with the work and counts as computing or simplifying (the paper has no phase for a plain "so
…"). A step of several sentences has the phase of its opening, if that is an answer, a doubt, a check or a turn (what "Wait"
opens is a check, whatever is computed in it), else the commonest phase of its sentences.

**Place.** The first step is understanding the problem, and a last step that begins with "so" or "therefore" the answer, unless
a cue says what else they are; so is a result said by itself ("That gives 29."). A check that is merely announced ("Let me
verify:") lasts through the computations that follow, until a step says "so", "now" or the like, but at most LASTS steps.

The cues name no topic and no number: they are about how reasoning models talk. They were written while looking at one half of
the prompts of a labelled set of R1 traces, and compared with its labels on the other half (`kit.behavior.agreement`).

>>> label(["We need 3 + 4.", "3 + 4 = 8.", "Wait, is that right?", "3 + 4 = 7.", "So the answer is 7."])[2:]
['Reassess and Verify Local Steps', 'Computing or Simplifying Expressions', 'Finalize and Present the Answer']
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

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
# The paper's ten.
PHASES = (UNDERSTAND, REFORMULATE, KNOWN, BREAK_DOWN, COMPUTE, SUBSTITUTE, CHECK_LOCAL, CHECK_WHOLE, EXPLORE, ANSWER)

# What the phases come to, for colours and for the sentence "checking goes, core steps stay".
KINDS = {
    UNDERSTAND: "framing", REFORMULATE: "framing", ANSWER: "framing", KNOWN: "core", BREAK_DOWN: "core", COMPUTE: "core",
    SUBSTITUTE: "core", CHECK_LOCAL: "checking", CHECK_WHOLE: "checking", EXPLORE: "hesitation",
}
UNITS = ("paragraphs", "sentences")
LASTS = 6  # steps
SEEN = 240  # characters of a sentence, so that a page of digits costs no more than a sentence

# Phase -> its cues, a regular expression a line; the first phase with a fitting one wins. A cue sees one sentence as `plain`
# makes it: lower case, without markdown, bullets, and interjections but for one of "wait", "hmm", "but", "no". WORDS are put in.
RULES: dict[str, str] = {
    ANSWER: r"""
        \\boxed
        ^final answer
        ^(?:final )?(?:answer|result)\W*:
        ^(?:in conclusion|finally)?,? ?(?:the|my|our) (?:final |correct )?answer (?:is|should be|must be)
        ^(?:in (?:conclusion|summary)|to (?:sum up|summarize|conclude))\b
        ^(?:putting|bringing) (?:it|this|that|everything)(?: all)? together
    """,
    CHECK_WHOLE: r"""
        \bCHECK (?:my|the|this|our|that) (?:whole |entire |final |full )*(?:answer|solution|work|reasoning|approach|result)
        \b(?:CHECK|go over|go through|reconsider|review|rethink|recap) (?:\w+ )?(?:everything|all of|it all|the whole|the entire)
        \b(?:CHECK|comput\w+|calculat\w+|work\w*|solv\w+) (?:it |this |everything )?(?:out )?(?:again|once more)\b
        ^(?:OPEN )?(?:alternatively, )?(?:let me|to|i should|i'll|let's) (?:just )?(?:double|re)[- ]?check\W*$
        \bfrom the (?:beginning|start|top)\b
        \b(?:start|starting) (?:over|again)\b
        \bmiss(?:ed|ing) (?:anything|something)\b
        \b(?:everything|it all) (?:checks out|fits|adds up)
        \bboth (?:methods|approaches|ways) (?:give|lead|agree)
    """,
    EXPLORE: r"""
        ^(?:OPEN )?(?:alternatively|instead of)\b
        \b(?:an)?other (?:way|approach|method|strategy|possibility|perspective|interpretation)\b
        \b(?:different|better|alternative) (?:way|approach|angle|method|strategy|perspective|idea)\b
        \bdifferently\b
        ^wait (?:maybe|perhaps|what (?:if|about)|another|let me (?:think|try|recall))
        ^(?:OPEN )?(?:maybe|perhaps) (?:i|we) (?:should|can|could) try\b
        ^(?:OPEN )?(?:what (?:if|about)|let me try (?:a|an|another|some|something))\b
        \bon second thought
        \bgo(?:ing)? back to\b
    """,
    CHECK_LOCAL: r"""
        ^(?:wait|hmm|no)\b
        ^(?:OPEN )?(?:let me|let's|i should|i need to|i'll|to|just to|we can|we should) (?:also |just |quickly |at least )?CHECK\b
        ^(?:double-?check|verify|checking|verifying)
        \b(?:not|never) (?:\w+ )?(?:sure|certain|confident)\b
        \b(?:no idea|unsure|i wonder|confus\w+|overcomplicat\w+|overthink\w+|mixing up)\b
        \bcomplicat(?:ed|ing) (?:it|this|things)\b
        \bi'm (?:\w+ ){0,3}(?:stuck|lost|missing|torn|(?:in|going (?:around )?in) circles)\b
        \b(?:bit|little|rather|somewhat) (?:tricky|ambiguous|unclear|confusing|stuck|torn|complicated)\b
        \b(?:made|make|making) a(?:n error| mistake)\b
        \b(?:is|are) (?:that|this|it|they) (?:even )?(?:right|correct|true|possible|accurate)\b
        \bmakes? sense\?
        ^(?:OPEN )?(?:that|this) (?:can't|cannot|can not|doesn't|seems (?:too|high|low|wrong|off|odd|strange))
        \bmaybe i(?:'m| am| was| made| mis\w*|'ve)\b
        ^but (?:is|are|does|do|did|how|what|why|i'm|i am|i thought|that|which|who|where|let me|just)\b
        ^(?:yes|yeah|right),? (?:that|this|it)(?:'s| is| seems| looks| works| makes| checks)
        \bchecks out\b
    """,
    UNDERSTAND: r"""
        ^(?:i|we)(?:'m| am| are|'ve| have)? (?:got |been )?(?:trying|asked|given|supposed) to\b
        ^(?:i|we)(?:'ve| have) (?:got )?(?:this|a|an|the)\b
        ^i need to (?:figure|find|solve|determine|design|come up|understand|work out)
        ^to (?:find|determine|solve|calculate|compute|figure|answer)\b
        \bthe (?:problem|question|user|task|statement) (?:says|states|asks|is asking|gives|wants|is about|mentions|tells)
        \bwe(?:'re| are) (?:given|asked|told)\b
        ^given (?:that|the|a|an|two|three)\b
        \blet me (?:read|understand|parse|restate|visualize)
        \bunderstand(?:ing)? the (?:problem|question)
    """,
    REFORMULATE: r"""
        \bin other words\b
        \b(?:rephrase|reformulate|restate|rewrite the (?:problem|question))
        \bequivalent(?:ly)? to (?:find|count|show|ask)
        \b(?:problem|question|task) (?:becomes|reduces|boils|simplifies|amounts)\b
        ^let(?: me|'s|) (?:denote|define|call|represent|name)\b
        ^let \S{1,12} (?:be|denote|represent)\b
    """,
    SUBSTITUTE: r"""
        \bsubstitut
        \bplug(?:s|ging|ged)?\b.{0,30}\b(?:in|into|back)\b
        \b(?:put|putting|setting|set|try|trying|take|taking|suppose|for|when|if|with|let) \W{0,3}[a-z](?:_\w)?\W{0,3} ?= ?-?\d
        \busing (?:this|that|these|the) (?:value|result|expression|equation|fact)
        \bback into\b
        \bfrom (?:equation|step|part|above|earlier|before)\b
    """,
    KNOWN: r"""
        \bi (?:also |do |think i |vaguely )?(?:remember|recall|know|learned|read|heard)\b
        \bi've (?:also )?(?:heard|read|seen|learned)
        \b(?:recall|remember|known|knowing|recalling) that\b
        \b(?:is|are) (?:known|defined|called)\b
        \b(?:theorem|formula|lemma|identity|inequality|corollary|axiom|definition|postulate|principle|law of|rules? of)\b
        \bpropert(?:y|ies) of\b
        \b(?:in general|sometimes|typically|commonly)\b
        , right\?$
        \b(?:refers? to|also known as)\b
        ^(?:OPEN )?(?!NO_FACT)(?:the |a |an |each )?[\w'-]+(?: [\w'-]+)? (?:is|are) (?:not )?(?:an?|essentially|usually|always)\b
    """,
    BREAK_DOWN: r"""
        ^(?:step|case|part) \d
        ^(?:first|firstly|second|secondly|third|next|finally|lastly)\b[^=]*$
        \bbreak (?:it|this|that|them|things|the \w+) (?:down|into|up)\b
        \b(?:one by one|step by step|separately|case by case)\b
        ^(?:we|i) (?:just |then |first |also |only )?(?:need|have|want) to\b
        ^i'll\b
        ^let(?: me|'s) (?:start|begin|consider|look at|list|think about|analyze|focus)\b
        ^(?:how|what|which)\b[^.]*\?$
    """,
    COMPUTE: r"""
        =
        \d\s*[-+*/×÷^]\s*\d
        \b(?:comput|calculat|simplif|multipl|divid|subtract|expand|factor|add)
    """,
}
WORDS = {
    "CHECK": r"(?:(?:double|re)[- ]?)?(?:check|verify|confirm|make sure|see if|examine)",
    "OPEN": r"(?:wait|hmm|but|no)",
    "NO_FACT": r"(?:it|this|that|these|those|there|here|he|she|they|we|you|both)\b|(?:\w+ )?(?:answer|result|total|sum|number)\b",
}
STRONG = {ANSWER, CHECK_WHOLE, EXPLORE, CHECK_LOCAL}


def _table() -> list[tuple[str, re.Pattern[str]]]:
    table = []
    for phase, cues in RULES.items():
        pattern = "|".join(line.strip() for line in cues.strip().splitlines())
        for name, words in WORDS.items():
            pattern = pattern.replace(name, words)
        table.append((phase, re.compile(pattern)))
    return table


_TABLE = _table()
_ANNOUNCED = re.compile(rf"\b(?:let me|let's|i'll|i should|to) (?:\w+ ){{0,2}}(?:{WORDS['CHECK']}|comput\w+ it again)\b[^=]*$")
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
_SENTENCE_END = re.compile(r"(?<=\s[.!?])\s+|(?<=[^\s.][.!?])[\"'”)*\]]*\s+(?=[A-Z\"'“(\[$\\*•-])|\n+")


# --- steps ------------------------------------------------------------------------------------------------------------


def thinking(response: str) -> str:
    """What comes before `</think>`; all of a response without that tag."""
    return response.split("</think>", 1)[0].replace("<think>", "", 1)


def unit_of(responses: Iterable[str]) -> str:
    """What a step is in these responses: "paragraphs" if at least half of their thinking has a blank line, else "sentences"."""
    blank = ["\n\n" in thinking(r).strip() for r in responses]
    return "paragraphs" if blank and 2 * sum(blank) >= len(blank) else "sentences"


def steps_of(response: str, unit: str) -> list[str]:
    """The steps of a response's thinking, in order."""
    text = thinking(response)
    return sentences(text) if unit == "sentences" else [s for part in re.split(r"\n\s*\n", text) if (s := part.strip())]


def sentences(text: str) -> list[str]:
    """Sentences and lines. A full stop that stands alone, as in word-level text, ends one too; those in 3.5 and e.g. do not."""
    return [s for part in _SENTENCE_END.split(text) if (s := part.strip())]


# --- phases -----------------------------------------------------------------------------------------------------------


def label(steps: Sequence[str]) -> list[str]:
    """The phase of each step of one trace."""
    labels: list[str] = []
    check, left = "", 0  # the check that was announced, and how many more steps it may last
    for i, step in enumerate(steps):
        found, announces = _of_step(step)
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
def _of_step(step: str) -> tuple[str | None, bool]:
    """The phase that a step's own words say, None without any cue; and whether it ends by announcing a check."""
    texts = [plain(s) for s in sentences(step)]
    found = [_cue(text) for text in texts]
    known = Counter(f for f in found if f)
    if not known:
        return None, False
    phase = found[0] if found[0] in STRONG else max(known, key=lambda f: (known[f], -found.index(f)))
    return phase, found[-1] in (CHECK_LOCAL, CHECK_WHOLE) and phase in STRONG and bool(_ANNOUNCED.search(texts[-1]))


def _cue(text: str) -> str | None:
    return next((phase for phase, pattern in _TABLE if pattern.search(text)), None)


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
