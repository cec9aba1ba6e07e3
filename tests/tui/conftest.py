from pathlib import Path

import pytest

from localllm.library.store.installed import InstalledModel
from tests.tui.made_up import Stage


@pytest.fixture
def stage(tmp_path: Path, smollm2: Path) -> Stage:
    """A library with the starter model alone, on a machine where it fits."""
    starter = InstalledModel(
        name="starter",
        quant="Q4_1",
        path=smollm2,
        size_bytes=smollm2.stat().st_size,
        source="starter",
    )
    return Stage(data_dir=tmp_path / "library", starter=starter)
