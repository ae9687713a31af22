"""The accuracy-efficiency score, by itself: figures compute it of published numbers, and need no grader for that."""

from typing import Any

import numpy as np


def efficiency_score(accuracy: Any, length: Any, base_accuracy: Any, base_length: Any) -> Any:
    """The accuracy-efficiency score, AES (O1-Pruner, arXiv 2501.12570, section on metrics; used by later papers).

        AES = dL + 3 |dA|   if dA >= 0, else   dL - 5 |dA|

    with dL = (base length - length) / base length, dA = (accuracy - base accuracy) / base accuracy: accuracy lost weighs
    more than accuracy gained, and both more than length saved. 0 is the base itself.
    """
    shorter, better = (base_length - length) / base_length, (accuracy - base_accuracy) / base_accuracy
    return shorter + np.where(better >= 0, 3.0, 5.0) * better
