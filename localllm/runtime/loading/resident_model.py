"""A model in memory, as every front end sees it."""

from dataclasses import dataclass

from localllm.core.sizing.comparison import Comparison
from localllm.core.sizing.fit import Fit
from localllm.core.sizing.load import LoadSettings
from localllm.core.text import single_line
from localllm.engine.messages import Loaded
from localllm.library.store.companions import why_no_vision
from localllm.library.store.installed import InstalledModel
from localllm.runtime.loading.gpu_tests import GpuVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentModel:
    """A model in memory: its settings and estimate (`fit`), and what was really allocated
    (`loaded`). `gpu_failure`: why it is on the processor although there is a GPU for it."""

    model: InstalledModel
    fit: Fit
    loaded: Loaded
    gpu_failure: GpuVerdict | None = None

    @property
    def settings(self) -> LoadSettings:
        """The settings that it was loaded with."""
        return self.fit.settings

    @property
    def comparison(self) -> Comparison:
        """Estimate, dry run and read-back of this load, side by side."""
        return self.fit.compared(self.loaded.allocations, self.loaded.draft)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person must know of this load before the first answer."""
        gpu = self.gpu_failure.warning if self.gpu_failure is not None else None
        return tuple(filter(None, (gpu, self.chat_template_warning)))

    @property
    def chat_template_warning(self) -> str | None:
        """What a person must know of the chat template before the first answer; None when it is as
        it should be, or has no part in what the model does."""
        loaded, name = self.loaded, single_line(self.model.name)
        if self.settings.embeddings or (
            loaded.has_chat_template and loaded.chat_template_problem is None
        ):
            return None
        if loaded.has_chat_template:
            return f"{name}: {loaded.chat_template_problem}"
        if loaded.chat_template_problem is None:
            return (
                f"{name} has no chat template: it continues text instead of answering. If "
                "it is made for chat, give its template with --chat-template FILE."
            )
        return (
            f"{name}: {loaded.chat_template_problem} So it only continues plain text, which is not "
            "how it was trained to answer. Take another file of the model, or give a "
            "template with --chat-template FILE."
        )

    @property
    def vision_unavailable(self) -> str | None:
        """The reason why it has no vision, and what to do about it; None when it has."""
        if self.loaded.vision:
            return None
        return self.loaded.vision_unavailable or why_no_vision(self.model)
