"""What the settings panel asks about a model in memory: tokens of a text, the need of a load."""

from collections.abc import Sequence
from dataclasses import replace

from localllm.chat.settings import ChatSettings
from localllm.chat.tools.tool import LocalTool
from localllm.core.sizing.load import KvType
from localllm.engine.messages import TokenizeRequest
from localllm.errors import LocalLLMError
from localllm.runtime.load_policy import CHAT
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.tui.screens.chat_settings.row_states import MemoryNeed, SettingsSubject


async def subject_of(
    runtime: Runtime, resident: ResidentModel | None, tools: Sequence[LocalTool]
) -> SettingsSubject:
    """Make the subject for a model that is in memory; None: for none, of which nothing is known."""
    if resident is None:
        return SettingsSubject(tools=tuple(tools))
    model = resident.model

    async def count_tokens(text: str) -> int:
        request = TokenizeRequest(request_id=f"count-{id(text)}", text=text)
        return len((await runtime.tokenize(model.name, request)).tokens)

    async def memory_need(settings: ChatSettings) -> MemoryNeed:
        kv_type = KvType(settings.kv_type) if settings.kv_type else resident.settings.kv_type_k
        context = settings.context or resident.loaded.context
        plan = await runtime.plan(model, replace(CHAT, context=context, kv_type=kv_type))
        fit = await runtime.fit_in(await runtime.outlook(), plan, unloading=(model.name,))
        return MemoryNeed(need_bytes=fit.total_bytes, free_bytes=fit.free_bytes)

    try:
        trained = (await runtime.plan(model, CHAT)).spec.context_train
    except LocalLLMError:
        trained = None
    return SettingsSubject(
        model=model.name,
        trained_context=trained,
        loaded_context=resident.loaded.context,
        loaded_kv_type=resident.settings.kv_type_k.value,
        count_tokens=count_tokens,
        memory_need=memory_need,
        tools=tuple(tools),
    )
