import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest

from localllm.errors import UsageError
from localllm.library.http import token


class Ring(keyring.backend.KeyringBackend):
    """A keyring that holds one thing, or fails."""

    priority = 1.0

    def __init__(self, secret: str | None, error: Exception | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # keyring has no types here
        self.secret = secret
        self.error = error
        self.lookups: list[tuple[str, str]] = []

    def get_password(self, service: str, username: str) -> str | None:
        self.lookups.append((service, username))
        if self.error is not None:
            raise self.error
        return self.secret

    def set_password(self, service: str, username: str, password: str) -> None:
        raise AssertionError("localllm only reads")


@pytest.fixture(autouse=True)
def fresh_keyring() -> Iterator[None]:
    """What one test's keyring holds is no other test's token."""
    token.from_keyring.cache_clear()
    yield
    token.from_keyring.cache_clear()


def with_ring(monkeypatch: pytest.MonkeyPatch, ring: Ring) -> Ring:
    monkeypatch.setattr(keyring.core, "_keyring_backend", ring)
    return ring


def test_the_environment_comes_before_the_file_and_the_file_before_the_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = with_ring(monkeypatch, Ring("hf_ring"))
    environment = {"HF_TOKEN": " hf_variable\n", "HF_HOME": str(tmp_path)}
    (tmp_path / "token").write_text("hf_file\n")
    assert token.find(environment) == "hf_variable"
    del environment["HF_TOKEN"]
    assert token.find(environment) == "hf_file"
    assert ring.lookups == []
    (tmp_path / "token").unlink()
    assert token.find(environment) == "hf_ring"
    assert token.find(environment) == "hf_ring"
    assert ring.lookups == [("localllm", "huggingface")]


def test_the_file_is_where_huggingface_hub_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ring(monkeypatch, Ring(None))
    monkeypatch.setenv("HOME", str(tmp_path))
    for file, environment in (
        (tmp_path / "elsewhere", {"HF_TOKEN_PATH": str(tmp_path / "elsewhere")}),
        (tmp_path / "hf" / "token", {"HF_HOME": "~/hf"}),
        (tmp_path / "xdg" / "huggingface" / "token", {"XDG_CACHE_HOME": str(tmp_path / "xdg")}),
        (tmp_path / ".cache" / "huggingface" / "token", {}),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"hf_{file.parent.name.strip('.')}")
        assert token.find(environment) == file.read_text()


@pytest.mark.parametrize(
    "error",
    [
        keyring.errors.NoKeyringError(),
        keyring.errors.KeyringLocked("hf_ring is locked"),
        RuntimeError("no session bus"),
        OSError("gone"),
        KeyError("whatever a backend raises"),
    ],
)
def test_a_keyring_that_fails_is_no_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, tmp_path: Path
) -> None:
    with_ring(monkeypatch, Ring(None, error))
    assert token.find({"HF_HOME": str(tmp_path)}) is None


def test_a_system_without_keyring_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert token.find({"HF_HOME": str(tmp_path)}) is None


def test_a_file_that_cannot_be_read_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ring(monkeypatch, Ring(None))
    (tmp_path / "token").mkdir()
    assert token.find({"HF_HOME": str(tmp_path)}) is None
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert token.find({"HF_TOKEN_PATH": str(tmp_path / "bytes")}) is None


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no file without an end here")
def test_a_file_without_an_end_is_read_as_far_as_a_token_can_be_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_ring(monkeypatch, Ring(None))
    with pytest.raises(UsageError, match="/dev/zero cannot be one"):
        token.find({"HF_TOKEN_PATH": "/dev/zero"})


@pytest.mark.parametrize(
    "bad",
    ["hf_two words", "hf_line\r\nX-Evil: 1", "hf_ü", "hf_\x07", "h" * 2000],
    ids=["words", "lines", "umlaut", "bell", "long"],
)
def test_what_no_header_can_carry_is_named_by_its_place_and_not_shown(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="token in HF_TOKEN cannot be one") as refused:
        token.find({"HF_TOKEN": bad})
    assert bad[:6] not in str(refused.value).replace("like hf_abc", "")
    (tmp_path / "token").write_text(bad)
    with pytest.raises(UsageError, match="cannot be one"):
        token.find({"HF_HOME": str(tmp_path)})
    with_ring(monkeypatch, Ring(bad))
    with pytest.raises(UsageError, match="the keyring"):
        token.find({"HF_HOME": str(tmp_path / "none")})
