"""From a request to its prompt in one pass: limits, context window, chat template, images, tokens.

There is one builder for each load. It is the only one who knows of templates and encoders: the
scheduler behind it takes a `Prompt`, whatever it was made of.
"""

import functools
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from localllm.engine.messages import GenerateRequest, Message, Overflow, Role, Thinking
from localllm.engine.messages.validation import check_generate, check_tokens
from localllm.engine.worker.llama.vocabulary import InfillTokens
from localllm.engine.worker.parsing.formats import ReasoningTags
from localllm.engine.worker.parsing.model_format import (
    ModelFormat,
    Place,
    Tokenizer,
    offered_tools,
)
from localllm.engine.worker.prompt.boundaries import Boundary, find_sections, place_boundaries
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.context_window import RollingWindow, prompt_limit
from localllm.engine.worker.prompt.control_words import ControlWords, LiteralText
from localllm.engine.worker.prompt.infill import NO_INFILL, infill_prompt
from localllm.engine.worker.prompt.outline import outline_of
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
IMAGE_MARK = "<__media__>"
"""What stands for an image in a prompt that is written as text, as in llama-server
(mtmd_default_marker)."""

_NO_MMPROJ = "This model was loaded without an image encoder (mmproj): it cannot see images."

_CHARS_PER_TOKEN = 8
"""More than the text of a token has on average (3 to 5), so that a prompt that fits is rarely
tokenized twice."""


_MOST_CHARS_PER_TOKEN = 64
"""Of a text that may still fit: to render a longer one takes seconds that nothing is gained by."""

NO_WISH = Thinking()
"""To think as the model does by itself."""


_NO_WORDS = ControlWords(())


class PromptVocabulary(Tokenizer, Protocol):
    """The part of a vocabulary that prompts depend on (`llama.vocabulary.Vocabulary`)."""

    size: int

    def written(self, token: int) -> bytes: ...

    @property
    def bos(self) -> str: ...

    @property
    def control_words(self) -> frozenset[str]: ...

    @property
    def strip_words(self) -> tuple[frozenset[str], frozenset[str]]: ...

    @property
    def adds_bos(self) -> bool: ...

    @property
    def infill_tokens(self) -> InfillTokens | None: ...


