"""Whether the policy lets a model be loaded or fetched: the facts of it, and the one question that
every load asks with them.

A rule about SHA-256 sums is about the bytes that are loaded, and what the library has recorded
stands in a file of the user's: the files are hashed then, once in a process while they stay as they
are.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from localllm.core.model.spec import ModelSpec
from localllm.core.policy.policy import ModelFacts
from localllm.core.sizing.load import LoadSettings
from localllm.library.files.checksum import sha256_of
from localllm.library.store.installed import InstalledModel
from localllm.policy.active import active_policy, require

_HUB = "hub:"
_sums: dict[tuple[str, int, int, int], str] = {}
"""SHA-256 by path, inode, size and time of the last change."""


def source_of(model: InstalledModel) -> str:
    """Return `ORGANIZATION/REPOSITORY` of a download of ours, else `local:` and where it is from.

    What another program says of its files (`lm-studio:org/repo`) proves no origin.
    """
    if model.source.startswith(_HUB):
        return model.source.removeprefix(_HUB).rpartition("@")[0]
    return f"local:{model.source.partition(':')[0]}"


def facts_of(model: InstalledModel, more_files: Sequence[Path] = ()) -> ModelFacts:
    """Return what the policy looks at; hashes the files, with those loaded beside them, where it
    looks at that. Blocks. Raises NotFound, StoreError."""
    sums = tuple(file.sha256 for file in model.files)
    if active_policy().pins_model_hashes():
        sums = tuple(map(_sum, (*(file.path for file in model.files), *more_files)))
    return ModelFacts(
        name=model.name,
        source=source_of(model),
        size_bytes=model.size_bytes,
        license=model.license,
        sha256s=sums,
    )


def require_load(
    model: InstalledModel, spec: ModelSpec | None, settings: LoadSettings
) -> tuple[str, ...]:
    """Raise PolicyRefused when the policy forbids this load: the model, its chat template, or what
    is loaded beside it. Returns what recommended rules have against it. Blocks."""
    policy = active_policy()
    if not (policy.enforced or policy.recommended):
        return ()
    if settings.loras:
        require(policy.allows_adapter())
    if settings.mmproj is not None:
        require(policy.allows_images())
    beside = [Path(lora.path) for lora in settings.loras]
    beside += [Path(settings.mmproj.path)] if settings.mmproj is not None else []
    facts = facts_of(model, beside)
    require(policy.allows_load(facts))
    own = settings.chat_template
    template = own.source if own is not None else spec.chat_template if spec is not None else None
    if template is not None and not settings.embeddings:
        digest = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()
        require(policy.allows_template(digest, model.name if own is None else own.path))
    return policy.advice_on_load(facts)


def _sum(path: Path) -> str:
    status = path.stat()
    key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _sums:
        _sums[key] = sha256_of(path)
    return _sums[key]
