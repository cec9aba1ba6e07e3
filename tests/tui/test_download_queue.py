"""The queue of downloads: in the background, in an order, found again at the next start."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.errors import AccessDenied, DiskFull, DownloadFailed, HubError, LocalLLMError, Offline
from localllm.library.download import journal
from localllm.library.download.target import DownloadTarget, journal_path, part_path
from localllm.library.files import paths
from localllm.library.store.installed import InstalledModel
from localllm.tui.downloads import DownloadRequest, Downloads
from localllm.tui.downloads.problems import describe_problem
from tests.tui.fake_hub_source import COMMIT, FakeHubSource, progress

GIB = 2**30


def request(name: str, *, quant: str = "Q4_K_M") -> DownloadRequest:
    return DownloadRequest(repository=f"orchard/{name}-GGUF", quant=quant, size_bytes=8 * GIB)


def installed() -> InstalledModel:
    return InstalledModel(name="quince", quant="Q4_K_M", path=Path("/q.gguf"), size_bytes=8 * GIB)


async def until(downloads: Downloads, holds: Callable[[], bool]) -> None:
    """Wait until something holds, looking whenever a download changes its state."""
    changed = asyncio.Event()
    downloads.listen(changed.set)
    async with asyncio.timeout(30):
        while not holds():
            await changed.wait()
            changed.clear()
    downloads.unlisten(changed.set)


def states(downloads: Downloads) -> list[str]:
    return [item.state.value for item in downloads.items]


@pytest.fixture
def source() -> FakeHubSource:
    return FakeHubSource(install=installed, reported=(progress(2.0),))


async def test_they_run_one_after_the_other_or_several_at_once(
    source: FakeHubSource, tmp_path: Path
) -> None:
    downloads = Downloads(source, data_dir=tmp_path)
    for name in ("quince", "medlar", "sloe"):
        downloads.add(request(name))
    await until(downloads, lambda: states(downloads) == ["running", "waiting", "waiting"])
    downloads.set_at_once(2)
    await until(downloads, lambda: states(downloads) == ["running", "running", "waiting"])
    source.gate.set()
    await until(downloads, lambda: states(downloads) == ["done"] * 3)
    assert [item.model for item in downloads.items] == [installed()] * 3
    assert all(item.checked and item.fraction == 1.0 for item in downloads.items)
    await downloads.close()
    assert not paths.downloads_file(tmp_path).read_text().count("orchard")


async def test_one_is_paused_resumed_moved_and_retried(
    source: FakeHubSource, tmp_path: Path
) -> None:
    downloads = Downloads(source, data_dir=tmp_path)
    first, second = downloads.add(request("quince")), downloads.add(request("medlar"))
    await until(downloads, lambda: states(downloads) == ["running", "waiting"])
    downloads.pause(first.number)
    await until(downloads, lambda: states(downloads) == ["paused", "running"])
    assert len(source.stopped) == 1
    downloads.resume(first.number)
    downloads.move(first.number, 1)
    assert [item.number for item in downloads.items] == [second.number, first.number]
    assert states(downloads) == ["running", "waiting"]
    source.pull_error = HubError("hub.example cannot be reached.")
    source.gate.set()
    await until(downloads, lambda: states(downloads) == ["failed", "failed"])
    source.pull_error = None
    downloads.resume(second.number)
    downloads.resume(first.number)
    await until(downloads, lambda: states(downloads) == ["done", "done"])
    assert len(source.planned) == 2  # the files are known after the first attempt
    downloads.forget_done()
    assert downloads.items == ()
    await downloads.close()


async def test_the_same_file_is_not_downloaded_twice(source: FakeHubSource, tmp_path: Path) -> None:
    downloads = Downloads(source, data_dir=tmp_path)
    first = downloads.add(request("quince"))
    assert downloads.add(request("quince")).number == first.number
    await until(downloads, lambda: states(downloads) == ["running"])
    downloads.pause(first.number)
    await until(downloads, lambda: states(downloads) == ["paused"])
    assert downloads.add(request("quince")).number == first.number
    await until(downloads, lambda: states(downloads) == ["running"])
    await downloads.close()


async def test_a_question_to_a_silent_hub_holds_nothing_up(
    source: FakeHubSource, tmp_path: Path
) -> None:
    source.silent = True
    downloads = Downloads(source, data_dir=tmp_path)
    first = downloads.add(request("quince"))
    await until(downloads, lambda: states(downloads) == ["asking"])
    downloads.pause(first.number)
    assert states(downloads) == ["paused"]
    await downloads.remove(first.number, discard=True)
    assert downloads.items == ()
    source.answer_gate.set()
    await downloads.close()
    assert source.pulled == []


async def test_the_end_of_the_app_pauses_them_and_the_next_start_finds_them(
    source: FakeHubSource, tmp_path: Path
) -> None:
    downloads = Downloads(source, data_dir=tmp_path)
    downloads.add(request("quince"))
    downloads.add(request("medlar"))
    await until(downloads, lambda: states(downloads) == ["running", "waiting"])
    await downloads.close()
    assert len(source.stopped) == 1

    _begin_file(tmp_path, "orchard/quince-GGUF", "quince-Q4_K_M.gguf", done=3 * 2**20)
    _begin_file(tmp_path, "elsewhere/sloe-GGUF", "sloe-Q6_K.gguf", done=2**20)  # by `pull`
    later = Downloads(source, data_dir=tmp_path)
    assert await later.find_stopped() == 3
    assert await later.find_stopped() == 0  # none is there twice
    assert states(later) == ["paused"] * 3
    quince, medlar, sloe = later.items
    assert (quince.request, quince.done_bytes) == (request("quince"), 3 * 2**20)
    assert (medlar.request, medlar.done_bytes) == (request("medlar"), 0)
    assert (sloe.request.quant, sloe.request.revision) == ("sloe-Q6_K.gguf", COMMIT)
    later.resume(quince.number)
    await until(later, lambda: states(later) == ["running", "paused", "paused"])
    freed = await later.remove(sloe.number, discard=True)
    assert freed > 0
    assert not list((paths.hub_dir(tmp_path) / "elsewhere").rglob("*.part"))
    assert list((paths.hub_dir(tmp_path) / "orchard").rglob("*.part"))
    await later.close()


def _begin_file(data_dir: Path, repo: str, file: str, *, done: int) -> None:
    """Leave on the disk what a download that was killed leaves."""
    path = paths.hub_dir(data_dir) / repo / file
    path.parent.mkdir(parents=True)
    target = DownloadTarget(
        repo=repo, commit=COMMIT, name=file, size_bytes=8 * 2**20, sha256="ab" * 32, path=path
    )
    part_path(path).write_bytes(b"\1" * done)
    begun = journal.new_journal(target)
    known = {name: getattr(begun, name) for name in type(begun).__slots__}
    known |= {"appending": True, "boot": journal.boot_id()}
    journal.save(journal_path(path), journal.Journal(**known))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"schema": 9}', b"[" * 10_000])
async def test_a_damaged_list_counts_as_none(
    source: FakeHubSource, tmp_path: Path, content: bytes
) -> None:
    paths.downloads_file(tmp_path).write_bytes(content)
    downloads = Downloads(source, data_dir=tmp_path)
    assert await downloads.find_stopped() == 0
    await downloads.close()


async def test_a_bug_in_a_transfer_is_reported_and_the_next_one_runs(
    source: FakeHubSource, tmp_path: Path
) -> None:
    source.install = None  # its AssertionError stands for any bug
    source.gate.set()
    downloads = Downloads(source, data_dir=tmp_path)
    reported: list[BaseException] = []
    downloads.report = reported.append
    downloads.add(request("quince"))
    await until(downloads, lambda: states(downloads) == ["failed"])
    source.install = installed
    downloads.add(request("medlar"))
    await until(downloads, lambda: states(downloads) == ["failed", "done"])
    assert [type(each) for each in reported] == [AssertionError]
    await downloads.close()


def _caused(error: DownloadFailed, cause: Exception) -> DownloadFailed:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "what", "hint"),
    [
        (
            DiskFull("localllm rm", needed_bytes=3 * GIB, directory="/models"),
            "3.0 GiB more are needed in /models",
            "removing a model",
        ),
        (
            _caused(
                DownloadFailed("x did not come. the same command goes on from there."),
                DownloadFailed("nothing came for 30 s"),
            ),
            "The connection was lost.",
            "resume when the network is back",
        ),
        (AccessDenied("orchard/quince wants a token."), "accepted its terms", "give a token"),
        (Offline("switched off (LOCALLLM_OFFLINE)"), "switched off", "Settings"),
        (HubError("cannot be reached"), "cannot be reached", "network or the proxy"),
    ],
)
def test_what_went_wrong_is_said_in_one_line_with_what_to_try(
    error: LocalLLMError, what: str, hint: str
) -> None:
    problem = describe_problem(error, "orchard/quince-GGUF")
    assert what in problem.what
    assert hint in problem.hint
    assert "\n" not in problem.line
    for word in ("localllm rm", "--dest", "command", "`"):
        assert word not in problem.line + problem.detail


def test_a_download_is_called_by_its_repository_and_quant() -> None:
    assert request("Quince-30B").title == "Quince-30B Q4_K_M"
    assert request("q", quant="deep/Quince-Q4.gguf").title == "Quince-Q4"
