"""What the cache had of a prompt, in words. One module for both chats; never content."""

from localllm.engine.messages import CacheMiss, CacheUsage, MissReason
from localllm.translation import N_, _, ngettext

_REASONS = {
    MissReason.SYSTEM_CHANGED: N_("the system prompt changed at token {position}"),
    MissReason.TOOLS_CHANGED: N_("the tools changed at token {position}"),
    MissReason.TOOLS_REORDERED: N_("the tools came in another order from token {position} on"),
    MissReason.OPTIONS_CHANGED: N_("the chat template's options changed at token {position}"),
    MissReason.TEMPLATE_CHANGED: N_(
        "the chat template wrote the conversation another way from token {position} on"
    ),
    MissReason.MESSAGE_EDITED: N_("message {message} was edited at token {position}"),
    MissReason.MESSAGES_REMOVED: N_("earlier messages were left out from token {position} on"),
    MissReason.ANSWER_CHANGED: N_("the last answer came back changed at token {position}"),
    MissReason.REASONING_DROPPED: N_(
        "{dropped} tokens of reasoning were dropped at token {position}"
    ),
    MissReason.PROMPT_CHANGED: N_("the prompt changed at token {position}"),
    MissReason.ADAPTERS_CHANGED: N_("the adapters changed"),
    MissReason.EVICTED: N_("it was evicted from the cache after token {position}"),
    MissReason.IN_USE: N_("its place in the cache was in use by another answer"),
    MissReason.NO_CHECKPOINT: N_("this model's state cannot go back to where it changed"),
    MissReason.REPEATABLE: N_("a seed uses nothing that was computed in company"),
    MissReason.SCORED: N_("the request needs the scores of all its tokens"),
}

_TIMESTAMPS = {
    MissReason.SYSTEM_CHANGED: N_(
        "a date or time in the system prompt changed at token {position}"
    ),
    MissReason.TEMPLATE_CHANGED: N_(
        "a date or time that the chat template writes changed at token {position}"
    ),
    MissReason.MESSAGE_EDITED: N_(
        "a date or time in message {message} changed at token {position}"
    ),
    MissReason.TOOLS_CHANGED: N_("a date or time in the tools changed at token {position}"),
    MissReason.PROMPT_CHANGED: N_("a date or time in the prompt changed at token {position}"),
}


def describe_miss(miss: CacheMiss) -> str:
    """Explain in one sentence what broke a prompt, and what that cost."""
    text = _REASONS[miss.reason]
    if miss.timestamp:
        text = _TIMESTAMPS.get(miss.reason, text)
    reason = _(text).format(
        position=f"{miss.position:,}",
        message=miss.message,
        dropped=f"{miss.dropped_tokens or 0:,}",
    )
    words = ngettext(
        "{count} token was read again: {reason}",
        "{count} tokens were read again: {reason}",
        miss.lost_tokens,
    )
    return words.format(count=f"{miss.lost_tokens:,}", reason=reason)


def describe_sources(cache: CacheUsage) -> str:
    """Name where a prompt's cached tokens came from; "" when all were its own slot's, or none."""
    if not (cache.shared or cache.host or cache.checkpoint):
        return ""
    parts = [
        (cache.own, _("{count} own")),
        (cache.shared, _("{count} another slot's")),
        (cache.host, _("{count} from memory")),
        (cache.checkpoint, _("{count} from a checkpoint")),
    ]
    return ", ".join(text.format(count=f"{count:,}") for count, text in parts if count)
