"""A driven scheduler whose cells can be kept in files, and such a file."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.kv_cache.state_file import ModelFiles, States
from tests.engine import tiny
from tests.engine.driven import Driven, _log, settings

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
STORY = "".join(random.Random(7).choices(tiny.CHARACTERS, k=120))
MORE = "".join(random.Random(8).choices(tiny.CHARACTERS, k=20))


class Kept(Driven):
    """A driven scheduler with its states."""

    def __init__(
        self,
        path: Path,
        load: LoadSettings,
        *,
        free_bytes: int = 2**40,
        chat_template: str | None = None,
    ) -> None:
        files = ModelFiles(str(path), load.loras)
        super().__init__(path, load)
        self.states = States(
            self.model,
            self.scheduler.cells,
            files=files,
            log=_log[0],
            chat_template=chat_template,
            free_bytes=lambda _: free_bytes,
        )

    def save(self, text: str, path: Path, **limits: int) -> tuple[int, int]:
        tokens = self.model.tokenize(text, special=False)
        kept = self.states.save(tokens, path, key=KEY, **limits)
        self.check()
        return kept

    def restore(self, path: Path, key: bytes = KEY) -> int:
        try:
            return self.states.restore(path, key=key)
        finally:
            self.check()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    return tiny.plain(tmp_path_factory.mktemp("model") / "plain.gguf")


class File(bytes):
    """The bytes of a file, too many to be shown."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def saved(plain: Path, tmp_path_factory) -> bytes:  # type: ignore[no-untyped-def]
    """The bytes of a file of STORY and its answer."""
    path = tmp_path_factory.mktemp("state") / "cells"
    with closing(Kept(plain, settings())) as engine:
        engine.save(STORY + engine.ask(STORY), path)
    return File(path.read_bytes())


@pytest.fixture(scope="module")
def reader(plain: Path) -> Iterator[Kept]:
    with closing(Kept(plain, settings())) as engine:
        yield engine


@pytest.fixture(scope="module")
def saved_by_one(plain: Path, tmp_path_factory) -> bytes:  # type: ignore[no-untyped-def]
    """As `saved`, of an engine with one slot: its cells are one pool."""
    path = tmp_path_factory.mktemp("state") / "cells"
    with closing(Kept(plain, settings(parallel=1))) as engine:
        engine.save(STORY + engine.ask(STORY), path)
    return File(path.read_bytes())
