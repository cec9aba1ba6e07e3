"""A stepped scheduler with state files, and such a file."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.kv_cache.state_file import ModelFiles, StateFiles
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, log, settings

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
STORY = "".join(random.Random(7).choices(tiny.CHARACTERS, k=120))
MORE = "".join(random.Random(8).choices(tiny.CHARACTERS, k=20))


class SavingScheduler(SteppedScheduler):
    """A stepped scheduler that saves and restores the sequences of its cache."""

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
        self.states = StateFiles(
            self.model,
            self.scheduler.kv_cache,
            files=files,
            log=log(),
            chat_template=chat_template,
            free_bytes=lambda _: free_bytes,
        )

    def save(self, text: str, path: Path, **limits: int) -> tuple[int, int]:
        tokens = self.model.vocab.tokenize(text, special=False)
        saved = self.states.save(tokens, path, key=KEY, **limits)
        self.check()
        return saved

    def restore(self, path: Path, key: bytes = KEY) -> int:
        try:
            return self.states.restore(path, key=key)
        finally:
            self.check()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "directory").mkdir()
    return tmp_path / "directory"


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
    with closing(SavingScheduler(plain, settings())) as engine:
        engine.save(STORY + engine.ask(STORY), path)
    return File(path.read_bytes())


@pytest.fixture(scope="module")
def reader(plain: Path) -> Iterator[SavingScheduler]:
    with closing(SavingScheduler(plain, settings())) as engine:
        yield engine


@pytest.fixture(scope="module")
def saved_by_one(plain: Path, tmp_path_factory) -> bytes:  # type: ignore[no-untyped-def]
    """As `saved`, of an engine with one slot: its cells are one pool."""
    path = tmp_path_factory.mktemp("state") / "cells"
    with closing(SavingScheduler(plain, settings(parallel=1))) as engine:
        engine.save(STORY + engine.ask(STORY), path)
    return File(path.read_bytes())
