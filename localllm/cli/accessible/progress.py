"""Progress as lines to be spoken: one every tenth of the way, or after a while without one."""

import time
from collections.abc import Callable
from contextlib import aclosing

from localllm.cli.progress import progress_line
from localllm.core.quality.quality import cache_loss
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.engine.messages import LoadProgress
from localllm.library.download.progress import Progress
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _

EVERY_S = 10.0
STEPS = 10
"""Lines from the beginning to the end of something that is fast."""

Show = Callable[[str], None]


class SpokenProgress:
    """Say how far something is, when it has come a tenth further, or nothing was said for a while.

    The first line comes after a second: what is done by then says that itself.
    """

    def __init__(self, show: Show, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._step = 0
        self._shown_s = clock()
        self._note: str | None = None

    def update(self, fraction: float, text: str, note: str | None = None) -> None:
        """Show `text` if it is time, or `note` is a new one."""
        now_s, step = self._clock(), int(fraction * STEPS)
        waited_s = now_s - self._shown_s
        new_note = note is not None and note != self._note
        if not new_note and waited_s < (EVERY_S if step <= self._step else 1.0):
            return
        self._step, self._shown_s, self._note = step, now_s, note
        self._show(text)

    def download(self, progress: Progress) -> None:
        """Show a download; called in its thread."""
        fraction = progress.done_bytes / max(1, progress.total_bytes)
        line = _("Downloading: {progress}.").format(progress=progress_line(progress))
        self.update(fraction, line, progress.message)


async def load_spoken(
    runtime: Runtime, plan: LoadPlan, *, show: Show, force: bool = False
) -> ResidentModel:
    """Load a model, each step a line. Raises as `Runtime.load` does."""
    for warning in plan.warnings:
        show(warning)
    if (change := await runtime.engine_change()) is not None:
        show(change)
    settings = plan.candidates[0]
    loss = cache_loss(plan.spec.architecture, settings.kv_type_k, settings.kv_type_v)
    if loss is not None:
        show(loss)
    name = single_line(plan.model.name)
    fit = await runtime.fit(plan)
    show(
        _("Loading {name}: it needs {need}, {free} is free.").format(
            name=name, need=format_bytes(fit.total_bytes), free=format_bytes(fit.free_bytes)
        )
    )
    progress = SpokenProgress(show)
    async with aclosing(runtime.load(plan, force=force)) as events:
        async for event in events:
            if isinstance(event, LoadProgress):
                text = _("Loading: {percent} percent.").format(percent=int(100 * event.fraction))
                note = _("The GPU is being tested.") if event.testing_devices else None
                progress.update(event.fraction, note or text, note)
                continue
            time_taken = format_duration(event.loaded.load_s)
            show(_("{name} is loaded after {time}.").format(name=name, time=time_taken))
            return event
    raise AssertionError("a load ends with its resident model")
