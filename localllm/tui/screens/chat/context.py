"""The context of a chat: how its settings load the model, and what is offered when a question does
not fit."""

from dataclasses import dataclass, replace

from localllm.chat.attachments.fitting import count_conversation, count_text, tokenizer_of
from localllm.chat.conversation import Conversation
from localllm.chat.settings import ChatSettings
from localllm.core.sizing.load import KvType
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _
from localllm.tui.screens.dialog import CLOSE, Dialog, DialogButton

ROOM_FOR_ANSWER = 1.5
"""A context is offered that holds the question this many times."""


def load_choice(settings: ChatSettings) -> LoadChoice:
    """Return how a conversation's settings load its model."""
    choice = replace(CHAT, vision=None)  # the model's own eyes, where they are here too
    if settings.context is not None:
        choice = replace(choice, context=settings.context)
    if settings.kv_type is None:
        return choice
    return replace(choice, kv_type=KvType(settings.kv_type))


def differs(settings: ChatSettings, resident: ResidentModel) -> bool:
    """Tell whether the settings want the model loaded in another way than it is."""
    loaded = resident.settings.kv_type_k.value
    return settings.context not in (
        None,
        resident.settings.context,
        resident.loaded.context,
    ) or settings.kv_type not in (None, loaded)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOffer:
    """What would hold a conversation of `tokens`: a `context` that needs `need_bytes` of the
    `free_bytes`; None: no context does. `limit` explains that."""

    tokens: int
    context: int | None = None
    need_bytes: int = 0
    free_bytes: int = 0
    limit: str = ""


async def larger_context(
    runtime: Runtime, resident: ResidentModel, conversation: Conversation
) -> ContextOffer | None:
    """Find the smallest context, doubled again and again, that holds the conversation and fits
    into memory when the model is loaded anew; None when it cannot be counted."""
    name = resident.model.name
    question = _up_to_question(conversation)
    try:
        tokens = await count_conversation(runtime, name, question)
    except LocalLLMError:  # the template refuses it, or its length: then the question alone
        try:
            text = question.path()[-1].text
            tokens = (await count_text(text, tokenizer_of(runtime, name))).tokens
        except LocalLLMError:
            return None
    choice, context = load_choice(conversation.settings), resident.loaded.context
    offer = ContextOffer(tokens=tokens)
    while context < tokens * ROOM_FOR_ANSWER:
        context *= 2
    try:
        plan = await runtime.plan(resident.model, replace(choice, context=context))
        asked = plan.candidates[0].context
        trained = plan.spec.context_train
        if trained < asked:
            plan = await runtime.plan(resident.model, replace(choice, context=trained))
            asked = trained
        if asked <= tokens:
            return replace(
                offer, limit=_("The model was made for {count} tokens.").format(count=f"{asked:,}")
            )
        fit = await runtime.fit_in(await runtime.outlook(), plan, unloading=(name,))
    except LocalLLMError as error:
        return replace(offer, limit=str(error))
    if not fit.fits:
        limit = _("{need} would be needed and {free} are free.").format(
            need=format_bytes(fit.total_bytes), free=format_bytes(fit.free_bytes)
        )
        return replace(offer, limit=limit)
    return replace(offer, context=asked, need_bytes=fit.total_bytes, free_bytes=fit.free_bytes)


def _up_to_question(conversation: Conversation) -> Conversation:
    """End at the last question, without the empty answer that broke off."""
    path = conversation.path()
    question = path[-2] if len(path) > 1 else path[-1]
    return conversation.ending_at(question.id)


def too_long_dialog(resident: ResidentModel, offer: ContextOffer | None) -> Dialog:
    """Explain that a question does not fit; "reload" loads the model with a larger context."""
    now = f"{resident.loaded.context:,}"
    if offer is None:
        message = _("The question does not fit into the context of {now} tokens.").format(now=now)
        return Dialog(title=_("Too long"), message=message, buttons=(CLOSE,))
    message = _("The conversation has {tokens} tokens, the context holds {now}.").format(
        tokens=f"{offer.tokens:,}", now=now
    )
    if offer.context is None:
        return Dialog(
            title=_("Too long"),
            message=message,
            remark=offer.limit + " " + _("Shorten the question; it is in the prompt."),
            buttons=(CLOSE,),
        )
    return Dialog(
        title=_("Too long for this context"),
        message=message,
        facts=(
            (_("a context of"), _("{count} tokens").format(count=f"{offer.context:,}")),
            (_("needs"), format_bytes(offer.need_bytes)),
            (_("free"), format_bytes(offer.free_bytes)),
        ),
        remark=_("The model is loaded again, which takes a moment. The question is in the prompt."),
        buttons=(
            DialogButton(id="reload", label=_("Load it with this context")),
            DialogButton(id="close", label=_("Shorten the question")),
        ),
    )
