"""A Hub in a test's hands: it says and sends what it is told to, when it is told to."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from localllm.core.recommend import FitPlan
from localllm.errors import DownloadStopped, LocalLLMError
from localllm.library.download.progress import Progress
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import HubRepo
from localllm.library.store.installed import InstalledModel
from localllm.runtime.pull import Choice, Pulled
from localllm.tui.downloads import Offer, repository

GIB = 2**30
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "5e" * 32
HOST = "hub.example"
OFFER = Offer(host=HOST, directory=Path("/made/up/hub"), free_bytes=120 * GIB, license="Apache-2.0")


def made_up_choice(plan: FitPlan, *, size_bytes: int | None = None, gated: bool = False) -> Choice:
    """The one file of a plan, in its repository."""
    candidate = plan.candidate
    name = f"{candidate.model}-{candidate.quant}.gguf"
    size = candidate.size_bytes if size_bytes is None else size_bytes
    file = HubFile(name=name, size_bytes=size, sha256=SHA256)
    return Choice(
        repo=HubRepo(
            name=repository(candidate),
            commit=COMMIT,
            files=(file,),
            gated=gated,
            license="apache-2.0",
            tags=("gguf",),
            downloads=None,
            updated=None,
            endpoint=f"https://{HOST}",
        ),
        quant=candidate.quant,
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
class Nursery:
    """A `Source`. `pull` tells `told`, then goes on when `gate` is set or ends when it is stopped;
    what it gives is `install`ed by the test."""

    made: Offer = OFFER
    offer_error: LocalLLMError | None = None
    choose_error: LocalLLMError | None = None
    pull_error: LocalLLMError | None = None
    size_bytes: int | None = None
    gated: bool = False
    told: tuple[Progress, ...] = ()
    install: Callable[[], InstalledModel] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    choosing: threading.Event = field(default_factory=threading.Event)
    silent: bool = False
    offered: list[FitPlan] = field(default_factory=list)
    asked: list[FitPlan] = field(default_factory=list)
    pulled: list[Choice] = field(default_factory=list)
    stopped: list[Choice] = field(default_factory=list)

    def offer(self, plan: FitPlan) -> Offer:
        self.offered.append(plan)
        if self.offer_error is not None:
            raise self.offer_error
        return self.made

    def choose(self, plan: FitPlan) -> Choice:
        self.asked.append(plan)
        if self.silent:  # a server that takes the connection and says nothing
            self.choosing.wait()
        if self.choose_error is not None:
            raise self.choose_error
        return made_up_choice(plan, size_bytes=self.size_bytes, gated=self.gated)

    def pull(
        self, choice: Choice, *, on_progress: Callable[[Progress], None], stop: threading.Event
    ) -> Pulled:
        self.pulled.append(choice)
        for each in self.told:
            on_progress(each)
        while not self.gate.wait(0.01):
            if stop.is_set():
                self.stopped.append(choice)
                raise DownloadStopped("The download was stopped. What came is kept.")
        if self.pull_error is not None:
            raise self.pull_error
        assert self.install is not None
        return Pulled(
            model=self.install(),
            resumed_from=0,
            transferred_bytes=choice.size_bytes,
            sha256=SHA256,
            commit=choice.repo.commit,
        )
