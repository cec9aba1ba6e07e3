"""Headers of small models for the load policy: one that answers, trained with a short context."""

from dataclasses import replace

from tests.core.forge import Forged
from tests.core.forge_published import DENSE

SHORT_CONTEXT = 512
_SMOLLM2 = next(each for each in DENSE if each.name == "SmolLM2-135M")
SHORT: Forged = replace(
    _SMOLLM2, name="Short", keys={**_SMOLLM2.keys, "context_length": SHORT_CONTEXT}
)
