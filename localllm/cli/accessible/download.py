"""Suggestions for this machine, and their download, in plain lines.

Nothing is sent before a person says yes to a download.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from localllm.cli.accessible.progress import SpokenProgress
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.cli.progress import Interrupted, interruptible
from localllm.core.hardware import HardwareInfo
from localllm.core.recommend import FitPlan, Preferences
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.errors import DownloadStopped, Offline
from localllm.library.files import settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.http.client import Access, access_from, require_online
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.find_model import ModelQuery, OnHub, Published, find_published
from localllm.runtime.load_policy import context_or_default
from localllm.runtime.local_machine import likely_graphs, this_machine
from localllm.runtime.suggest import suggestions
from localllm.translation import _

if TYPE_CHECKING:  # what asks the network is imported when somebody wants that
    from localllm.runtime.pull import PullPlan

MUCH_LARGER = 1.05
"""The catalogue computes sizes. A download that turns out this much larger is asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDownloads:
    """Choose a model that fits this machine and download it. `store` is where it goes."""

    terminal: LineTerminal
    store: Store

    def choose(
        self, hardware: HardwareInfo, installed: tuple[InstalledModel, ...]
    ) -> InstalledModel | None:
        """List what fits, let the person choose, and download it; None: nothing was installed."""
        self.terminal.show(_("Looking for models that fit this machine. Nothing is sent for that."))
        plans = suggestions(hardware, installed, limit=8).plans
        if not plans:
            self.terminal.show(
                _("Nothing else of the catalogue fits into the memory that is free.")
            )
            return None
        chosen = self.terminal.choose(
            _("Models that fit here and can be downloaded, the best first:"),
            [_summary(plan) for plan in plans],
            _("Number of the model, or Enter to go back:"),
        )
        return None if chosen is None else self._offer(plans[chosen])

    def _offer(self, plan: FitPlan) -> InstalledModel | None:
        """Say why it is suggested and where it comes from, and download it if that is wanted."""
        candidate = plan.candidate
        repository = candidate.file.removesuffix(f":{candidate.quant}")
        for reason in plan.reasons:
            self.terminal.show(reason)
        access = self._access()
        if access is None or not self._confirm_request(
            _("A download asks {host} for {size} from {repository}.").format(
                host=_hosts(access),
                size=format_bytes(candidate.size_bytes),
                repository=single_line(repository),
            ),
            _("Download it?"),
        ):
            return None
        wanted = OnHub(repository=repository, quant=candidate.quant)
        pull_plan = self._asked(wanted, access)
        if pull_plan is None:
            return None
        if pull_plan.size_bytes > candidate.size_bytes * MUCH_LARGER:
            size = format_bytes(pull_plan.size_bytes)
            if not self.terminal.confirm(_("It is {size}. Download it?").format(size=size)):
                return None
        return self._fetch(pull_plan, access)

    def named(self) -> InstalledModel | None:
        """Ask for the name of a published model, and download the quant that suits this
        machine."""
        name = self.terminal.ask_line(_("Name of the catalogue, or ORG/REPO, or Enter to go back:"))
        if name is None or not name.strip():
            return None
        wanted = find_published(ModelQuery(model=name.strip()))
        access = self._access()
        if access is None or not self._confirm_request(
            _("{host} is asked which files {name} has.").format(
                host=_hosts(access), name=single_line(name)
            ),
            _("Ask?"),
        ):
            return None
        pull_plan = self._asked(wanted, access, chooses=True)
        if pull_plan is None:
            return None
        self.terminal.show(
            _("{name}, {size}.").format(
                name=single_line(pull_plan.name), size=format_bytes(pull_plan.size_bytes)
            )
        )
        for reason in pull_plan.reasons:
            self.terminal.show(reason)
        if pull_plan.warning is not None:
            self.terminal.show(_("Warning: {warning}").format(warning=pull_plan.warning))
        if pull_plan.repo.license is not None:
            self.terminal.show(_("Licence: {license}.").format(license=pull_plan.repo.license))
        return self._fetch(pull_plan, access) if self.terminal.confirm(_("Download it?")) else None

    def _access(self) -> Access | None:
        """Return the way to the Hub; None, and say so, where the network is switched off."""
        access = access_from(settings.load())
        try:
            require_online(access)
        except Offline as error:
            self.terminal.show_error(str(error))
            self.terminal.show(
                _("Without a network: import takes a file of this disk or of a stick.")
            )
            return None
        return access

    def _confirm_request(self, what: str, question: str) -> bool:
        self.terminal.show(_("Nothing was sent for this yet. {what}").format(what=what))
        return self.terminal.confirm(question)

    def _asked(
        self, wanted: Published, access: Access, *, chooses: bool = False
    ) -> "PullPlan | None":
        """Ask the Hub for the files of a model; None: Ctrl+C came first. `chooses`: take the quant
        that suits this machine, if none is named."""
        from localllm.library.hub.hub import Hub
        from localllm.runtime.pull import plan_pull

        self.terminal.show(_("Asking. Ctrl+C stops."))
        user = settings.load()
        machine = this_machine(user.reserve_bytes)[0] if chooses else None
        preferences = Preferences(context=context_or_default(None, user), graphs=likely_graphs())
        try:
            return interruptible(
                lambda _stop: plan_pull(
                    wanted,
                    revision=wanted.revision if isinstance(wanted, OnHub) else None,
                    hub=Hub(access),
                    machine=machine,
                    preferences=preferences,
                )
            )
        except Interrupted:
            self.terminal.show(_("Stopped. Nothing was downloaded."))
            return None

    def _fetch(self, plan: "PullPlan", access: Access) -> InstalledModel | None:
        from localllm.runtime.pull import pull

        show = self.terminal.show
        show(_("The download begins. Ctrl+C stops it, and what came is kept."))
        progress = SpokenProgress(show)
        try:
            pulled = interruptible(
                lambda stop: pull(
                    plan,
                    access=access,
                    store=self.store,
                    on_progress=progress.download,
                    stop=stop,
                )
            )
        except (Interrupted, DownloadStopped):
            show(_("Stopped. What came is kept, and the download goes on from there next time."))
            return None
        name = single_line(pulled.model.name)
        show(
            _("{name} was here already.").format(name=name)
            if pulled.already
            else _("{name} is downloaded, checked and in the library.").format(name=name)
        )
        return pulled.model


def _hosts(access: Access) -> str:
    return _(" or ").join(urlsplit(each).netloc for each in access.endpoints)


def _summary(plan: FitPlan) -> str:
    """Describe a plan in one line, in words."""
    candidate, decode = plan.candidate, plan.decode
    need = sum(share.total_bytes for share in plan.placement.devices)
    parts = [
        f"{single_line(candidate.model)} {candidate.quant}",
        _("{size} to download").format(size=format_bytes(candidate.size_bytes)),
        _("needs {need} of memory").format(need=format_bytes(need)),
        _("about {rate} tokens a second, {low} to {high}").format(
            rate=f"{decode.likely:.0f}",
            low=f"{decode.low:.0f}",
            high=f"{decode.high:.0f}",
        ),
    ]
    if plan.quality is not None:
        parts.append(
            _("{loss} percent worse than unquantized").format(loss=f"{plan.quality.value:.1f}")
        )
    license_ = next((e.license for e in read_catalogue() if e.name == candidate.model), None)
    if license_ is not None:
        parts.append(_("licence {license}").format(license=license_))
    return ", ".join(parts) + "."
