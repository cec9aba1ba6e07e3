"""Whether an installed model can be used here now, for every list of them."""

from localllm.errors import LocalLLMError
from localllm.library.store.installed import FileState, InstalledModel
from localllm.runtime.load_policy import CHAT, NotGenerative
from localllm.runtime.runtime import Runtime
from localllm.translation import _
from localllm.tui.app_words import app_words
from localllm.tui.widgets.models import ModelStatus, StatusKind


async def model_status(runtime: Runtime, model: InstalledModel) -> ModelStatus:
    """Look at the file and work out the fit, as if the models in memory gave way."""
    if (problem := model.problem) is not None:
        missing = model.state is FileState.MISSING
        kind = StatusKind.MISSING if missing else StatusKind.CHANGED
        return ModelStatus(kind=kind, remark=app_words(f"{problem}."))
    residents = runtime.resident()
    for resident in residents:
        if resident.model.name == model.name:
            return ModelStatus(kind=StatusKind.LOADED, fit=resident.fit)
    try:
        plan = await runtime.plan(model, CHAT)
        names = tuple(resident.model.name for resident in residents)
        fit = await runtime.fit_in(await runtime.outlook(), plan, unloading=names)
    except NotGenerative as error:
        return ModelStatus(
            kind=StatusKind.NO_CHAT, remark=_("It is {kind}.").format(kind=error.reason)
        )
    except LocalLLMError as error:
        return ModelStatus(kind=StatusKind.UNREADABLE, remark=app_words(str(error)))
    if fit.fits:
        return ModelStatus(kind=StatusKind.FITS, fit=fit)
    return ModelStatus(kind=StatusKind.TOO_BIG, fit=fit, remark=fit.advice or "")
