"""The data sets that can be named in `data` without saying where they are: those of the paper and its code, on the hub."""

from kit.settings.schema import SetSource


class Source(SetSource):
    """A set of the hub that can be named in `data` without saying where it is."""
    rows: int = 0  # how many it is known to have
    part: str = ""  # of a large set with verl's columns, the rows with this `data_source`
    years: tuple[int, ...] = ()  # keep the rows of these years (their last two digits)
    integers: bool = False  # every answer is a whole number by the rules of the contest: 025 and 27.0 are ways of writing one
    lists: bool = False  # the official logs write the answer as a list
    files: tuple[str, ...] = ()  # other names that a file of it goes by


VALIDATION = "aime22_23_24.parquet"  # AIME 22 to 24 in verl's columns, from the official repository
SOURCES = {
    "eurus-amc-aime": Source(hub="PRIME-RL/Eurus-2-RL-Data", rows=2470, part="numina_amc_aime"),
    "aime22-23": Source(hub="AI-MO/aimo-validation-aime", rows=60, years=(22, 23), integers=True,
                        files=(VALIDATION, "test_aime.parquet")),
    "aime24": Source(hub="HuggingFaceH4/aime_2024", rows=30, years=(24,), integers=True, files=(VALIDATION,)),
    "amc23": Source(hub="math-ai/amc23", split="test", rows=40, integers=True),
    "math500": Source(hub="HuggingFaceH4/MATH-500", split="test", rows=500),
    "olympiadbench": Source(hub="SumanthRH/olympiadbench_qwen_math", rows=675, lists=True),
    "olympiadbench-hothan": Source(hub="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", rows=674, lists=True),
}
