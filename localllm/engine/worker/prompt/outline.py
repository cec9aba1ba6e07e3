"""What a prompt was made of, so that two of them can be compared part by part: which one differs
says what broke the cache. Digests, never texts; they are of this process alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.engine.messages import GenerateRequest, Message, MissReason, Role
from localllm.engine.worker.parsing.model_format import offered_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOutline:
    """The parts of a conversation's prompt, each as a digest.

    `messages` are those after the leading system messages; of these there are `leading`, and
    `system` is the digest of them all. `has_reasoning`: some of them have.
    """

    system: int
    tools: tuple[int, ...]
    options: int
    messages: tuple[int, ...]
    leading: int = 0
    has_reasoning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first part in which two prompts differ. `message`: see `CacheMiss`."""

    reason: MissReason
    message: int | None = None


def outline_of(request: GenerateRequest, messages: Sequence[Message]) -> PromptOutline:
    """Make the outline of a prompt of these of the request's messages."""
    leading = 0
    while leading < len(messages) and messages[leading].role is Role.SYSTEM:
        leading += 1
    rest = messages[leading:]
    return PromptOutline(
        system=hash(tuple(message.content for message in messages[:leading])),
        tools=tuple(map(hash, offered_tools(request))),
        options=hash((request.template_options, request.thinking)),
        messages=tuple(map(_digest, rest)),
        leading=leading,
        has_reasoning=any(message.reasoning for message in rest),
    )


def _digest(message: Message) -> int:
    """Digest what clients send back unchanged. An answer's reasoning and the ids of its calls are
    not: many leave them out."""
    calls = tuple((call.name, call.arguments) for call in message.tool_calls)
    return hash((message.role, message.content, calls, message.images))


def first_difference(old: PromptOutline, new: PromptOutline) -> Difference | None:
    """Find the first part in which two prompts differ, in the order in which templates write them.
    None: what both have is the same; `new` may have more messages, or fewer."""
    if old.system != new.system:
        return Difference(reason=MissReason.SYSTEM_CHANGED)
    if old.tools != new.tools:
        same = sorted(old.tools) == sorted(new.tools)
        return Difference(reason=MissReason.TOOLS_REORDERED if same else MissReason.TOOLS_CHANGED)
    if old.options != new.options:
        return Difference(reason=MissReason.OPTIONS_CHANGED)
    pairs = zip(old.messages, new.messages, strict=False)
    i = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    if i is None:
        return None
    if new.messages[i] in old.messages[i + 1 :]:
        return Difference(reason=MissReason.MESSAGES_REMOVED)
    return Difference(reason=MissReason.MESSAGE_EDITED, message=new.leading + i + 1)


def same_conversation(old: PromptOutline, new: PromptOutline) -> bool:
    """Return True when two prompts have a message in common that is not the system's."""
    return not set(old.messages).isdisjoint(new.messages)
