"""Suggestions of models for a machine: candidates placed, timed and ordered by a goal.

The order is a rule that fits in a sentence, not a score that is shown. `quality` puts
capability first, `speed` tokens/s, `balanced` capability less what is missing to a comfortable
speed. Capability is a comparison, not a measurement: more parameters are better, newer ones more
so (see `capability`). What a quant loses is published data (`core/quality/quality.py`).
"""

from localllm.core.recommend.evaluation import (
    PROMPT_TOKENS,
    evaluate,
    load_of,
    predict,
    predict_loaded,
)
from localllm.core.recommend.plan import (
    READING_TPS,
    Advice,
    CalibrationPoint,
    Candidate,
    FitPlan,
    Goal,
    Machine,
    Preferences,
    Verdict,
)
from localllm.core.recommend.ranking import COMFORTABLE_TPS, MAX_LOSS_PERCENT, capability
from localllm.core.recommend.search import plans

__all__ = [
    "COMFORTABLE_TPS",
    "MAX_LOSS_PERCENT",
    "PROMPT_TOKENS",
    "READING_TPS",
    "Advice",
    "CalibrationPoint",
    "Candidate",
    "FitPlan",
    "Goal",
    "Machine",
    "Preferences",
    "Verdict",
    "capability",
    "evaluate",
    "load_of",
    "plans",
    "predict",
    "predict_loaded",
]
