"""`localllm doctor`: each check alone, and the whole as a person and a program run it."""

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from localllm.cli.commands.setup import checks
from localllm.cli.commands.setup.doctor import answer, candidates
from localllm.core.hardware import (
    Backend,
    Cpu,
    Device,
    DeviceKind,
    EngineBuild,
    HardwareInfo,
    Memory,
    NetworkAccess,
)
from localllm.errors import ExitCode, UsageError
from localllm.library.files.settings import Settings
from localllm.library.store.store import Store
from localllm.runtime.effective_settings import effective_settings
from tests.cli.test_library_verbs import failed, localllm
from tests.library import tiny
from tests.runtime.fake_machine import FakeMachine

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")

BUILD = EngineBuild(
    version="1.0",
    commit="abc",
    backends=("CPU",),
    gpu_offload=False,
    network=NetworkAccess(blocked=True, detail="refused"),
)
MACHINE = HardwareInfo(
    cpu=Cpu(name="cpu", cores_physical=2, cores_usable=2),
    ram=Memory(total_bytes=2**34, available_bytes=2**33),
    engine=BUILD,
)
GPU = Device(kind=DeviceKind.GPU, name="RTX 3090", backend=Backend.CUDA)


def test_an_engine_that_does_not_start_is_reported_with_its_reason() -> None:
    assert checks.engine(MACHINE).ok
    broken = replace(MACHINE, engine=None, warnings=("It does not import.", "other"))
    check = checks.engine(broken)
    assert not check.ok
    assert check.detail == "It does not import."
    assert check.fix is not None
    assert checks.gpu(broken).ok  # one fault, one line
    assert not checks.network_filter(broken).ok


def test_a_gpu_that_is_not_used_fails_with_the_advice() -> None:
    assert "none found" in checks.gpu(MACHINE).detail
    used = checks.gpu(replace(MACHINE, devices=(GPU,)))
    assert (used.ok, used.detail) == (True, "used: RTX 3090")
    unused = checks.gpu(replace(MACHINE, devices=(GPU,), warnings=("Rebuild it.",)))
    assert (unused.ok, unused.fix) == (False, "Rebuild it.")


@pytest.mark.parametrize(
    ("blocked", "system", "ok"),
    [(True, "linux", True), (False, "linux", False), (False, "win32", True)],
)
def test_the_filter_is_expected_where_there_is_one(blocked: bool, system: str, ok: bool) -> None:
    build = replace(BUILD, network=NetworkAccess(blocked=blocked, detail="fact"))
    check = checks.network_filter(replace(MACHINE, engine=build), system)
    assert (check.ok, check.detail) == (ok, "fact")


def test_settings_lists_what_is_not_the_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    assert checks.settings(lambda: effective_settings(file, {})).detail == "all are the defaults"
    file.write_text("context = 512\n", "utf-8")
    found = checks.settings(lambda: effective_settings(file, {"LOCALLLM_OFFLINE": "1"}))
    assert found.detail == f"offline (LOCALLLM_OFFLINE), context ({file} line 1)"
    file.write_text("context = 1\n", "utf-8")
    wrong = checks.settings(lambda: effective_settings(file, {}))
    assert not wrong.ok
    assert "line 1" in wrong.detail


