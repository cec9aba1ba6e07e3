"""What the frame of every place shows: the truth about the network, and what goes on.

Whoever knows it sets it, and the header and the status line of the place that is seen draw it. All
of this happens in the app's own thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from localllm.core.text import single_line
from localllm.core.units import format_bandwidth
from localllm.translation import _


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTruth:
    """What this app has to do with the network now.

    `offline`: it is switched off. `host`: contacted at this moment, "" for none, and with
    `bytes_per_s` what comes from there. `contacted`: all hosts since the app started.
    """

    offline: bool = False
    host: str = ""
    bytes_per_s: float | None = None
    contacted: tuple[str, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """Write it from the longest way to the shortest; each begins with ● when somebody is asked
        now, and with ○ when not."""
        if self.host:
            host = single_line(self.host)
            if self.bytes_per_s is not None:
                rate = format_bandwidth(self.bytes_per_s)
                return (f"● {host} {rate}", f"● {rate}", "●")
            return (f"● {host}", "●")
        if self.contacted:
            hosts = ", ".join(single_line(each) for each in self.contacted)
            return (_("○ since the start: {hosts}").format(hosts=hosts), _("○ quiet"), "○")
        if self.offline:
            return (_("○ offline"), "○")
        return (_("○ nothing sent since the start"), _("○ nothing sent"), "○")


class FrameState:
    """The truth about the network and the activities of the app, and who wants to know of a
    change."""

    def __init__(self) -> None:
        self.truth = NetworkTruth()
        self._activities: dict[str, str] = {}
        self._losses: dict[str, str] = {}
        self._observers: list[Callable[[], object]] = []

    @property
    def activities(self) -> Mapping[str, str]:
        """The activities, one text for each subject, in the order in which they began."""
        return MappingProxyType(self._activities)

    @property
    def losses(self) -> Mapping[str, str]:
        """The losses if the app ended now, a sentence for each subject."""
        return MappingProxyType(self._losses)

    def set_loss(self, subject: str, sentence: str) -> None:
        """Say what of a subject would be lost if the app ended now; "" for nothing."""
        if sentence:
            self._losses[subject] = sentence
        else:
            self._losses.pop(subject, None)

    def set_offline(self, *, offline: bool) -> None:
        """Say whether the network is switched off."""
        self.set_truth(replace(self.truth, offline=offline))

    def set_truth(self, truth: NetworkTruth) -> None:
        """Say what the network is used for now."""
        if truth != self.truth:
            self.truth = truth
            self._notify()

    def set_activity(self, subject: str, text: str) -> None:
        """Say what goes on with a subject ("loaded", "serve", "download"); "" for nothing."""
        if self._activities.get(subject, "") == text:
            return
        if text:
            self._activities[subject] = text
        else:
            del self._activities[subject]
        self._notify()

    def subscribe(self, observer: Callable[[], object]) -> None:
        """Call `observer` after each change."""
        self._observers.append(observer)

    def unsubscribe(self, observer: Callable[[], object]) -> None:
        """Call it no more."""
        self._observers.remove(observer)

    def _notify(self) -> None:
        for observer in tuple(self._observers):
            observer()
