"""The request of `/api/generate`: one prompt, through the chat template or as it is."""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import ValidationInfo, field_validator

from localllm.engine.messages import GenerateRequest, Message, Overflow, Role, Thinking
from localllm.server.dialects.ollama.fields import AnswerFields, Images
from localllm.server.generation.request import join_content
from localllm.server.schema import field_error, unsupported


class PromptRequest(AnswerFields):
    """The body of `/api/generate`; without a prompt it loads the model, or unloads it.

    With `raw` the prompt is the engine's own; with a `suffix` the answer stands between the two,
    written with the model's own tokens for that. Neither has a conversation.
    """

    prompt: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    system: str | None = None
    images: Images | None = None

    # The answer would be another one.
    template: Annotated[
        object,
        unsupported("", reason="is not supported: send `raw` with the prompt as it is to be"),
    ] = None
    context: Annotated[
        object,
        unsupported([], reason="is not supported: send the conversation to /api/chat"),
    ] = None
    width: Annotated[object, unsupported(0, reason="is not supported: images are not made")] = None
    height: Annotated[object, unsupported(0, reason="is not supported: images are not made")] = None
    steps: Annotated[object, unsupported(0, reason="is not supported: images are not made")] = None

    @field_validator("system", "images")
    @classmethod
    def _of_a_conversation(cls, value: object, info: ValidationInfo) -> object:
        if value and (info.data.get("raw") or info.data.get("suffix")):
            raise field_error("invalid_value", "goes neither with `raw` nor with `suffix`")
        return value or None

    prompt_field: ClassVar = "prompt"

    @property
    def only_loads(self) -> bool:
        return not self.prompt and not self.suffix

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id."""
        request = self.base_request()
        if self.raw or self.suffix:
            return replace(
                request,
                prompt=self.prompt or "",
                suffix=self.suffix or None,
                overflow=Overflow.ERROR,
                thinking=Thinking(),
            )
        text, images = join_content([*(self.images or ()), self.prompt or ""])
        question = Message(role=Role.USER, content=text, images=images)
        system = Message(role=Role.SYSTEM, content=self.system or "")
        return replace(request, messages=(system, question) if self.system else (question,))