def test_a_directory_that_cannot_be_written_to_names_its_variable(tmp_path: Path) -> None:
    good = checks.directory("data directory", tmp_path / "new" / "data", "LOCALLLM_DATA_DIR")
    assert good.ok
    assert "free" in good.detail
    (tmp_path / "file").write_text("", "utf-8")
    bad = checks.directory("data directory", tmp_path / "file" / "data", "LOCALLLM_DATA_DIR")
    assert not bad.ok
    assert bad.fix is not None
    assert "LOCALLLM_DATA_DIR" in bad.fix


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = (2**40, 2**40 - 2**20, 2**20)
    usage = type(shutil.disk_usage(tmp_path))(*full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert not checks.directory("data directory", tmp_path, "LOCALLLM_DATA_DIR").ok


@posix_only
def test_a_directory_that_everybody_may_change_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    check = checks.directory("data directory", tmp_path, "LOCALLLM_DATA_DIR")
    assert not check.ok
    assert check.fix == f"chmod o-w {tmp_path}"


def test_models_names_the_damaged_and_the_remedy(tmp_path: Path) -> None:
    store = Store.default()
    store.adopt(tiny.write(tmp_path / "my.gguf", name="My Model"))
    assert checks.models(store.installed).ok
    (tmp_path / "my.gguf").unlink()
    check = checks.models(store.installed)
    assert not check.ok
    assert "my-model" in check.detail
    assert check.fix is not None
    assert "localllm rm my-model" in check.fix
    assert checks.models(list).detail == "none is installed"


def test_a_library_that_cannot_be_read_is_a_check_that_fails() -> None:
    def read() -> list[object]:
        raise UsageError("no")

    check = checks.models(read)  # type: ignore[arg-type]  # it only raises
    assert (check.ok, check.detail) == (False, "no")


@posix_only
def test_keys_that_others_can_read_fail(tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    assert checks.api_key(file, {}).ok
    file.write_text("k" * 20 + "\n", "utf-8")
    file.chmod(0o600)
    assert checks.api_key(file, {}).ok
    file.chmod(0o644)
    check = checks.api_key(file, {})
    assert (check.ok, check.fix) == (False, f"chmod 600 {file}")
    assert "k" * 20 not in check.detail
    file.write_text("", "utf-8")
    assert not checks.api_key(file, {}).ok
    assert checks.api_key(file, {"LOCALLLM_API_KEY": "abc"}).ok
    assert not checks.api_key(file, {"LOCALLLM_API_KEY": "a b"}).ok


@posix_only
def test_a_hub_token_that_others_can_read_fails(tmp_path: Path) -> None:
    file = tmp_path / "token"
    environment = {"HF_TOKEN_PATH": str(file)}
    assert checks.hub_token(environment).ok
    file.write_text("hf_secret", "utf-8")
    file.chmod(0o600)
    assert checks.hub_token(environment).ok
    file.chmod(0o640)
    check = checks.hub_token(environment)
    assert (check.ok, check.fix) == (False, f"chmod 600 {file}")
    assert "hf_secret" not in check.detail
    assert "HF_TOKEN" in checks.hub_token({"HF_TOKEN": "hf_secret"}).detail


def test_network_lists_route_and_certificates_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    check = checks.network(Settings(), {"LOCALLLM_OFFLINE": "1"})
    assert check.ok
    assert "proxy http://proxy.example:3128" in check.detail
    assert "secret" not in check.detail
    missing = checks.network(Settings(ca_cert=str(tmp_path / "none.pem")), {})
    assert not missing.ok
    assert "none.pem" in missing.detail


def test_a_clock_before_the_installation_fails() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert checks.clock(now, now - timedelta(days=1)).ok
    assert not checks.clock(now, now + timedelta(days=1)).ok
    assert checks.installed_at() < datetime.now(UTC)


def test_the_smallest_intact_model_that_generates_comes_first(tmp_path: Path) -> None:
    store = Store.default()
    store.adopt(tiny.write(tmp_path / "small.gguf", name="Small"))
    gone = tiny.write(tmp_path / "gone.gguf", name="Gone")
    store.adopt(gone)
    gone.unlink()
    assert [model.name for model in candidates(store.installed())] == ["small", "starter"]


async def test_an_answer_that_is_too_short_is_not_one(tmp_path: Path) -> None:
    runtime = FakeMachine(tmp_path).runtime()
    check = await answer(runtime, runtime.resolve("starter"))
    assert not check.ok  # the fake engine has four tokens to say
    assert check.detail.startswith("starter generated 4 tokens")
    await runtime.close()


def test_the_whole_ends_with_a_real_answer() -> None:
    done = localllm("doctor", "--json")
    assert done.returncode == ExitCode.OK, done.stdout
    document = json.loads(done.stdout)
    assert document["ok"]
    assert {"name", "ok", "detail", "fix"} == document["checks"][0].keys()
    by_name = {check["name"]: check for check in document["checks"]}
    assert by_name["answer"]["detail"].startswith("starter generated 16 tokens")
    assert by_name["network filter"]["ok"]


def test_a_fault_is_one_line_and_status_1(home: Path, tmp_path: Path) -> None:
    (home / "config" / "settings.toml").write_text("contxt = 1\n", "utf-8")
    broken = tiny.write(tmp_path / "tiny.gguf", name="Tiny")
    localllm("import", broken)
    done = localllm("doctor")
    assert failed(done, ExitCode.FAILED) == ""
    lines = done.stdout.splitlines()
    assert any("FAILED  settings:" in line and "Did you mean context?" in line for line in lines)
    assert lines[-1].endswith("checks failed.")