class PromptBuilder:
    """Makes the prompts of one model."""

    def __init__(
        self,
        vocab: PromptVocabulary,
        template: ChatTemplate | None,
        *,
        context: int,
        batch: int = 2048,
        encoder: ImageEncoder | None = None,
        vision_unavailable: str | None = None,
        template_problem: str | None = None,
        parse_special: bool = False,
    ) -> None:
        """`context`: tokens that one conversation can hold; `batch`: that are read at once (what
        llama.cpp calls n_batch). `vision_unavailable`: why there is no
        `encoder`, though the load has asked for one; `template_problem`: why there is no
        `template`, though the model's file has one. `parse_special`: for every request."""
        self._vocab = vocab
        self._context = context
        self._batch = batch
        self._template = template
        self._no_template = _NO_TEMPLATE
        if template is None and template_problem is not None:
            self._no_template = f"{template_problem} {_UNUSABLE_TEMPLATE}"
        self._encoder = encoder
        self._vision_unavailable = vision_unavailable
        self._window = RollingWindow()
        before, after = vocab.strip_words
        self._words = ControlWords(
            () if parse_special else vocab.control_words,
            rewrites=() if template is None else template.rewrites,
            strip_before=before,
            strip_after=after,
        )
        self._control_bytes = frozenset(word.encode() for word in vocab.control_words)
        self._written = functools.cache(vocab.written)
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
        return prompt

    def text_of(self, request: GenerateRequest) -> str:
        """Write the prompt of a request as text, without the BOS that the tokenizer adds, with
        IMAGE_MARK for each image. Raises BadRequest, ContextOverflow."""
        check_generate(request)
        check_tokens(request, self._vocab.size)
        if request.messages is None:
            if request.prompt is not None and request.suffix is None:
                return request.prompt
            pieces = (self._vocab.written(token) for token in self._prompt(request).tokens)
            return b"".join(pieces).decode("utf-8", "replace")
        template = self._require_template()
        self._check_texts(request.messages)
        placeholder = _ImagePlaceholder()
        rendered = self._render(template, request, placeholder.insert(request.messages))
        parts = placeholder.split(rendered.text)
        return "".join(
            IMAGE_MARK if isinstance(part, bytes) else self._without_marks(part, rendered.mark)
            for part in parts
        )

    def tokens_of(self, messages: tuple[Message, ...], thinking: Thinking = NO_WISH) -> list[int]:
        """Return the tokens of a conversation, up to the beginning of the assistant's next message.
        Raises BadRequest, ContextOverflow."""
        request = GenerateRequest(
            request_id="", messages=messages, thinking=thinking, continue_final_message=False
        )
        check_generate(request)
        return self._conversation(request, messages).tokens

    def _prompt(self, request: GenerateRequest) -> Prompt:
        if request.prompt_tokens is not None:
            return Prompt(tokens=list(request.prompt_tokens))
        if request.prompt is not None and request.suffix is not None:
            return self._infill(request, request.prompt, request.suffix)
        if request.prompt is not None:
            return Prompt(tokens=self._tokenize(request.prompt))
        messages = request.messages or ()
        if request.overflow is Overflow.ERROR:
            return self._conversation(request, messages)
        return self._rolled(request, messages)

    def _infill(self, request: GenerateRequest, prefix: str, suffix: str) -> Prompt:
        """Make the prompt whose answer stands between two texts, and ends with any token that a
        text of its own kind begins with."""
        marks = self._vocab.infill_tokens
        if marks is None:
            raise BadRequest(NO_INFILL)
        ends = self._vocab.tokenize("", special=True)
        made = infill_prompt(
            marks,
            lambda text: self._vocab.tokenize(text, special=False, ends=False),
            prefix=prefix,
            suffix=suffix,
            files=request.files,
            bos=ends[:1] if self._vocab.adds_bos else (),
            limit=prompt_limit(self._context, request.max_tokens),
            batch=self._batch,
        )
        stops = () if request.ignore_eos else marks.all
        return Prompt(tokens=made.tokens, warnings=made.warnings, stop_tokens=stops)

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
        template = self._require_template()
        self._check_texts(messages)
        placeholder = _ImagePlaceholder()
        has_images = any(message.images for message in messages)
        if has_images and self._encoder is None:
            raise BadRequest(self._vision_unavailable or _NO_MMPROJ)
        rendered = self._render(
            template, request, placeholder.insert(messages) if has_images else messages
        )
        if self._encoder is None or not has_images:
            tokens, images = self._tokenize_pieces(rendered.text, rendered.mark), None
        else:
            if len(rendered.text) > _CHARS_PER_TOKEN * self._context:
                self._tokenize(rendered.text)  # the encoder would, without a limit
            placed = self._encoder.tokenize(
                [
                    piece
                    for part in placeholder.split(rendered.text)
                    for piece in self._pieces(part, rendered.mark)
                ]
            )
            tokens, images = placed.tokens, placed.images
        boundaries = self._boundaries(rendered, tokens) if images is None else ()
        assert self._format is not None  # there is a template
        return Prompt(
            tokens=tokens,
            images=images,
            boundaries=boundaries,
            outline=outline_of(request, messages),
            warnings=rendered.warnings,
            answer_format=self._format.answer_format(
                request, tokens, place=rendered.place, budget=rendered.budget
            ),
        )

    def _boundaries(self, rendered: "_Rendered", tokens: list[int]) -> tuple[Boundary, ...]:
        """Find where the sections of a conversation without images begin."""
        text = self._without_marks(rendered.text, rendered.mark)
        tags = self._template.reasoning_tags if self._template is not None else None
        spans = find_sections(
            text,
            [
                (message.role, self._without_marks(message.content, rendered.mark))
                for message in rendered.messages
            ],
            tags.open if tags is not None else None,
        )
        return place_boundaries(text, spans, tokens, self._written, self._control_bytes)

    def _require_template(self) -> ChatTemplate:
        if self._template is None:
            raise BadRequest(self._no_template)
        return self._template

    def _render(
        self, template: ChatTemplate, request: GenerateRequest, messages: Sequence[Message]
    ) -> "_Rendered":
        """Render the messages, in an order that the template takes."""
        tools = offered_tools(request)
        apart = self._with_reasoning_apart(messages)
        words = _NO_WORDS if request.parse_special else self._words
        marked = words.mark(apart, tools, request.template_options)
        # An answer that follows a grammar from its first token on cannot reason before.
        thinking = Thinking(enabled=False) if request.grammar is not None else request.thinking
        plan = template.thinking.plan(thinking, json.loads(marked.options))
        continues = _continues(request)
        messages = plan.with_word(marked.messages)
        fitted = template.fit(messages, marked.tools)
        try:
            found = template.render_answer(
                fitted.messages, marked.tools, options=plan.options, continues=continues
            )
        except BadRequest as refusal:
            strict = template.fit(messages, marked.tools, strictly=True)
            if strict.messages == fitted.messages:
                raise
            try:
                found = template.render_answer(
                    strict.messages, marked.tools, options=plan.options, continues=continues
                )
            except BadRequest:
                raise refusal from None
            fitted = strict
        text = found.text
        if plan.off and found.place is Place.BEGINNING:
            text = template.with_reasoning_closed(text)
        # The tokenizer writes the BOS that most templates write, too: two hurt the answer.
        return _Rendered(
            text=text.removeprefix(self._vocab.bos) if self._vocab.adds_bos else text,
            mark=marked.mark,
            messages=fitted.messages,
            place=found.place,
            budget=plan.budget,
            warnings=(*fitted.warnings, *plan.warnings),
        )

    def _with_reasoning_apart(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Take the reasoning out of an answer's text, where clients have left it with its tags. As
        control words these would be text that the template does not know any more."""
        tags = self._template.reasoning_tags if self._template is not None else None
        if tags is None or not {tags.open.strip(), tags.close} & self._words.words:
            return messages
        return [_with_reasoning_apart(message, tags) for message in messages]

    def _pieces(self, part: PromptPart, mark: str | None) -> Sequence[PromptPart]:
        if isinstance(part, bytes):
            return [part]
        return self._words.stripped(self._words.pieces(part, mark))

    def _without_marks(self, text: str, mark: str | None) -> str:
        return "".join(self._words.pieces(text, mark))

    def _tokenize_pieces(self, text: str, mark: str | None) -> list[int]:
        """Tokenize a prompt, in some stretches of which no control tokens are recognised."""
        if mark is None:
            return self._tokenize(text)
        self._check_length(text)
        ends = self._vocab.tokenize("", special=True)
        begin = 1 if self._vocab.adds_bos else 0
        tokens = ends[:begin]
        for piece in self._words.stripped(self._words.pieces(text, mark)):
            special = not isinstance(piece, LiteralText)
            tokens += self._vocab.tokenize(piece, special=special, ends=False)
        return tokens + ends[begin:]

    def _check_texts(self, messages: Sequence[Message]) -> None:
        """Raise ContextOverflow for texts that no template could make a prompt of that fits; an
        assistant's may be left out by it."""
        texts = [each.content for each in messages if each.role is not Role.ASSISTANT]
        if sum(map(len, texts)) > _MOST_CHARS_PER_TOKEN * self._context:
            self._check_length("".join(texts), special=False)

    def _tokenize(self, text: str) -> list[int]:
        self._check_length(text)
        return self._vocab.tokenize(text, special=True)

    def _check_length(self, text: str, *, special: bool = True) -> None:
        """Raise ContextOverflow for a far too long prompt, with no more tokens than it takes to see
        that.

        No other answer goes on meanwhile, and 10 MB of control tokens keep llama.cpp busy for
        minutes (its search for them takes quadratic time).
        """
        context = self._context
        length = _CHARS_PER_TOKEN * context
        while length < len(text):
            tokens = self._vocab.tokenize(text[:length], special=special)
            if len(tokens) > 2 * context:  # twice: what the cut changed does not matter
                raise ContextOverflow(
                    f"The prompt has {len(text)} characters, more than {len(tokens)} tokens, and "
                    f"the context holds {context}. Shorten the conversation, or load the model "
                    "with a larger context (--ctx)."
                )
            length *= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """A rendered conversation: its text with its marks, the messages that it was made of, and what
    is known of the answer to it."""

    text: str
    mark: str | None
    messages: tuple[Message, ...]
    place: Place
    budget: int | None
    warnings: tuple[str, ...]


def _continues(request: GenerateRequest) -> bool:
    """Tell whether the answer goes on with the last message."""
    last = (request.messages or (None,))[-1]
    if last is None or last.role is not Role.ASSISTANT or last.tool_calls:
        return False
    return request.continue_final_message is not False


def _with_reasoning_apart(message: Message, tags: ReasoningTags) -> Message:
    text = message.content.lstrip()
    opening = tags.open.strip()
    if message.role is not Role.ASSISTANT or message.reasoning or not text.startswith(opening):
        return message
    reasoning, close, content = text[len(opening) :].partition(tags.close)
    if not close:
        return message
    return replace(message, content=content.lstrip(), reasoning=reasoning.strip() or None)


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
