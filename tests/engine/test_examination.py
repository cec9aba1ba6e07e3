"""The proof of an engine: what is accepted, and everything that is refused with its reason."""

import json
import os
import sys
from pathlib import Path

import pytest

from localllm.core.hardware import EngineBuild
from localllm.engine.builds.candidates import chosen_candidate
from localllm.engine.builds.verdict import Verdict, VerdictFile, fingerprint
from localllm.engine.client import examination
from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.examination import proved_engine, verdict_of
from localllm.engine.worker.llama import counting_model
from localllm.errors import EngineUnavailable
from tests.engine import broken_builds as broken
from tests.engine.stepped_scheduler import log

NAN = float("nan")
only_linux_x86 = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="changes x86-64 code"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    return broken.copy_of_engine(directory)


async def refusal(directory: Path) -> Verdict:
    verdict = await examination.examine(broken.candidate(directory))
    assert not verdict.accepted
    assert verdict.advice
    assert str(directory) in verdict.message
    return verdict


async def test_the_engine_is_accepted_with_all_that_is_known_of_it() -> None:
    verdict = await examination.examine(chosen_candidate())
    assert verdict.accepted, verdict.message
    assert verdict.build is not None
    assert any(device.kind == "cpu" for device in verdict.build.devices)
    assert verdict.build.commit
    assert verdict.llama_cpp
    assert verdict.vision_problem is None
    assert {name for name, _ in verdict.layouts} == {
        "llama_model_params", "llama_context_params", "mtmd_context_params",
    }  # fmt: skip


async def test_a_copy_in_a_directory_of_ones_own_is_accepted(copy: Path) -> None:
    verdict = await examination.examine(broken.candidate(copy))
    assert verdict.accepted, verdict.message
    assert verdict.build is not None
    assert verdict.build.name == str(copy)


# --- what is refused ---


async def test_a_text_file_is_no_library(copy: Path) -> None:
    broken.library(copy, "llama").write_text("I am a library, believe me.\n")
    assert "is not a shared library" in str((await refusal(copy)).refused)


@pytest.mark.parametrize("role", ["ggml-base", "llama", "mtmd"])
async def test_a_truncated_library_is_refused(copy: Path, role: str) -> None:
    broken.truncate(broken.library(copy, role))
    assert "is truncated: it has" in str((await refusal(copy)).refused)


async def test_a_truncated_backend_is_refused(copy: Path) -> None:
    broken.truncate(broken.backend(copy))
    assert "is truncated" in str((await refusal(copy)).refused)


async def test_a_library_of_another_processor_is_refused(copy: Path) -> None:
    machine = b"\xb7" if os.uname().machine != "aarch64" else b"\x3e"
    broken.write_at(broken.library(copy, "ggml"), 18, machine + b"\0")
    assert "and this Python runs on" in str((await refusal(copy)).refused)


async def test_a_library_without_a_function_is_refused_with_its_name(copy: Path) -> None:
    for name in ("llama_vocab_get_add_sep", "llama_print_system_info"):
        broken.rename_function(copy, "llama", name)
    verdict = await refusal(copy)
    assert "lacks functions" in str(verdict.refused)
    assert "llama_vocab_get_add_sep" in str(verdict.refused)
    assert "llama_print_system_info" in str(verdict.refused)
    assert "pip install" in verdict.advice


async def test_a_library_that_is_not_llama_cpp_is_refused(copy: Path) -> None:
    broken.library(copy, "llama").write_bytes(broken.library(copy, "ggml").read_bytes())
    assert "has no function llama_model_default_params" in str((await refusal(copy)).refused)


async def test_a_build_without_images_is_accepted_and_says_why(copy: Path) -> None:
    broken.rename_function(copy, "mtmd", "mtmd_helper_log_set")
    verdict = await examination.examine(broken.candidate(copy))
    assert verdict.accepted, verdict.message
    assert "mtmd_helper_log_set" in str(verdict.vision_problem)
    broken.library(copy, "mtmd").unlink()
    verdict = await examination.examine(broken.candidate(copy))
    assert verdict.accepted, verdict.message
    assert "has no mtmd library" in str(verdict.vision_problem)


