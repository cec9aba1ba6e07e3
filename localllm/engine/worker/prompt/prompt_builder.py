"""From a request to its prompt in one pass: limits, context window, chat template, images, tokens.

There is one builder for each load. It is the only one who knows of templates and encoders: the
scheduler behind it takes a `Prompt`, whatever it was made of.
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from localllm.engine.messages import GenerateRequest, Message, Overflow
from localllm.engine.messages.validation import check_generate, check_tokens
from localllm.engine.worker.parsing.model_format import ModelFormat, Tokenizer, offered_tools
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.context_window import RollingWindow, prompt_limit
from localllm.engine.worker.prompt.prompt import ImageEncoder, Prompt, PromptPart
from localllm.errors import BadRequest, ContextOverflow

_NO_TEMPLATE = (
    "This model has no usable chat template: it is a base model that continues text. "
    "Send a plain prompt instead of a conversation."
)
_UNUSABLE_TEMPLATE = (
    "Take another file of the model, load it with a template of your own (--chat-template FILE), "
    "or send a plain prompt instead of a conversation."
)
_NO_MMPROJ = "This model was loaded without an image encoder (mmproj): it cannot see images."

_CHARS_PER_TOKEN = 8
"""More than the text of a token has on average (3 to 5), so that a prompt that fits is rarely
tokenized twice."""


class PromptVocabulary(Tokenizer, Protocol):
    """The part of a vocabulary that prompts depend on (`llama.vocabulary.Vocabulary`)."""

    size: int

    @property
    def bos(self) -> str: ...

    @property
    def adds_bos(self) -> bool: ...


class PromptBuilder:
    """Makes the prompts of one model."""

    def __init__(
        self,
        vocab: PromptVocabulary,
        template: ChatTemplate | None,
        *,
        context: int,
        encoder: ImageEncoder | None = None,
        vision_unavailable: str | None = None,
        template_problem: str | None = None,
    ) -> None:
        """`context`: tokens that one conversation can hold. `vision_unavailable`: why there is no
        `encoder`, though the load has asked for one; `template_problem`: why there is no
        `template`, though the model's file has one."""
        self._vocab = vocab
        self._context = context
        self._template = template
        self._no_template = _NO_TEMPLATE
        if template is None and template_problem is not None:
            self._no_template = f"{template_problem} {_UNUSABLE_TEMPLATE}"
        self._encoder = encoder
        self._vision_unavailable = vision_unavailable
        self._window = RollingWindow()
        self._format: ModelFormat | None = None
        if template is not None:
            self._format = ModelFormat(template.tool_format, template.reasoning_tags, vocab)

    def build(self, request: GenerateRequest) -> Prompt:
        """Make the prompt of a request. Raises BadRequest, ContextOverflow."""
        check_generate(request)
        check_tokens(request, self._vocab.size)
        prompt = self._prompt(request)
        if not prompt.tokens:
            raise BadRequest("The prompt is empty.")
        if self._format is None:
            return prompt
        return replace(prompt, answer_format=self._format.answer_format(request, prompt.tokens))

    def tokens_of(self, messages: tuple[Message, ...]) -> list[int]:
        """Return the tokens of a conversation, up to the beginning of the assistant's next message.
        Raises BadRequest, ContextOverflow."""
        request = GenerateRequest(request_id="", messages=messages)
        check_generate(request)
        return self._conversation(request, messages).tokens

    def _prompt(self, request: GenerateRequest) -> Prompt:
        if request.prompt_tokens is not None:
            return Prompt(tokens=list(request.prompt_tokens))
        if request.prompt is not None:
            return Prompt(tokens=self._tokenize(request.prompt))
        messages = request.messages or ()
        if request.overflow is Overflow.ERROR:
            return self._conversation(request, messages)
        return self._rolled(request, messages)

    def _rolled(self, request: GenerateRequest, messages: tuple[Message, ...]) -> Prompt:
        """Make the prompt of a conversation whose oldest turns may be left out."""
        context = self._context
        prompt, dropped = self._window.fit(
            messages,
            prompt_limit(context, request.max_tokens),
            lambda rest: self._conversation(request, rest),
        )
        if len(prompt) >= context:
            raise ContextOverflow(
                f"The last turn and the system prompt alone have {len(prompt)} tokens and the "
                f"context holds {context}. Shorten them, or load the model with a larger "
                "context (--ctx)."
            )
        return replace(prompt, dropped_messages=dropped)

    def _conversation(self, request: GenerateRequest, messages: tuple[Message, ...]) -> Prompt:
        """Make the prompt of these of the request's messages."""
        if self._template is None:
            raise BadRequest(self._no_template)
        if not any(message.images for message in messages):
            text, warnings = self._render(self._template, request, messages)
            return Prompt(tokens=self._tokenize(text), warnings=warnings)
        if self._encoder is None:
            raise BadRequest(self._vision_unavailable or _NO_MMPROJ)
        placeholder = _ImagePlaceholder()
        text, warnings = self._render(self._template, request, placeholder.insert(messages))
        if len(text) > _CHARS_PER_TOKEN * self._context:
            self._tokenize(text)  # the encoder would, without a limit
        return replace(self._encoder.tokenize(placeholder.split(text)), warnings=warnings)

    def _render(
        self, template: ChatTemplate, request: GenerateRequest, messages: Sequence[Message]
    ) -> tuple[str, tuple[str, ...]]:
        """Render the messages, in an order that the template takes; return the text, and what was
        done to them."""
        tools = offered_tools(request)
        fitted = template.fit(messages, tools)
        try:
            text = self._render_as_is(template, request, fitted.messages)
        except BadRequest as refusal:
            strict = template.fit(messages, tools, strictly=True)
            if strict.messages == fitted.messages:
                raise
            try:
                text = self._render_as_is(template, request, strict.messages)
            except BadRequest:
                raise refusal from None
            fitted = strict
        return text, fitted.warnings

    def _render_as_is(
        self, template: ChatTemplate, request: GenerateRequest, messages: Sequence[Message]
    ) -> str:
        # An answer that follows a grammar from its first token on cannot reason before.
        reasoning = False if request.grammar is not None else None
        text = template.render(messages, offered_tools(request), reasoning=reasoning)
        # The tokenizer writes the BOS that most templates write, too: two hurt the answer.
        return text.removeprefix(self._vocab.bos) if self._vocab.adds_bos else text

    def _tokenize(self, text: str) -> list[int]:
        """Tokenize a prompt; of a far too long one no more than it takes to see that.

        No other answer goes on meanwhile, and 10 MB of control tokens keep llama.cpp busy for
        minutes (its search for them takes quadratic time). Raises ContextOverflow.
        """
        context = self._context
        length = _CHARS_PER_TOKEN * context
        while length < len(text):
            tokens = self._vocab.tokenize(text[:length], special=True)
            if len(tokens) > 2 * context:  # twice: what the cut changed does not matter
                raise ContextOverflow(
                    f"The prompt has {len(text)} characters, more than {len(tokens)} tokens, and "
                    f"the context holds {context}. Shorten the conversation, or load the model "
                    "with a larger context (--ctx)."
                )
            length *= 2
        return self._vocab.tokenize(text, special=True)


class _ImagePlaceholder:
    """A text that stands for each image while a template renders the messages. It is random, so
    that nobody's message can hold it."""

    def __init__(self) -> None:
        self._text = f"<|image-{secrets.token_hex(16)}|>"
        self._images: list[bytes] = []

    def insert(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages with the placeholder instead of each image."""
        return tuple(self._inserted(message) for message in messages)

    def split(self, prompt: str) -> tuple[PromptPart, ...]:
        """Cut a rendered prompt into its text and images. Raises BadRequest when the template has
        left out or repeated one of them."""
        texts = prompt.split(self._text)
        if len(texts) != len(self._images) + 1:
            raise BadRequest(
                f"The model's chat template wrote {len(texts) - 1} of {len(self._images)} images "
                "into the prompt: it has no place for an image in one of these messages."
            )
        parts: list[PromptPart] = [texts[0]]
        for image, text in zip(self._images, texts[1:], strict=True):
            parts += [image, text]
        return tuple(part for part in parts if part)

    def _inserted(self, message: Message) -> Message:
        content, done = "", 0
        for image in message.images:
            content += message.content[done : image.offset] + self._text
            done = image.offset
            self._images.append(image.data)
        return replace(message, content=content + message.content[done:], images=())
