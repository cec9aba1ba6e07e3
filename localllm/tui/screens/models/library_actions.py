"""What can be done with an installed model, and the words for it: a dry run, a check of its bytes,
its removal."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.core.recommend import Preferences
from localllm.core.sizing.fit import Fit
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import InstalledFile, InstalledModel
from localllm.library.store.starter import NAME as STARTER
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.runtime import Runtime
from localllm.translation import _
from localllm.tui.downloads.thread_call import in_daemon_thread
from localllm.tui.frame_state import FrameState
from localllm.tui.screens.dialog import CLOSE, Dialog, DialogButton
from localllm.tui.screens.models.groups import ModelGroup, with_template_abilities

if TYPE_CHECKING:
    from localllm.library.store.hard_links import Removal
    from localllm.library.store.verify import Verification


async def dry_run(runtime: Runtime, model: InstalledModel, question: Preferences) -> Fit:
    """Let llama.cpp size a load as the list counts it. Raises LocalLLMError."""
    choice = LoadChoice(
        context=question.context, parallel=question.parallel, kv_type=question.kv_type
    )
    plan = await runtime.plan(model, choice)
    return await runtime.probe(model, await runtime.fit(plan))


def dry_run_text(name: str, fit: Fit) -> str:
    """Say how near the estimate was to what llama.cpp would allocate."""
    estimated = sum(share.total_bytes for share in (fit.estimated or fit.placement).devices)
    text = _("llama.cpp itself: {name} takes {size}").format(
        name=name, size=format_bytes(fit.total_bytes)
    )
    if estimated:
        off = (fit.total_bytes / estimated - 1) * 100
        text += _(", the estimate was {size} ({off:+.1f} %)").format(
            size=format_bytes(estimated), off=off
        )
    return text


async def verify_model(
    runtime: Runtime, model: InstalledModel, frame: FrameState
) -> "Verification":
    """Hash a model in a thread; the status line shows how far it is."""
    from localllm.library.store.verify import verify

    total = sum(part.size_bytes for part in model.all_files)
    progress = _Progress(model.name, total, frame)
    with progress:
        return await in_daemon_thread(
            partial(verify, model, runtime.store, on_read=progress.on_read)
        )


class _Progress:
    """Counts bytes in the thread that reads them, and tells the status line a few times."""

    def __init__(self, name: str, total: int, frame: FrameState) -> None:
        self._name, self._total, self._frame = name, total, frame
        self._done, self._shown = 0, -1
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> "_Progress":
        self._show(0)
        return self

    def __exit__(self, *_error: object) -> None:
        self._frame.set_activity(f"verify {self._name}", "")

    def on_read(self, _file: InstalledFile, count: int) -> None:
        self._done += count
        percent = self._done * 100 // self._total if self._total else 100
        if percent // 5 != self._shown // 5:
            self._shown = percent
            self._loop.call_soon_threadsafe(self._show, percent)

    def _show(self, percent: int) -> None:
        text = _("checking {name} {percent} %").format(name=self._name, percent=percent)
        self._frame.set_activity(f"verify {self._name}", text)


def damaged_dialog(verification: "Verification") -> Dialog:
    """Say that a model's files are not what they were."""
    return Dialog(
        title=_("{name} is damaged").format(name=verification.model.name),
        message=verification.detail,
        buttons=(CLOSE,),
    )


def remove_dialog(model: InstalledModel) -> Dialog:
    """Ask whether a model is to be removed, and say what that frees."""
    if model.name == STARTER:
        return Dialog(
            title=_("{name} cannot be removed here").format(name=model.name),
            message=_("It comes with a Python package and goes with it."),
            buttons=(CLOSE,),
        )
    size = format_bytes(sum(part.size_bytes for part in model.all_files))
    if model.owned:
        message = _("Its files are deleted. This frees {size}, unless another model uses them.")
    else:
        message = _("Its file stays where it is ({size}, {path}). Nothing is freed.")
    return Dialog(
        title=_("Remove {name}?").format(name=model.name),
        message=message.format(size=size, path=model.path),
        buttons=(
            DialogButton(id="keep", label=_("Keep it")),
            DialogButton(id="remove", label=_("Remove it")),
        ),
    )


def removal_text(removal: "Removal") -> str:
    """Say what was removed and freed."""
    name = removal.model.name
    if removal.freed_bytes:
        return _("{name} is removed: {size} are free again.").format(
            name=name, size=format_bytes(removal.freed_bytes)
        )
    if not removal.model.owned:
        return _("{name} is not in the list any more; its file stays.").format(name=name)
    return _("{name} is removed. Nothing was freed: its file has another name or user.").format(
        name=name
    )


def with_abilities(groups: Sequence[ModelGroup]) -> tuple[ModelGroup, ...]:
    """Read the chat templates of what is installed. Blocks."""
    return tuple(
        with_template_abilities(group, _read_template) if group.installed else group
        for group in groups
    )


def _read_template(model: InstalledModel) -> str:
    try:
        return inspect_model(Path(model.path)).spec.chat_template or ""
    except LocalLLMError:
        return ""
