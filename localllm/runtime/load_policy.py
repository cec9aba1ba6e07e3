"""The load policy: one answer for every front end to what a person leaves open.

`run`, `serve`, `size`, `bench` and the app say what they were given as a `LoadChoice`; the model's
header and the user's settings decide the rest, here. A front end with defaults of its own would
load the same model another way than the others do.

Nothing is read or asked here: `load_plan.py` reads the files that a load needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from localllm.core.model.purpose import is_embedding_model, why_not_generative
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.embedding import with_embedding_defaults
from localllm.core.sizing.load import (
    DEFAULT_CONTEXT,
    ROPE_OF_HEADER,
    ChatTemplateFile,
    FlashAttention,
    KvType,
    LoadSettings,
    Lora,
    Mmproj,
    Pooling,
    RopeScaling,
    RopeSettings,
    Speculate,
    capped_context,
)
from localllm.core.sizing.rope import context_warning, with_rope_scaling
from localllm.core.text import single_line
from localllm.core.units import parse_swap_bytes
from localllm.errors import UsageError
from localllm.library.files.model_options import MODEL_OPTIONS
from localllm.library.files.settings import Settings

AUTO_PARALLEL = (4, 2, 1)
"""Sequences of a load that leaves `parallel` open: the first of these that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadChoice:
    """The options of a load as they were given. None leaves a value to the policy.

    - `context`: tokens of one sequence. None: the settings' own, at most the training context.
    - `parallel`: sequences at once. None: as many of AUTO_PARALLEL as fit.
    - `gpu_layers`: None: as many as fit.
    - `threads`: None: those of the settings, else one for each fast core that may be used.
    - `mmap`: None: files are mapped, unless they are where mapping is slow.
    - `chat_template`: file of a template. None: the settings' for this model, else its own.
    - `rope_scaling`: None: the settings' for this model, else the header's. `rope_scale`: the
      factor by which contexts get longer, as `1 / rope_freq_scale`. None: what the context needs.
    - `cache_ram`: bytes of host memory for conversations without a slot; 0: none. None: as the
      settings say, else half of what is free.
    - `draft`: name or path of the draft model.
    - `embeddings`: False requires a model that answers. None: a load for embeddings where the
      model does nothing else.
    - `vision`: True requires an mmproj, False loads none. None: the model's own, if it has a
      usable one here.
    - `trust_gpu`: True uses a GPU without comparing what it computes with the processor. None: as
      the settings say.

    The other fields are those of `LoadSettings`; `kv_type` is of keys and values. `given` are the
    names of the fields that were given by themselves, which no setting overrides.
    """

    context: int | None = None
    parallel: int | None = None
    gpu_layers: int | None = None
    kv_type: KvType = KvType.F16
    cpu_moe: int = 0
    kv_offload: bool = True
    batch: int = 2048
    ubatch: int = 512
    flash_attention: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False
    cache_ram: int | None = None
    threads: int | None = None
    mmap: bool | None = None
    chat_template: str | None = None
    rope_scaling: RopeScaling | None = None
    rope_scale: float | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_orig_ctx: int | None = None
    speculate: Speculate = Speculate.AUTO
    draft: str | None = None
    loras: tuple[Lora, ...] = ()
    embeddings: bool | None = None
    pooling: Pooling | None = None
    vision: bool | None = None
    trust_gpu: bool | None = None
    given: frozenset[str] = field(default_factory=frozenset, compare=False)


CHAT = LoadChoice(parallel=1, embeddings=False, vision=False)
"""One conversation of text with a model that answers, as `run` and the app hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """The files that are loaded beside a model, each passed by the gatekeeper.

    `draft_path` is the file whose header is `draft`; `maps_slowly`: the model's file is where
    mapping it is slow; `warnings` say which companions of the model cannot be used and what it does
    without them.
    """

    loras: tuple[Lora, ...] = ()
    mmproj: Mmproj | None = None
    draft_path: str | None = None
    draft: ModelSpec | None = None
    chat_template: ChatTemplateFile | None = None
    maps_slowly: bool = False
    warnings: tuple[str, ...] = ()


class NotGenerative(UsageError):
    """A model that does not continue text was to answer.

    `reason` says what it is instead; `embeds`: it can be loaded for embeddings or ranking.
    """

    def __init__(self, spec: ModelSpec, name: str, reason: str) -> None:
        super().__init__(
            f"{single_line(name)} ({spec.architecture}) is {reason}. "
            "This verb needs a model that answers; `localllm ls` lists what is installed."
        )
        self.reason = reason
        self.embeds = is_embedding_model(spec)


def require_generative(spec: ModelSpec, name: str) -> None:
    """Raise NotGenerative for a model that does not continue text, such as a reranker."""
    if (reason := why_not_generative(spec)) is not None:
        raise NotGenerative(spec, name, reason)


def context_or_default(context: int | None, settings: Settings) -> int:
    """Return the context to ask of any model: the given one, the settings', or the default."""
    return context or settings.context or DEFAULT_CONTEXT