@only_linux_x86
async def test_a_struct_of_an_unknown_layout_is_refused(copy: Path) -> None:
    source, target = "llama_context_default_params", "llama_model_default_params"
    broken.replace_function(copy, "llama", source, broken.jump("llama", source, target))
    verdict = await refusal(copy)
    assert "unknown layout of llama_context_params" in str(verdict.refused)
    assert "0c1e570 and 86a2835" in str(verdict.refused)


@only_linux_x86
@pytest.mark.parametrize(
    ("function", "when"),
    [
        ("llama_backend_init", "when it looked for its devices"),
        ("llama_decode", "when it computed with a test model"),
    ],
)
async def test_an_illegal_instruction_is_an_answer(copy: Path, function: str, when: str) -> None:
    broken.replace_function(copy, "llama", function, broken.ILLEGAL)
    verdict = await refusal(copy)
    assert "an instruction that this processor does not have" in str(verdict.refused)
    assert when in str(verdict.refused)
    assert "built for another processor" in verdict.advice
    assert verdict.end == "SIGILL"


@only_linux_x86
async def test_a_build_that_computes_nothing_is_refused(copy: Path) -> None:
    broken.replace_function(copy, "llama", "llama_decode", b"\x31\xc0" + broken.RETURN)  # return 0
    assert (await refusal(copy)).refused


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
async def test_a_directory_that_everybody_can_write_is_refused(copy: Path) -> None:
    broken.set_mode(copy, 0o777)
    assert "can be written by every user" in str((await refusal(copy)).refused)
    broken.set_mode(copy, 0o755)
    broken.set_mode(broken.library(copy, "llama"), 0o666)
    assert "can be written by every user" in str((await refusal(copy)).refused)


async def test_a_directory_without_a_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="holds no build"):
        fingerprint(broken.candidate(tmp_path))
    assert "holds no build of llama.cpp" in str((await refusal(tmp_path)).refused)


