"""Read what a load needs from the disk, once: the model's header and its companions'.

A `LoadPlan` is what passed the gatekeeper, so sizing and loading need not read a file again. Large
vocabularies make a header cost a second, and each reading would be a check of another file.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import ChatTemplateFile, LoadSettings, Mmproj
from localllm.core.text import single_line
from localllm.engine.messages.limits import MAX_TEMPLATE_CHARS
from localllm.errors import NotFound, UsageError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.library.files.settings import Settings
from localllm.library.store.companions import (
    default_mmproj,
    inspected_lora,
    usable_mmproj,
    why_no_vision,
)
from localllm.library.store.inspect import inspect_model, mmproj_for
from localllm.library.store.installed import InstalledModel
from localllm.machine.mounts import network_filesystem
from localllm.policy.active import active_policy, require
from localllm.runtime.load_policy import (
    Companions,
    LoadChoice,
    check_purpose,
    choice_for_model,
    context_warnings,
    load_candidates,
    loads_for_embeddings,
    require_generative,
)
from localllm.runtime.loading.permission import facts_of, require_load

Resolve = Callable[[str], InstalledModel]
"""Find an installed model or a file by its name. Raises NotFound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A load that can be sized and started: `spec` is the model's header, `draft` that of its
    draft model.

    The first of `candidates` that fits is loaded; when none does, the last says what is missing.
    `warnings` name companions of the model that are left out because they cannot be used, a context
    that is too long for it, and a file that is read instead of mapped. `trust_gpu`: its devices are
    not tested.
    """

    model: InstalledModel
    spec: ModelSpec
    candidates: tuple[LoadSettings, ...]
    draft: ModelSpec | None = None
    warnings: tuple[str, ...] = ()
    trust_gpu: bool = False

    @property
    def on_processor(self) -> "LoadPlan":
        """The plan without any device."""
        return replace(
            self,
            candidates=tuple(replace(each, gpu_layers=0, cpu_moe=0) for each in self.candidates),
        )

    @property
    def forced(self) -> "LoadPlan":
        """The plan with its first candidate alone, which is then loaded whether it fits or not."""
        return replace(self, candidates=self.candidates[:1])


def plan_load(
    model: InstalledModel, choice: LoadChoice, *, settings: Settings, resolve: Resolve
) -> LoadPlan:
    """Read the files of a load and decide its settings. Blocks: call it in a thread.

    Raises GgufError, also for a companion that does not fit the model, NotFound, StoreError,
    UsageError for a model that cannot do what it is to be loaded for, and PolicyRefused.
    """
    spec = read_spec(model.path)
    choice = choice_for_model(choice, model.name, settings)
    check_purpose(choice, spec, model.name)
    companions = read_companions(choice, spec, resolve=resolve)
    remote = network_filesystem(model.path) if choice.mmap is None else None
    if remote is not None:
        companions = replace(companions, maps_slowly=True, warnings=(_not_mapped(model, remote),))
    if not loads_for_embeddings(choice, spec):
        companions = replace(companions, chat_template=_chat_template(choice, model, settings))
        # One that nobody has chosen is left out where it is forbidden.
        forbidden = choice.vision is None and active_policy().allows_images() is not None
        if choice.vision is not False and not forbidden:
            mmproj, warnings = _vision(choice, model, spec)
            companions = replace(companions, mmproj=mmproj, warnings=companions.warnings + warnings)
    elif choice.chat_template is not None:
        raise UsageError(
            f"{single_line(model.name)} is loaded for embeddings: --chat-template has no use there."
        )
    candidates = load_candidates(choice, spec, settings, companions)
    advice = require_load(model, spec, candidates[0])
    return LoadPlan(
        model=model,
        spec=spec,
        candidates=candidates,
        draft=companions.draft,
        trust_gpu=settings.trust_gpu if choice.trust_gpu is None else choice.trust_gpu,
        warnings=(
            *companions.warnings,
            *advice,
            *context_warnings(choice, spec, candidates[0], model.name),
        ),
    )


def read_spec(path: Path) -> ModelSpec:
    """Pass a model's files (all parts of a split one) through the gatekeeper.

    Raises GgufError, NotFound, StoreError.
    """
    return inspect_model(path).spec


def read_companions(choice: LoadChoice, spec: ModelSpec, *, resolve: Resolve) -> Companions:
    """Read the adapters and the draft model that were named.

    Raises NotFound, GgufError, StoreError, UsageError for a draft model that does not continue
    text, and PolicyRefused.
    """
    if choice.loras:
        require(active_policy().allows_adapter())
    loras = tuple(inspected_lora(lora, spec) for lora in choice.loras)
    if choice.draft is None:
        return Companions(loras=loras)
    found = resolve(choice.draft)
    require(active_policy().allows_load(facts_of(found)))
    draft = read_spec(found.path)
    require_generative(draft, found.name)
    return Companions(loras=loras, draft_path=str(found.path), draft=draft)


def _not_mapped(model: InstalledModel, remote: str) -> str:
    return (
        f"{single_line(model.name)} is on a network drive ({single_line(remote)}): its file is read"
        " into memory instead of mapped (--mmap maps it all the same). A copy on a local disk loads"
        " faster."
    )


def _chat_template(
    choice: LoadChoice, model: InstalledModel, settings: Settings
) -> ChatTemplateFile | None:
    """Read the template that was named, or that the settings name for this model.

    Raises NotFound, UsageError; the engine judges the template itself.
    """
    if choice.chat_template is not None:
        return read_chat_template(Path(choice.chat_template))
    named = dict(settings.chat_templates).get(model.name)
    if named is None:
        return None
    return read_chat_template(paths.settings_file().parent / Path(named).expanduser())


def read_chat_template(path: Path) -> ChatTemplateFile:
    """Read a file that holds a template, or JSON with one in "chat_template" as the Hub has it
    (tokenizer_config.json, chat_template.json).

    Raises NotFound, and UsageError for a file that is no text, too long or empty.
    """
    shown = printable(path)
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_TEMPLATE_CHARS + 1)
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"There is no file {shown} for the chat template.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The chat template {shown} cannot be read: {reason}.") from None
    source = _template_in(text)
    if not source.strip():
        raise UsageError(f"The chat template {shown} is empty.")
    if len(source) > MAX_TEMPLATE_CHARS:
        raise UsageError(
            f"The chat template {shown} has more than {MAX_TEMPLATE_CHARS} characters."
        )
    return ChatTemplateFile(path=shown, source=source)


def _template_in(text: str) -> str:
    """Return the template that a JSON document holds, or the text itself when it is none."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        found = json.loads(text)["chat_template"]
        if isinstance(found, list):  # several, by name
            found = next(each["template"] for each in found if each["name"] == "default")
    except (ValueError, LookupError, TypeError, StopIteration, RecursionError):
        return text
    return found if isinstance(found, str) else text


def _vision(
    choice: LoadChoice, model: InstalledModel, spec: ModelSpec
) -> tuple[Mmproj | None, tuple[str, ...]]:
    """Inspect the model's mmproj. Only where vision is required does this raise: UsageError,
    GgufError, NotFound."""
    if not choice.vision:
        return usable_mmproj(model, spec)
    mmproj = default_mmproj(model)
    if mmproj is None:
        raise UsageError(why_no_vision(model))
    return mmproj_for(Path(mmproj.path), spec), ()
