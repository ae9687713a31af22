"""The data sets that can be named in `data` without saying where they are: those of the paper and its code, on the hub."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """One data set of the hub. `rows` is how many it is known to have."""

    hub: str
    split: str
    rows: int | None = None
    config: str | None = None
    part: str | None = None  # of a large set with verl's columns, the rows with this `data_source`
    years: tuple[int, ...] = ()  # keep the rows of these years (their last two digits)
    integers: bool = False  # every answer is a whole number by the rules of the contest: 025 and 27.0 are ways of writing one
    lists: bool = False  # the official logs write the answer as a list
    files: tuple[str, ...] = ()  # other names that a file of it goes by
    columns: tuple[tuple[str, str], ...] = ()  # what we call a column, its name there

    @property
    def narrow(self) -> dict[str, Any]:
        """What readers of parquet are told so that they read the needed columns and rows of a large set alone."""
        columns = ["data_source", "prompt", "reward_model"]
        return {"filters": [("data_source", "==", self.part)], "columns": columns} if self.part else {}


OFFICIAL_VALIDATION = "aime22_23_24.parquet"  # AIME 22 to 24 in verl's columns, from the official repository
SOURCES = {
    "eurus-amc-aime": Source("PRIME-RL/Eurus-2-RL-Data", "train", 2470, part="numina_amc_aime"),
    "aime22-23": Source("AI-MO/aimo-validation-aime", "train", 60, years=(22, 23), integers=True,
                        files=(OFFICIAL_VALIDATION, "test_aime.parquet")),
    "aime24": Source("HuggingFaceH4/aime_2024", "train", 30, years=(24,), integers=True, files=(OFFICIAL_VALIDATION,)),
    "amc23": Source("math-ai/amc23", "test", 40, integers=True),
    "math500": Source("HuggingFaceH4/MATH-500", "test", 500),
    "olympiadbench": Source("SumanthRH/olympiadbench_qwen_math", "train", 675, lists=True),
    "olympiadbench-hothan": Source("Hothan/OlympiadBench", "train", 674, config="OE_TO_maths_en_COMP", lists=True),
}
