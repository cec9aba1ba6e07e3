"""Find the library's own files that no entry names: what a damaged index has lost.

A module of its own, because it is the one reader of the library that trusts no index: it inspects
the files that are there.
"""

from collections.abc import Iterator
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.library.files import names, paths
from localllm.library.files.model_names import name_candidates
from localllm.library.store.index_entry import Origin, new_entry
from localllm.library.store.inspect import InspectedModel, inspect_mmproj, inspect_model
from localllm.library.store.installed import InstalledFile, InstalledModel


def with_unlisted_files(
    models: tuple[InstalledModel, ...], data: Path
) -> tuple[InstalledModel, ...]:
    """Add the hard links and downloads that belong to none of `models`."""
    known = {part.path for model in models for part in model.all_files}
    found = {model.name: model for model in models}
    for file, source in _own_files(data):
        if file in known:
            continue
        try:
            inspected = inspect_model(file)
        except LocalLLMError:
            continue  # a part whose others are gone, an mmproj, or a file that is not ours
        known.update(part.path for part in inspected.parts)
        linked = source == "import"
        name = _name(inspected, linked=linked)
        if name not in found:
            origin = Origin(source=source, mmproj=_mmproj(file, name, linked))
            found[name] = new_entry(
                inspected, name, inspected.parts, origin=origin, owned=True, verified_at=None
            )
    return tuple(found.values())


def _own_files(data: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file that may be a model of the library, and the source that its place tells."""
    for file in sorted(paths.models_dir(data).glob("*.gguf")):
        yield file, "import"
    hub = paths.hub_dir(data)
    for file in sorted(hub.glob("*/**/*.gguf")):
        relative = file.relative_to(hub).as_posix()
        try:
            names.below(hub, relative)
        except LocalLLMError:
            continue
        yield file, f"hub:{_repo(relative)}"


def _mmproj(file: Path, name: str, linked: bool) -> InstalledFile | None:
    """Return a model's mmproj: named after a hard link, the first beside a download."""
    own = [file.with_name(f"{name}-mmproj.gguf")]
    for each in own if linked else sorted(file.parent.glob("*mmproj*.gguf")):
        try:
            return inspect_mmproj(each)
        except LocalLLMError:
            continue
    return None


def _repo(relative: str) -> str:
    """Return `ORG/REPO[@COMMIT]` from a download's place; the oldest repositories have no ORG."""
    folders = relative.split("/")[:-1]
    return "/".join(folders[:2])


def _name(inspected: InspectedModel, *, linked: bool) -> str:
    """Return a model's name: a hard link has it as its own, a download gets its publisher's."""
    name = inspected.stem if linked else names.slug(inspected.stem)
    return name if names.valid(name) else next(name_candidates(inspected.spec, ""))
