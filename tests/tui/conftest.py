from pathlib import Path

import pytest

from localllm.library.store.installed import InstalledModel
from tests.tui.fixtures import AppFixture


@pytest.fixture
def app_fixture(tmp_path: Path, smollm2: Path) -> AppFixture:
    """A library with the starter model alone, on a machine where it fits."""
    starter = InstalledModel(
        name="starter",
        quant="Q4_1",
        path=smollm2,
        size_bytes=smollm2.stat().st_size,
        source="starter",
    )
    return AppFixture(data_dir=tmp_path / "library", starter=starter)
