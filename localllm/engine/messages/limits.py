"""The limits of every field of a message, each written once.

The range of a number stands in the annotation of its field (`Annotated[float, Range(float, 0, 5)]`
in `types.py` and `commands.py`). The engine's check (`validation.py`), the request fields of the
HTTP API and the options of the command line all read it from there, so none of them accepts what
another one refuses. This module knows neither direction: commands and events both use it.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import get_type_hints

from localllm.core.image import MAX_PIXELS

MAX_INT32 = 2**31 - 1
"""int32_t, the type of most counts in llama.h."""
MAX_UINT32 = 2**32 - 1
"""uint32_t, the type of n_ctx."""
MAX_SEED = 2**32 - 2
"""2**32 - 1 is LLAMA_DEFAULT_SEED, which asks llama.cpp to choose one."""

MAX_N = 128
"""Answers to one prompt, as in OpenAI's API."""
MAX_TOP_LOGPROBS = 20
MAX_DEADLINE_S = 7 * 86_400.0
MAX_STOP_STRINGS = 256
MAX_STOP_CHARS = 65_536
"""Of all stop strings of a request together."""
MAX_GRAMMAR_CHARS = 2**20
MAX_TEMPLATE_CHARS = 512 * 1024
MAX_JSON_DEPTH = 128
"""Of the schemas of tools. Deeper arguments of earlier calls are not read as JSON."""

MAX_LOGIT_BIASES = 4096
MAX_DRY_BREAKERS = 16
MAX_DRY_BREAKER_BYTES = 40
"""MAX_CHAR_LEN in llama_sampler_init_dry, which cuts longer ones."""
MAX_PENALTY_WINDOW = 2**20
"""Tokens. llama.cpp allocates a ring of this many."""

MAX_TEMPLATE_OPTIONS = 32
MAX_TEMPLATE_OPTIONS_CHARS = 65_536
RESERVED_TEMPLATE_OPTIONS = frozenset(
    {"messages", "tools", "documents", "bos_token", "eos_token", "add_generation_prompt",
     "raise_exception", "strftime_now"}
)  # fmt: skip
"""Variables that a template gets from the engine alone."""

MAX_TOOLS = 128
MAX_TOOL_NAME = 128
"""As in Anthropic's API; OpenAI's takes 64."""
TOOL_NAME_CHARS = frozenset(string.ascii_letters + string.digits + "_-.")
MAX_LORAS = 64

MAX_FILES = 256
"""Beside the one whose middle is filled in."""
MAX_TOKENIZE_CHARS = 2**18
MAX_TOKENIZE_TOKENS = 2**18
"""In one request that cuts a text into tokens, or writes them: no running answer goes on
meanwhile."""

MAX_INPUTS = 2048
"""Texts to embed in one request, as in OpenAI's API, or documents to rank."""

MAX_IMAGES = 16
MAX_IMAGE_BYTES = 20 * 2**20
MAX_IMAGES_BYTES = 32 * 2**20
"""Of all images of a request: as base64 they stay below what one line of the pipe may have."""
MAX_IMAGES_PIXELS = 2 * MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`, both included; `low_open` excludes `low`."""

    type: type[int] | type[float]
    low: float
    high: float
    low_open: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int if self.type is int else int | float):
            return False
        above = value > self.low if self.low_open else value >= self.low
        return above and value <= self.high  # NaN is neither

    def __str__(self) -> str:
        if self.type is int:
            return f"a whole number from {self.low} to {self.high}"
        return f"{'above ' if self.low_open else ''}{self.low:g} to {self.high:g}"


MAX_PRIORITY = 100
MAX_STREAM_INTERVAL_S = 10.0
"""0 is served first."""

TOKEN_ID = Range(int, 0, MAX_INT32)
"""Of any model; `validation.check_tokens` knows the vocabulary of one."""
LOGIT_BIAS = Range(float, -100, 100)


@cache
def ranges_of(message: type) -> Mapping[str, Range]:
    """Map the names of a message class's fields to their ranges, where they have one."""
    return {
        name: note
        for name, hint in get_type_hints(message, include_extras=True).items()
        for note in getattr(hint, "__metadata__", ())
        if isinstance(note, Range)
    }
