"""llama.cpp's dry run in a child process: of a whole file, of a header alone, of nonsense."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import BufferKind, FlashAttention, KvType, LoadSettings, Speculate
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import ProbeRequest
from localllm.engine.worker.llama.dry_run import probe
from localllm.errors import EngineCrashed, LoadFailed
from tests.core.dry_run import Sizes, dry_runs
from tests.core.forge import write
from tests.core.forge_published import DENSE

MIB = 2**20
HEADER_BYTES = 8 * MIB


def only(path: Path, load: LoadSettings) -> Sizes | str:
    (answer,) = dry_runs([(path, load)])
    return answer


def test_a_real_model_is_sized(smollm2: Path) -> None:
    sizes = only(smollm2, LoadSettings())
    assert not isinstance(sizes, str)
    assert sizes["kv"] == 90 * MIB
    assert sizes["output"] == pytest.approx(49152 * 4, abs=5500)


def test_a_header_alone_gives_the_same_sizes(gemma3: Path, tmp_path: Path) -> None:
    header = tmp_path / "header.gguf"
    with gemma3.open("rb") as whole:
        header.write_bytes(whole.read(HEADER_BYTES))
    assert header.stat().st_size < gemma3.stat().st_size
    load = LoadSettings(context=8192, parallel=2)
    alone = only(header, load)
    assert not isinstance(alone, str)
    assert alone == only(gemma3, load)
    assert alone["kv"] > 39 * MIB


def test_settings_change_what_is_sized(tmp_path: Path) -> None:
    path = tmp_path / "llama.gguf"
    write(DENSE[0], path)
    small, large = dry_runs(
        [
            (path, LoadSettings(kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0)),
            (path, LoadSettings(flash_attention=FlashAttention.OFF)),
        ]
    )
    assert not isinstance(small, str)
    assert not isinstance(large, str)
    assert small["kv"] < large["kv"]
    assert small["compute"] < large["compute"]


async def test_a_load_that_aborts_llama_cpp_ends_only_the_process_that_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "temporary"
    files.mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    path = tmp_path / "phi-4.gguf"
    write(next(forged for forged in DENSE if forged.name == "Phi-4"), path)
    aborts = LoadSettings(  # `core/sizing/footprint` refuses it before anybody is asked
        parallel=2, kv_unified=False, kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0
    )
    engine = ProcessEngine()
    with pytest.raises(EngineCrashed) as caught:
        await engine.probe(ProbeRequest(path=str(path), settings=aborts))
    assert caught.value.reason == "SIGABRT"
    assert "fatal error" in "\n".join(caught.value.log_tail)
    assert not engine.alive
    await engine.close()
    assert not list(files.glob("localllm-probe-*"))


def test_a_refusal_carries_llama_cpps_reason(tmp_path: Path) -> None:
    path = tmp_path / "llama.gguf"
    write(DENSE[0], path)
    refused = only(path, LoadSettings(kv_type_v=KvType.Q8_0, flash_attention=FlashAttention.OFF))
    assert isinstance(refused, str)
    assert "requires flash_attn" in refused


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"not a model at all", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16],
    ids=["empty", "magic only", "other file", "huge counts"],
)
def test_nonsense_is_refused_before_native_code(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nonsense.gguf"
    path.write_bytes(content)
    with pytest.raises(LoadFailed, match=r"nonsense\.gguf cannot be probed"):
        probe(str(path), LoadSettings())


@pytest.mark.parametrize("cut", [30, 200, 1000])
def test_a_header_that_ends_early_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    write(DENSE[0], path)
    with path.open("rb") as whole:
        head = whole.read(cut)
    path.write_bytes(head)
    with pytest.raises(LoadFailed, match="the header goes on"):
        probe(str(path), LoadSettings())


def test_a_missing_file_is_a_refusal(tmp_path: Path) -> None:
    refused = only(tmp_path / "nowhere.gguf", LoadSettings())
    assert isinstance(refused, str)
    assert "nowhere.gguf" in refused


def test_rows_for_drafts_are_counted_and_cost_logits_alone(smollm2: Path) -> None:
    vocabulary = 49152
    plain = LoadSettings(context=512, parallel=2)
    drafting = replace(plain, speculate=Speculate.AUTO)
    before = {part.kind: part.size_bytes for part in probe(str(smollm2), plain)}
    after = {part.kind: part.size_bytes for part in probe(str(smollm2), drafting)}
    more = after.pop(BufferKind.OUTPUT) - before.pop(BufferKind.OUTPUT)
    assert more == pytest.approx(drafting.draft_max * vocabulary * 4, rel=0.02)
    assert after == before
