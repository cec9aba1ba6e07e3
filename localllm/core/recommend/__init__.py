"""What to run here: every candidate placed, timed and judged, in the order of a goal.

The order is a rule that can be said in a sentence, not a score that is shown. `quality` puts
capability first, `speed` tokens/s, `balanced` capability less what is missing to a comfortable
speed. Capability is a comparison, not a measurement: more parameters are better, newer ones more
so (see `capability`). What a quant loses is published data (`core/quality/quality.py`).
"""

from localllm.core.recommend.plan import (
    READING_TPS,
    Advice,
    Candidate,
    FitPlan,
    Goal,
    Machine,
    Preferences,
    Seen,
    Verdict,
)
from localllm.core.recommend.price import PROMPT_TOKENS, predict, price
from localllm.core.recommend.ranking import COMFORTABLE_TPS, MAX_LOSS_PERCENT, capability
from localllm.core.recommend.search import plans

__all__ = [
    "COMFORTABLE_TPS",
    "MAX_LOSS_PERCENT",
    "PROMPT_TOKENS",
    "READING_TPS",
    "Advice",
    "Candidate",
    "FitPlan",
    "Goal",
    "Machine",
    "Preferences",
    "Seen",
    "Verdict",
    "capability",
    "plans",
    "predict",
    "price",
]
