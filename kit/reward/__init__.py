"""What a response is worth: `from kit.reward import grade, grade_many, token_limit` (kit/README.md shows their use)."""

from importlib import import_module

from kit.reward.grading import Grade, grade, grade_many

# The function takes the place of the module of this name. It is no import statement, by which every table of grades would count
# as made with the reward, and be made again when that changes (runs/fingerprint).
token_limit = import_module("kit.reward.token_limit").TokenLimitReward

__all__ = ["Grade", "grade", "grade_many", "token_limit"]