def loads_for_embeddings(choice: LoadChoice, spec: ModelSpec) -> bool:
    """Decide whether the model is loaded for embeddings instead of answers."""
    return is_embedding_model(spec) if choice.embeddings is None else choice.embeddings


def check_purpose(choice: LoadChoice, spec: ModelSpec, name: str) -> None:
    """Raise UsageError (NotGenerative) when the model is not made for what it is loaded for."""
    if choice.embeddings is False:
        require_generative(spec, name)
    if choice.pooling is not None and not loads_for_embeddings(choice, spec):
        raise UsageError(
            f"{single_line(name)} answers, so nothing of it is pooled: --pooling belongs to "
            "--embeddings."
        )


def load_candidates(
    choice: LoadChoice, spec: ModelSpec, settings: Settings, companions: Companions
) -> tuple[LoadSettings, ...]:
    """List the settings to try, the best first; there are several only where `parallel` was left
    open.

    Raises UsageError as `load_settings` does.
    """
    counts = AUTO_PARALLEL if choice.parallel is None else (choice.parallel,)
    return tuple(
        load_settings(replace(choice, parallel=parallel), spec, settings, companions)
        for parallel in counts
    )


def load_settings(
    choice: LoadChoice, spec: ModelSpec, settings: Settings, companions: Companions
) -> LoadSettings:
    """Decide what `choice` leaves open; `parallel` is then the first of AUTO_PARALLEL.

    A context that was said is taken as it is; one that was not is capped by the training context,
    unless positions are scaled.
    Raises UsageError for a model that has no embeddings, or no score to rank by, when it is to be
    loaded for them.
    """
    embeddings = loads_for_embeddings(choice, spec)
    context = choice.context
    rope = _rope_settings(choice)
    if context is None:
        context = context_or_default(None, settings)
        if rope == ROPE_OF_HEADER:
            context = capped_context(context, spec)
    load = LoadSettings(
        context=context,
        parallel=choice.parallel or AUTO_PARALLEL[0],
        kv_type_k=choice.kv_type,
        kv_type_v=choice.kv_type,
        batch=choice.batch,
        ubatch=min(choice.ubatch, choice.batch),
        gpu_layers=choice.gpu_layers,
        cpu_moe=choice.cpu_moe,
        flash_attention=choice.flash_attention,
        swa_full=choice.swa_full,
        cache_ram=_cache_ram(choice, settings),
        threads=choice.threads or settings.threads,
        mmap=not companions.maps_slowly if choice.mmap is None else choice.mmap,
        kv_offload=choice.kv_offload,
        speculate=Speculate.OFF if embeddings else choice.speculate,
        draft=companions.draft_path,
        loras=companions.loras,
        embeddings=embeddings,
        pooling=choice.pooling,
        mmproj=companions.mmproj,
        chat_template=companions.chat_template,
        parse_special=settings.parse_special,
        rope=rope,
    )
    return with_embedding_defaults(spec, with_rope_scaling(spec, load))


def _cache_ram(choice: LoadChoice, settings: Settings) -> int | None:
    if choice.cache_ram is not None or settings.cache_ram is None:
        return choice.cache_ram
    return parse_swap_bytes(settings.cache_ram)


def choice_for_model(choice: LoadChoice, name: str, settings: Settings) -> LoadChoice:
    """Fill in what the settings say of a model by its name.

    Of its table: what was neither given on the command line nor is what the front end needs.
    """
    free, values = LoadChoice(), dict[str, Any]()  # each was checked by its ModelOption
    for key, value in dict(settings.models).get(name, ()):
        left_open = key not in choice.given and MODEL_OPTIONS[key].load
        if left_open and getattr(choice, key) == getattr(free, key):
            values[key] = _ENUMS[key](str(value)) if key in _ENUMS else value
    choice = replace(choice, **values)
    scaling = dict(settings.rope_scaling).get(name)
    if choice.rope_scaling is not None or scaling is None:
        return choice
    return replace(choice, rope_scaling=RopeScaling(scaling))


_ENUMS: Mapping[str, type[StrEnum]] = {
    "kv_type": KvType,
    "speculate": Speculate,
    "pooling": Pooling,
}


def context_warnings(
    choice: LoadChoice, spec: ModelSpec, load: LoadSettings, name: str
) -> tuple[str, ...]:
    """Say what is wrong with the context of a load, in at most one sentence."""
    warning = context_warning(spec, load, name, requested=choice.context)
    return () if warning is None else (warning,)


def _rope_settings(choice: LoadChoice) -> RopeSettings:
    freq_scale = choice.rope_freq_scale
    if choice.rope_scale is not None:
        if freq_scale is not None:
            raise UsageError(
                "--rope-scale N and --rope-freq-scale 1/N are the same: leave one of them out."
            )
        freq_scale = 1 / choice.rope_scale
    return RopeSettings(
        scaling=choice.rope_scaling,
        freq_base=choice.rope_freq_base,
        freq_scale=freq_scale,
        yarn_orig_ctx=choice.yarn_orig_ctx,
    )
