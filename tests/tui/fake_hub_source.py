"""A Hub that a test controls: what it answers and sends, and when."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from localllm.errors import DownloadStopped, LocalLLMError
from localllm.library.download.progress import Progress
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import HubRepo, SearchHit
from localllm.library.store.installed import InstalledModel
from localllm.runtime.hub_models import HubModels
from localllm.runtime.pull import Pulled, PullPlan
from localllm.tui.downloads import DownloadPreview, DownloadRequest
from localllm.tui.downloads.source import HubAccess

GIB = 2**30
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "5e" * 32
HOST = "hub.example"
PREVIEW = DownloadPreview(
    host=HOST, directory=Path("/made/up/hub"), free_bytes=120 * GIB, license="Apache-2.0"
)


def fake_pull_plan(
    request: DownloadRequest, *, size_bytes: int | None = None, gated: bool = False
) -> PullPlan:
    """The one file of a request, in its repository."""
    name = f"{request.repository.rpartition('/')[2]}-{request.quant}.gguf"
    size = request.size_bytes if size_bytes is None else size_bytes
    file = HubFile(name=name, size_bytes=size, sha256=SHA256)
    return PullPlan(
        repo=HubRepo(
            name=request.repository,
            commit=COMMIT,
            files=(file,),
            gated=gated,
            license="apache-2.0",
            tags=("gguf",),
            downloads=None,
            updated=None,
            endpoint=f"https://{HOST}",
        ),
        quant=request.quant,
        files=(file,),
        mmproj=None,
        reasons=(),
    )


def progress(
    done_gib: float,
    *,
    of_gib: float = 8.0,
    mib_per_s: float | None = 40.0,
    remaining_s: float | None = 164.0,
    note: str | None = None,
) -> Progress:
    return Progress(
        file="a-file.gguf",
        done_bytes=int(done_gib * GIB),
        total_bytes=int(of_gib * GIB),
        rate_bytes_per_s=None if mib_per_s is None else mib_per_s * 2**20,
        remaining_s=remaining_s,
        message=note,
    )


@dataclass
class FakeHubSource:
    """A `DownloadSource` that answers at once. `pull` reports `reported`, goes on when `gate` is
    set, or ends when it is stopped; its model is `install`ed by the test. When `silent`, the Hub
    answers only when `answer_gate` is set."""

    facts: DownloadPreview = PREVIEW
    preview_error: LocalLLMError | None = None
    plan_error: LocalLLMError | None = None
    pull_error: LocalLLMError | None = None
    size_bytes: int | None = None
    gated: bool = False
    reported: tuple[Progress, ...] = ()
    install: Callable[[], InstalledModel] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    answer_gate: threading.Event = field(default_factory=threading.Event)
    silent: bool = False
    refusal: str | None = None
    hits: tuple[SearchHit, ...] = ()
    repositories: dict[str, HubModels] = field(default_factory=dict)
    searched: list[str] = field(default_factory=list)
    previewed: list[DownloadRequest] = field(default_factory=list)
    planned: list[DownloadRequest] = field(default_factory=list)
    pulled: list[PullPlan] = field(default_factory=list)
    stopped: list[PullPlan] = field(default_factory=list)

    def access(self) -> HubAccess:
        return HubAccess(host=self.facts.host, refusal=self.refusal)

    def search(self, text: str) -> tuple[SearchHit, ...]:
        self.searched.append(text)
        if self.plan_error is not None:
            raise self.plan_error
        return self.hits

    def read_repository(self, repository: str) -> HubModels:
        return self.repositories[repository]

    def preview(self, request: DownloadRequest) -> DownloadPreview:
        self.previewed.append(request)
        if self.preview_error is not None:
            raise self.preview_error
        return self.facts

    def plan_pull(self, request: DownloadRequest) -> PullPlan:
        self.planned.append(request)
        if self.silent:  # a server that takes the connection and says nothing
            self.answer_gate.wait()
        if self.plan_error is not None:
            raise self.plan_error
        return fake_pull_plan(request, size_bytes=self.size_bytes, gated=self.gated)

    def pull(
        self, plan: PullPlan, *, on_progress: Callable[[Progress], None], stop: threading.Event
    ) -> Pulled:
        self.pulled.append(plan)
        for each in self.reported:
            on_progress(each)
        while not self.gate.wait(0.01):
            if stop.is_set():
                self.stopped.append(plan)
                raise DownloadStopped("The download was stopped. What came is kept.")
        if self.pull_error is not None:
            raise self.pull_error
        assert self.install is not None
        return Pulled(
            model=self.install(),
            resumed_from=0,
            transferred_bytes=plan.size_bytes,
            sha256=SHA256,
            commit=plan.repo.commit,
        )
