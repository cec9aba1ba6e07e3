"""How one model is loaded and kept: the tables `[models.NAME]` of settings.toml.

Apart from `settings.py`, because these are options of a load and not of the program.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from localllm.core.sizing.load import KvType, Pooling, Speculate
from localllm.core.text import single_line
from localllm.core.units import parse_keep_alive
from localllm.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOption:
    """One key of a model's table. `minimum` and `maximum` bound a number, a text is one of `words`,
    if there are any, and `parse` reads it. `load`: it is a field of the model's `LoadChoice`."""

    value_type: type[bool] | type[int] | type[str]
    description: str
    minimum: int = 0
    maximum: int = 2**31 - 1
    words: tuple[str, ...] = ()
    parse: Callable[[str], object] | None = None
    load: bool = True

    def problem(self, value: object) -> str | None:
        """Say why a value is not allowed, as the end of a sentence; None when it is."""
        if type(value) is not self.value_type or value == "":
            names = {bool: "true or false", int: "a whole number", str: "a text"}
            return f"must be {names[self.value_type]}"
        if isinstance(value, int) and not self.minimum <= value <= self.maximum:
            return f"is {value} and must be from {self.minimum} to {self.maximum}"
        if self.words and value not in self.words:
            return f"must be one of {', '.join(self.words)}"
        if isinstance(value, str) and self.parse is not None:
            try:
                self.parse(value)
            except UsageError as error:
                return f"is not allowed: {error}".removesuffix(".")
        return None


MODEL_OPTIONS: Mapping[str, ModelOption] = {
    "model": ModelOption(
        value_type=str,
        description="the table is a profile: this installed model, under the table's name and with"
        " its options",
        load=False,
    ),
    "keep_alive": ModelOption(
        value_type=str, description="as `serve.keep_alive`", parse=parse_keep_alive, load=False
    ),
    "pin": ModelOption(
        value_type=bool, description="never unloaded once it is in memory", load=False
    ),
    "context": ModelOption(value_type=int, description="`--ctx`", minimum=16, maximum=2**24),
    "parallel": ModelOption(value_type=int, description="`--parallel`", minimum=1, maximum=256),
    "gpu_layers": ModelOption(value_type=int, description="`--gpu-layers`"),
    "cpu_moe": ModelOption(value_type=int, description="`--cpu-moe`", maximum=10_000),
    "threads": ModelOption(value_type=int, description="`--threads`", minimum=1, maximum=512),
    "kv_type": ModelOption(value_type=str, description="`--kv-type`", words=tuple(KvType)),
    "kv_offload": ModelOption(value_type=bool, description="false is `--no-kv-offload`"),
    "mmap": ModelOption(value_type=bool, description="`--mmap`, `--no-mmap`"),
    "speculate": ModelOption(value_type=str, description="`--speculate`", words=tuple(Speculate)),
    "draft": ModelOption(value_type=str, description="`--draft`"),
    "embeddings": ModelOption(value_type=bool, description="`--embeddings`"),
    "pooling": ModelOption(
        value_type=str,
        description="`--pooling`",
        words=tuple(each for each in Pooling if each is not Pooling.NONE),
    ),
    "vision": ModelOption(value_type=bool, description="false loads no image encoder"),
}
"""The keys of `[models.NAME]`."""

ModelTable = tuple[tuple[str, str | int | bool], ...]
"""The keys of one model's table, with their values."""


def models_problem(value: object) -> str | None:
    """Say what is wrong with the tables of all models, as the end of a sentence; None: nothing."""
    if not isinstance(value, dict):
        return "must be tables, [models.NAME]"
    for name, table in value.items():
        shown = single_line(str(name))[:80]
        if not isinstance(table, dict):
            return f"must be tables: write [models.{shown}]"
        for key, each in table.items():
            option = MODEL_OPTIONS.get(key)
            if option is None:
                known = ", ".join(MODEL_OPTIONS)
                return f"of {shown}: {single_line(key)[:80]!r} is none of {known}"
            if (problem := option.problem(each)) is not None:
                return f"of {shown}: {key} {problem}"
    return None