async def test_an_engine_that_is_refused_runs_no_model_and_says_why(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.rename_function(copy, "llama", "llama_vocab_get_add_sep")
    monkeypatch.setenv("LOCALLLM_ENGINE", str(copy))
    engine = ProcessEngine()
    with pytest.raises(EngineUnavailable, match=r"cannot be used: .*llama_vocab_get_add_sep"):
        await engine.describe()
    await engine.close()


async def test_a_test_model_that_cannot_be_written_is_said() -> None:
    program = (sys.executable, "-c", _NO_TEMPORARY_FILES)
    verdict = await examination.examine(chosen_candidate(), program)
    assert "no test model can be written" in str(verdict.refused)
    assert "TMPDIR" in verdict.advice


_NO_TEMPORARY_FILES = """
import tempfile
from localllm.engine.worker.examination import main
def refuse(*_, **__):
    raise FileNotFoundError(2, "No usable temporary directory found")
tempfile.TemporaryDirectory = refuse
main()
"""


@only_linux_x86
async def test_what_the_machine_lacks_is_added_to_an_illegal_instruction(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.replace_function(copy, "llama", "llama_decode", broken.ILLEGAL)
    monkeypatch.setenv("LOCALLLM_ENGINE", str(copy))
    engine = ProcessEngine(crash_advice=lambda reason: f" ({reason} on this machine)")
    with pytest.raises(EngineUnavailable, match=r"another processor.* \(SIGILL on this machine\)"):
        await engine.describe()
    await engine.close()


# --- the ends of the process ---


@pytest.mark.parametrize(
    ("lines", "log", "status", "refused"),
    [
        (b'{"step":"decode"}\n', b"", 0xC000001D, "an instruction that this processor does not"),
        (
            b'{"step":"load"}\n',
            b"",
            -7,
            "its libraries were loaded (SIGBUS): a file that ends",
        ),
        (b'{"step":"backends"}\n', b"a\nGGML_ASSERT(x) failed\n", -6, "GGML_ASSERT(x) failed"),
        (b"", b"ModuleNotFoundError: x", 1, "the process ended (exit status 1): ModuleNotFound"),
        (
            b'garbage\n{"step":"who knows"}\n{"verd',
            b"",
            -9,
            "the system killed the process (SIGKILL)",
        ),
    ],
)
def test_a_process_that_ends_without_a_verdict_gets_one(
    lines: bytes, log: bytes, status: int, refused: str
) -> None:
    verdict = verdict_of("x", lines, log, status)
    assert refused in str(verdict.refused)
    assert verdict.advice


async def test_an_examination_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "TIMEOUT_S", 0.2)
    program = (sys.executable, "-c", "import time; time.sleep(600)")
    verdict = await examination.examine(chosen_candidate(), program)
    assert "did not end within" in str(verdict.refused)


async def test_an_examination_that_cannot_be_started_is_an_error_of_the_engine() -> None:
    with pytest.raises(EngineUnavailable, match="does not start"):
        await examination.examine(chosen_candidate(), ("/no/such/program",))


# --- the model that counts ---


def test_the_counting_model_counts(tmp_path: Path) -> None:
    path = tmp_path / "counting.gguf"
    counting_model.write_counting_model(path)
    tokens, logits = counting_model.count(path, log())
    assert counting_model.is_expected(tokens, logits)


@pytest.mark.parametrize(
    ("tokens", "logits"),
    [
        ((6, 7, 9), counting_model.EXPECTED_LOGITS),
        (counting_model.EXPECTED, (NAN, 33.31, 30.09)),
        (counting_model.EXPECTED, (30.21, 33.31, 45.0)),
        (counting_model.EXPECTED, (30.21, -33.31, 30.09)),
    ],
)
def test_another_answer_is_not_expected(tokens: tuple[int, ...], logits: tuple[float, ...]) -> None:
    assert not counting_model.is_expected(tokens, logits)


# --- what is kept ---


async def test_an_accepted_engine_is_examined_again_only_when_a_file_changes(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, examined = tmp_path / "cache" / "engines.json", list[str]()
    real = examination.examine

    async def counted(candidate, *rest):  # type: ignore[no-untyped-def]
        examined.append(candidate.name)
        return await real(candidate, *rest)

    def forget() -> None:
        monkeypatch.setattr(examination, "_accepted", {})

    monkeypatch.setattr(examination, "examine", counted)
    monkeypatch.setenv("LOCALLLM_ENGINE", str(copy))
    forget()
    engine = await proved_engine(kept)
    assert engine.candidate.directory == copy
    await proved_engine(None)  # this process remembers
    forget()
    assert (await proved_engine(kept)).verdict == engine.verdict  # the file does
    assert len(examined) == 1
    os.utime(broken.library(copy, "ggml"))
    await proved_engine(kept)
    assert len(examined) == 2
    broken.truncate(broken.library(copy, "llama"))
    for _ in range(2):  # a refusal of what was chosen does not hold
        with pytest.raises(EngineUnavailable, match="truncated"):
            await proved_engine(kept)
    assert len(examined) == 4


def test_verdicts_are_kept_whole_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "engines.json"
    build = EngineBuild(version="1", commit="c", backends=("CPU",), gpu_offload=False)
    verdict = Verdict(engine="x", build=build, layouts=(("s", "c"),), seconds=0.5)
    kept = VerdictFile(path)
    assert kept.get("0") is None
    for i in range(20):
        kept.put(str(i), verdict)
    assert VerdictFile(path).get("19") == verdict
    assert kept.get("0") is None
    assert len(json.loads(path.read_bytes())) == 16
    assert [each.name for each in path.parent.iterdir()] == ["engines.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"1": {"engine": 3}}', b"\xff\x00"])
def test_a_damaged_file_of_verdicts_keeps_nothing_and_is_written_anew(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "engines.json"
    path.write_bytes(content)
    kept = VerdictFile(path)
    assert kept.get("1") is None
    kept.put("1", Verdict(engine="x"))
    assert kept.get("1") == Verdict(engine="x")


def test_verdicts_that_cannot_be_written_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    VerdictFile(tmp_path / "file" / "engines.json").put("1", Verdict(engine="x"))
    VerdictFile(None).put("1", Verdict(engine="x"))
