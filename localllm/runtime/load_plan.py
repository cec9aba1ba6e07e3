"""Read what a load needs from the disk, once: the model's header and its companions'.

A `LoadPlan` is what passed the gatekeeper, so sizing and loading need not read a file again. Large
vocabularies make a header cost a second, and each reading would be a check of another file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import LoadSettings, Mmproj
from localllm.core.text import single_line
from localllm.errors import LocalLLMError, UsageError
from localllm.library.files.settings import Settings
from localllm.library.store.companions import default_mmproj, inspected_lora, why_no_vision
from localllm.library.store.inspect import inspect_model, mmproj_for
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import (
    Companions,
    LoadChoice,
    check_purpose,
    load_candidates,
    loads_for_embeddings,
    require_generative,
)

Resolve = Callable[[str], InstalledModel]
"""Find an installed model or a file by its name. Raises NotFound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A load that can be sized and started: `spec` is the model's header, `draft` that of its
    draft model.

    The first of `candidates` that fits is loaded; when none does, the last says what is missing.
    `warnings` name companions of the model that are left out because they cannot be used.
    """

    model: InstalledModel
    spec: ModelSpec
    candidates: tuple[LoadSettings, ...]
    draft: ModelSpec | None = None
    warnings: tuple[str, ...] = ()

    @property
    def forced(self) -> "LoadPlan":
        """The plan with its first candidate alone, which is then loaded whether it fits or not."""
        return replace(self, candidates=self.candidates[:1])


def plan_load(
    model: InstalledModel, choice: LoadChoice, *, settings: Settings, resolve: Resolve
) -> LoadPlan:
    """Read the files of a load and decide its settings. Blocks: call it in a thread.

    Raises GgufError, also for a companion that does not fit the model, NotFound, StoreError, and
    UsageError for a model that cannot do what it is to be loaded for.
    """
    spec = read_spec(model.path)
    check_purpose(choice, spec, model.name)
    companions = read_companions(choice, spec, resolve=resolve)
    if choice.vision is not False and not loads_for_embeddings(choice, spec):
        mmproj, warnings = _vision(choice, model, spec)
        companions = replace(companions, mmproj=mmproj, warnings=warnings)
    return LoadPlan(
        model=model,
        spec=spec,
        candidates=load_candidates(choice, spec, settings, companions),
        draft=companions.draft,
        warnings=companions.warnings,
    )


def read_spec(path: Path) -> ModelSpec:
    """Pass a model's files (all parts of a split one) through the gatekeeper.

    Raises GgufError, NotFound, StoreError.
    """
    return inspect_model(path).spec


def read_companions(choice: LoadChoice, spec: ModelSpec, *, resolve: Resolve) -> Companions:
    """Read the adapters and the draft model that were named.

    Raises NotFound, GgufError, StoreError, and UsageError for a draft model that does not continue
    text.
    """
    loras = tuple(inspected_lora(lora, spec) for lora in choice.loras)
    if choice.draft is None:
        return Companions(loras=loras)
    found = resolve(choice.draft)
    draft = read_spec(found.path)
    require_generative(draft, found.name)
    return Companions(loras=loras, draft_path=str(found.path), draft=draft)


def _vision(
    choice: LoadChoice, model: InstalledModel, spec: ModelSpec
) -> tuple[Mmproj | None, tuple[str, ...]]:
    """Inspect the model's mmproj; one that cannot be used is a warning, and the model answers text
    without it. Only where vision is required does this raise: UsageError, GgufError, NotFound."""
    mmproj = default_mmproj(model)
    if mmproj is None:
        if choice.vision:
            raise UsageError(why_no_vision(model))
        return None, ()
    try:
        return mmproj_for(Path(mmproj.path), spec), ()
    except LocalLLMError as error:
        if choice.vision:
            raise
        return None, (single_line(f"{error} {model.name} answers, but sees no images."),)
