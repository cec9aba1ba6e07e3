"""Choose a name for a model of a file that says little: what a person would call it.

Many headers carry what a conversion left in `general.name`: "Model", "Merged", a checkpoint's
number, a folder, a commit. Then the file's own name, its base model or its folder says more. Pure.
"""

import re
from collections.abc import Iterator
from pathlib import PurePath

from localllm.core.model.file_types import label_in, without_quant
from localllm.core.model.spec import ModelSpec
from localllm.library.files.names import slug

_GENERIC_WORDS = (
    "base blobs checkpoint ckpt converted data default desktop documents downloads epoch "
    "export exported final finetune finetuned folder ggml gguf global hf huggingface instruct "
    "it latest llm lora main merge merged model models name out output outputs package quant "
    "quantized quants release result results safetensors snapshot snapshots step temp tmp "
    "trained training unknown unnamed untitled weights "
)
_SAYS_NOTHING = frozenset(_GENERIC_WORDS.split())
"""Words that a model's name does not consist of, as conversions and folders have them."""
_WORD = re.compile(r"[a-z0-9]+")
_SIZE = re.compile(r"[0-9]+[bm]")
_NUMBER_OR_HASH = re.compile(r"v?[0-9]+|[0-9a-f]{7,}")
_HASH = re.compile(r"[0-9a-f]{7,64}")
_REPOSITORY_FOLDER = re.compile(r"models--(?:[^-]|-(?!-))+--(?P<name>.+)")
_PATH = re.compile(r"[/\\\\]")
_MAX_FOLDERS = 3


def name_candidates(spec: ModelSpec, stem: str, folder: PurePath | None = None) -> Iterator[str]:
    """Yield names for a model, best first; the last one is always valid.

    Of `general.name`, the parts of llama.cpp's naming convention, the name of the file (`stem`) and
    the base model, in this order, those come first that have a word of their own or a size; then
    those that are not quite empty ("llama"); then the folder's name, then architecture and size.
    """
    texts = list(map(slug, _texts(spec, stem)))
    architecture = frozenset(_words(spec.architecture))
    yield from (name for name in texts if _says_something(name, architecture))
    yield from (name for name in texts if any(map(_is_own_word, _words(name))))
    yield from (name for name in map(slug, _folders(folder)) if _says_something(name, architecture))
    size = spec.metadata.get("general.size_label")
    if isinstance(size, str):
        yield from filter(None, (slug(f"{spec.architecture}-{size}"),))
    yield from filter(None, (slug(spec.name or ""), *texts))
    yield "model"


def _texts(spec: ModelSpec, stem: str) -> Iterator[str]:
    # A path: the name of what was converted is at its end.
    yield next((each for each in reversed(_PATH.split(spec.name or "")) if each.strip()), "")
    parts = (spec.metadata.get(f"general.{key}") for key in ("basename", "size_label", "finetune"))
    stated = [part for part in parts if isinstance(part, str)]
    if len(stated) > 1:
        yield "-".join(stated)
    yield without_quant(stem)
    base = spec.metadata.get("general.base_model.0.name")
    if isinstance(base, str):
        yield base


def _folders(folder: PurePath | None) -> Iterator[str]:
    """Yield the folder's name; of a cache's commit, or of a quant's own folder, the one above."""
    parents = () if folder is None else (folder, *folder.parents)[:_MAX_FOLDERS]
    for each in parents:
        match = _REPOSITORY_FOLDER.fullmatch(each.name)
        text = match["name"] if match else each.name
        if not (_HASH.fullmatch(text) or text == "snapshots" or label_in(text) == text.upper()):
            yield text
            return


def _says_something(name: str, architecture: frozenset[str]) -> bool:
    """Tell whether a name has a word of its own, or a size ("llama-8b", not "llama-v2")."""
    return any(
        _SIZE.fullmatch(word) or (len(word) > 1 and _is_own_word(word) and word not in architecture)
        for word in _words(name)
    )


def _is_own_word(word: str) -> bool:
    return word not in _SAYS_NOTHING and not _NUMBER_OR_HASH.fullmatch(word)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
