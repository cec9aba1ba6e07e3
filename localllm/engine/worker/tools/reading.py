"""What readers of answers have in common: text that is held, and a section of calls."""

from collections.abc import Mapping

from localllm.engine.worker.tools.parts import Part, joined
from localllm.engine.worker.tools.section import Schema, Section


class Reading:
    """The common half of the readers; what its methods promise is said in `reader.Reader`."""

    def __init__(self, tools: Mapping[str, Schema], *, trusted: bool) -> None:
        self._tools = tools
        self._trusted = trusted
        self._held = ""
        self._out: list[Part] = []
        self._section: Section | None = None
        self._calls = 0

    @property
    def calls(self) -> int:
        return self._calls + (self._section.calls if self._section is not None else 0)

    def trust(self) -> None:
        self._trusted = True
        if self._section is not None:
            self._section.trust()

    def distrust(self) -> None:
        self._trusted = False
        if self._section is not None:
            self._section.distrust()

    def _take(self) -> list[Part]:
        if self._section is not None:
            self._out += self._section.take()
        out, self._out = joined(self._out), []
        return out
