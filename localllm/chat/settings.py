"""The settings of one conversation: what goes with each question, and how its model is loaded."""

from dataclasses import dataclass, field, replace

from localllm.engine.messages import Sampling, Thinking


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """The settings of one conversation.

    `system` is the system prompt, "" for none. `max_tokens` None: until the model stops.
    `json_schema` is the text of a JSON Schema that each answer must follow, "" for none. `tools`
    are the names of the tools that the model may call. `collections` are the names of the indexed
    folders that questions are answered from. `context` and `kv_type` say how the model is loaded,
    None for the usual. `preset` is the name of the preset that these values came from, or "".
    """

    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: Thinking = field(default_factory=Thinking)
    json_schema: str = ""
    tools: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    context: int | None = None
    kv_type: str | None = None
    preset: str = ""

    def neutral(self) -> "ChatSettings":
        """Return the same without the name of the preset, to compare two by value."""
        return replace(self, preset="")
