"""A verb imports only what it uses: `suggest` answers at once because of that."""

import gc
import subprocess
import sys

import click

from localllm.cli.main import LazyGroup

NOT_FOR_SUGGEST = {
    "asyncio", "httpx2", "huggingface_hub", "importlib.metadata", "keyring", "llama_cpp",
    "localllm.engine.client.client", "localllm.library.store.store",
    "numpy", "rich", "textual",
}  # fmt: skip
LISTING = """
import sys
from localllm.cli.main import main
try:
    main()
finally:
    print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""


def test_a_suggestion_for_a_described_machine_loads_neither_engine_nor_library_nor_network() -> (
    None
):
    done = subprocess.run(
        [sys.executable, "-c", LISTING, "suggest", "--ram", "16GiB", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "localllm.core.recommend.search" in loaded
    assert not NOT_FOR_SUGGEST & loaded


def test_the_garbage_collector_runs_again_once_a_verb_is_imported() -> None:
    group = LazyGroup("localllm")
    context = click.Context(group)
    assert group.get_command(context, "suggest") is not None
    assert gc.isenabled()
