"""The spellings of an installed model's name that people try.

Pure. Case, and whether words are joined by a dash, a dot, an underscore, a blank or a colon, make
no difference; nor do `.gguf` and Ollama's `:latest`. The quant may stand behind the name, or not.
"""

import re
from collections.abc import Iterator, Sequence

from localllm.core.model.file_types import label_in, split_of, without_quant
from localllm.library.files.names import spelling_key
from localllm.library.store.installed import InstalledModel

_SUFFIX = re.compile(r"\.gguf\Z", re.IGNORECASE)
_REPOSITORY_SUFFIX = "-gguf"
_HUB = "hub:"


def models_spelled(text: str, models: Sequence[InstalledModel]) -> tuple[InstalledModel, ...]:
    """Return the models that are called so in some spelling; those whose own name it is first of
    all, and alone."""
    key = spelling_key(text)
    if not key:
        return ()
    own = tuple(model for model in models if spelling_key(model.name) == key)
    return own or tuple(model for model in models if key in set(_keys(model)))


def _keys(model: InstalledModel) -> Iterator[str]:
    """Yield the keys of a model: its name, its file's and its repository's, with the quant and
    without."""
    file = model.path.name
    split = split_of(file)
    stem = _SUFFIX.sub("", split[0] if split else file)
    texts = [model.name, stem, without_quant(stem)]
    if label := label_in(model.name):
        texts.append(re.sub(re.escape(label), "", model.name, flags=re.IGNORECASE))
    if model.source.startswith(_HUB):
        texts.append(model.source.removeprefix(_HUB).partition("@")[0].rpartition("/")[2])
    for text in texts:
        for key in {spelling_key(text), spelling_key(text).removesuffix(_REPOSITORY_SUFFIX)}:
            yield key
            if model.quant:
                yield f"{key}-{spelling_key(model.quant)}"
