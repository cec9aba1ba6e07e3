"""What the cache had of a prompt, and what broke one that should have been cached. Never content:
numbers of tokens, their positions, and the name of a part."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReuse:
    """Prompt tokens that were not computed again, by where they came from.

    `own`: the slot in which the prompt runs had them, or had to move them; `shared`: another slot;
    `host`: cells that were moved to host memory; `checkpoint`: a kept state of a model that cannot
    go back.
    """

    own: int = 0
    shared: int = 0
    host: int = 0
    checkpoint: int = 0

    @property
    def total(self) -> int:
        return self.own + self.shared + self.host + self.checkpoint

    def limited(self, tokens: int) -> "CacheReuse":
        """Keep the first `tokens`: what came last is lost first, in the order of the fields."""
        own = min(self.own, tokens)
        shared = min(self.shared, tokens - own)
        host = min(self.host, tokens - own - shared)
        checkpoint = min(self.checkpoint, tokens - own - shared - host)
        return CacheReuse(own=own, shared=shared, host=host, checkpoint=checkpoint)


class MissReason(StrEnum):
    """What broke a prompt that is known but for one of its parts."""

    SYSTEM_CHANGED = "system_changed"
    TOOLS_CHANGED = "tools_changed"
    TOOLS_REORDERED = "tools_reordered"
    OPTIONS_CHANGED = "options_changed"  # of the chat template, or whether the model thinks
    TEMPLATE_CHANGED = "template_changed"  # the template wrote the same messages another way
    MESSAGE_EDITED = "message_edited"
    MESSAGES_REMOVED = "messages_removed"  # from the middle, or the oldest for want of context
    ANSWER_CHANGED = "answer_changed"  # the last answer came back other than it was written
    REASONING_DROPPED = "reasoning_dropped"
    PROMPT_CHANGED = "prompt_changed"  # of a prompt without messages
    ADAPTERS_CHANGED = "adapters_changed"
    EVICTED = "evicted"  # its cells were given up
    IN_USE = "in_use"  # they are another answer's, and this model cannot share them
    NO_CHECKPOINT = "no_checkpoint"  # the model's state cannot go back to there
    REPEATABLE = "repeatable"  # with a seed, cells are used that always have the same bits only
    SCORED = "scored"  # the request needs the logits of every token


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMiss:
    """What broke a prompt, from token `position` on (from 0).

    `lost_tokens` were known and had to be computed again. `message`: the number of the message,
    from 1, where that is what broke it. `timestamp`: what differs looks like a date or a time.
    `dropped_tokens`: tokens of reasoning that are not there any more.
    """

    reason: MissReason
    position: int
    lost_tokens: int
    message: int | None = None
    timestamp: bool = False
    dropped_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """Where the tokens of a prompt came from; together they are all of it. `own` to `checkpoint`:
    see `CacheReuse`. `miss` None: nothing worth a word was lost."""

    own: int = 0
    shared: int = 0
    host: int = 0
    checkpoint: int = 0
    computed: int = 0
    miss: CacheMiss | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCacheStats:
    """What the second tier of the cache holds, and what has happened since the load."""

    states: int = 0
    size_bytes: int = 0
    limit_bytes: int = 0
    stored: int = 0
    restored: int = 0
    evicted: int = 0
