"""The library's own files that no entry names: what a damaged index may have lost."""

from collections.abc import Iterator
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.library.files import names, paths
from localllm.library.store.index_entry import Origin, entry_of
from localllm.library.store.inspect import InspectedModel, encoder_at, inspect_model
from localllm.library.store.installed import InstalledModel, Part


def with_own_files(models: tuple[InstalledModel, ...], data: Path) -> tuple[InstalledModel, ...]:
    """Add the hard links and downloads that none of `models` has."""
    known = {part.path for model in models for part in model.all_files}
    found = {model.name: model for model in models}
    for file, source in _own_files(data):
        if file in known:
            continue
        try:
            seen = inspect_model(file)
        except LocalLLMError:
            continue  # a part whose others are gone, an encoder, what somebody else put there
        known.update(part.path for part in seen.parts)
        linked = source == "import"
        name = _name(seen, linked=linked)
        if name not in found:
            origin = Origin(source=source, mmproj=_encoder(file, name, linked))
            found[name] = entry_of(
                seen, name, seen.parts, origin=origin, owned=True, verified_at=None
            )
    return tuple(found.values())


def _own_files(data: Path) -> Iterator[tuple[Path, str]]:
    """Every file that may be a model of ours, and its source as far as its place tells it."""
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


def _encoder(file: Path, name: str, linked: bool) -> Part | None:
    """The encoder of a hard link is called after it; that of a download is the first beside it."""
    own = [file.with_name(f"{name}-mmproj.gguf")]
    for each in own if linked else sorted(file.parent.glob("*mmproj*.gguf")):
        try:
            return encoder_at(each)
        except LocalLLMError:
            continue
    return None


def _repo(relative: str) -> str:
    """`ORG/REPO[@COMMIT]` of a download's place; the oldest repositories have no ORG."""
    folders = relative.split("/")[:-1]
    return "/".join(folders[:2])


def _name(seen: InspectedModel, *, linked: bool) -> str:
    """A hard link is called as its model was; a download as its publisher called it."""
    own = seen.stem if linked else names.slug(seen.stem)
    return own if names.valid(own) else next(names.candidates(seen.spec, ""))
