"""Chat templates: programs from a model file, run in a sandbox that bounds their size and time.

Templates use Jinja as `transformers` sets it up (apply_chat_template): trim_blocks,
lstrip_blocks, loop controls, `raise_exception`, `strftime_now`. A template is as trustworthy as
the file it came with: CVE-2024-34359, CVE-2024-56326 and CVE-2025-27516 were such templates.
"""

import ctypes
import functools
import json
import secrets
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.nodes import Call, Const, Filter, Getattr, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from localllm.engine.messages import Message, Role, Tool
from localllm.engine.messages.limits import MAX_TEMPLATE_CHARS
from localllm.engine.worker.parsing.formats import HARMONY, reasoning_tags_of, tool_format_of
from localllm.engine.worker.parsing.model_format import Place
from localllm.engine.worker.prompt.template_messages import (
    PROBE_TOOL,
    RawArguments,
    TemplateCaps,
    TemplateMessage,
    TemplateTooSlow,
    messages_with_tools,
    plain_messages,
    probe_caps,
    template_tools,
    unpaired_as_text,
    unpaired_texts,
    with_content_parts,
    without_roles,
)
from localllm.engine.worker.prompt.thinking import ThinkingSwitches
from localllm.engine.worker.prompt.turns import FittedTurns, StrictestRules, TurnRules, fit_turns
from localllm.errors import BadRequest

MAX_RENDERED_CHARS = 16 * 2**20
TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 512 * 2**20
"""Of address space that one rendering may add to this process (enforced on Linux)."""

_MAX_INDENT = 16
_PROBE = "probed words"
_FORBIDDEN_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}
"""String methods that make a huge string out of a small number."""


class TemplateTimeout(BaseException):
    """The time is over; raised inside the rendering thread. Not an Exception, so that no handler on
    the way swallows it."""


NO_OPTIONS: Mapping[str, object] = MappingProxyType({})
_ANSWER_BEGINS: dict[str, object] = {"add_generation_prompt": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedAnswer:
    """A conversation up to a `place` in its answer."""

    text: str
    place: Place = Place.BEGINNING


class ChatTemplate:
    """One model's template, compiled once."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Compile. Raises BadRequest when it is too long or not valid Jinja."""
        if len(source) > MAX_TEMPLATE_CHARS:
            raise BadRequest(
                f"The model's chat template has {len(source)} characters; "
                f"at most {MAX_TEMPLATE_CHARS} are accepted."
            )
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        for name in ("center", "format", "xmlattr"):
            environment.filters.pop(name, None)
        environment.filters["indent"] = _indent
        environment.filters["tojson"] = _tojson
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            line = getattr(error, "lineno", None)
            place = f"line {line}: " if line is not None else ""
            raise BadRequest(f"The chat template is not usable: {place}{error}") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._source = source
        self._environment = environment
        self.tool_format = tool_format_of(source)
        self.reasoning_tags = reasoning_tags_of(source)

    @functools.cached_property
    def rewrites(self) -> tuple[tuple[str, str], ...]:
        """What it replaces in texts, in small letters, and by what: by nothing where it splits
        them. As far as that is written out in the template."""
        found: dict[tuple[str, str], None] = {}
        tree = self._environment.parse(self._source)
        calls = [
            *((each.name, each.args) for each in tree.find_all(Filter)),
            *(
                (each.node.attr, each.args)
                for each in tree.find_all(Call)
                if isinstance(each.node, Getattr)
            ),
        ]
        for name, args in calls:
            texts = [str(each.value).lower() for each in args if isinstance(each, Const)]
            match name, texts:
                case "replace", [old, new, *_] if old:
                    found[old, new] = None
                case "split", [old, *_] if old:
                    found[old, ""] = None
        return tuple(found)

    @functools.cached_property
    def caps(self) -> TemplateCaps:
        """The template's capabilities; probed with the first conversation that has tools."""
        return probe_caps(
            lambda messages, tools: self._render(messages, tools, {}), self.tool_format
        )

    def problem(self) -> str | None:
        """Say what keeps the simplest conversation, one question, from reaching the model; None
        when nothing does."""
        try:
            text = self.render([Message(role=Role.USER, content=_PROBE)])
        except BadRequest as error:
            return f"{error} (tried with one question)"
        return None if _PROBE in text else "The chat template leaves out what the user writes."

    @functools.cached_property
    def rules(self) -> TurnRules:
        """The orders of turns that it takes in a conversation without tools."""
        return TurnRules(functools.partial(self._accepts, tools=()))

    @functools.cached_property
    def rules_with_tools(self) -> TurnRules:
        """Those of a conversation with tools, which some templates write in another way."""
        return TurnRules(functools.partial(self._accepts, tools=(PROBE_TOOL,)))

    def _accepts(self, messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
        try:
            text = self.render(messages, tools)
        except TemplateTooSlow:
            raise
        except BadRequest:
            return False
        return all(message.content in text for message in messages)

    def fit(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, strictly: bool = False
    ) -> FittedTurns:
        """Put a conversation into an order that the template takes; `strictly`: into one that every
        template does."""
        has_tools = uses_tools(messages, tools)
        if has_tools:
            messages = without_roles(messages, self.caps, self.tool_format)
        if strictly:
            return fit_turns(messages, StrictestRules())
        return fit_turns(messages, self.rules_with_tools if has_tools else self.rules)

    @functools.cached_property
    def thinking(self) -> ThinkingSwitches:
        """Its switches of the model's reasoning."""
        return ThinkingSwitches(
            lambda messages, options: self.render(messages, options=options),
            self._source,
            reasons=self.reasoning_tags is not None or self.tool_format is HARMONY,
        )

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        options: Mapping[str, object] = NO_OPTIONS,
    ) -> str:
        """Render a conversation up to the beginning of the assistant's next message.

        `options` are further variables. Raises BadRequest when the template refuses the
        conversation, takes longer than TIME_LIMIT_S or writes more than MAX_RENDERED_CHARS.
        """
        if not uses_tools(messages, tools):
            return self._render(plain_messages(messages), None, options)
        return self._render_calls(messages, tools, options)

    def _render_calls(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: Mapping[str, object]
    ) -> str:
        """Render a conversation with tools.

        A broken call, or a result without its call, is shown as it is, so that the model can mend
        it: by the template where it can, else as text.
        """
        unpaired = unpaired_texts(messages)
        text = None
        try:
            text = self._render_tools(messages, tools, options)
            if all(each in text for each in unpaired):
                return text
        except TemplateTooSlow:
            raise
        except BadRequest:
            if not unpaired:
                raise
        try:
            messages = unpaired_as_text(messages, self.tool_format)
            return self._render_tools(messages, tools, options)
        except BadRequest:
            if text is None:
                raise
            return text

    def _render_tools(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: Mapping[str, object]
    ) -> str:
        built = messages_with_tools(messages, tools, self.caps, self.tool_format)
        return self._render(built, template_tools(tools, self.caps), options)

    def render_answer(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        options: Mapping[str, object] = NO_OPTIONS,
        continues: bool = False,
    ) -> "RenderedAnswer":
        """Render a conversation up to where the answer begins; with `continues` up to the end of
        the last message, an assistant's, with which the answer goes on. Raises as `render`."""
        last = messages[-1]
        continues = continues and last.role is Role.ASSISTANT
        if not continues or not (last.content or last.reasoning):
            messages = messages[:-1] if continues and len(messages) > 1 else messages
            return RenderedAnswer(text=self.render(messages, tools, options=options))
        end = f"<end-{secrets.token_hex(16)}>"
        if last.content:
            place, marked = Place.TEXT, replace(last, content=last.content + end)
        else:
            place, marked = Place.REASONING, replace(last, reasoning=f"{last.reasoning}{end}")
        options = {**options, "add_generation_prompt": False}
        text, found, _ = self.render((*messages[:-1], marked), tools, options=options).rpartition(
            end
        )
        if found:
            return RenderedAnswer(text=text, place=place)
        # The template leaves it out: it begins the answer all the same.
        text = self.render(messages[:-1] or messages, tools, options=options | _ANSWER_BEGINS)
        if place is Place.TEXT:
            return RenderedAnswer(text=self.with_reasoning_closed(text) + last.content, place=place)
        tags = self.reasoning_tags
        opening = "" if tags is None or self._opens_reasoning(text) else tags.open
        return RenderedAnswer(text=f"{text}{opening}{last.reasoning}", place=place)

    def with_reasoning_closed(self, text: str) -> str:
        """Return a prompt after which the model does not reason: the template has opened it."""
        if self.reasoning_tags is None or not self._opens_reasoning(text):
            return text
        return text + self.reasoning_tags.forced_end

    def _opens_reasoning(self, text: str) -> bool:
        tags = self.reasoning_tags
        return tags is not None and text.rstrip().endswith(tags.open.rstrip())

    @functools.cached_property
    def _no_tools(self) -> list[TemplateMessage] | None:
        """What it is given when there are no tools: None, as `transformers` does, but an empty list
        for a template that is made for tools and needs one."""

        def renders(tools: list[TemplateMessage] | None) -> bool:
            try:
                return bool(self._render_as_is([{"role": "user", "content": _PROBE}], tools, {}))
            except TemplateTooSlow:
                raise
            except BadRequest:
                return False

        return [] if not renders(None) and renders([]) else None

    @functools.cached_property
    def _needs_content_parts(self) -> bool:
        """True for a template that takes a content as a list of parts only, as those of some
        vision models do."""

        def writes(content: object) -> bool:
            message: TemplateMessage = {"role": "user", "content": content}
            try:
                return _PROBE in self._render_as_is([message], None, {})
            except TemplateTooSlow:
                raise
            except BadRequest:
                return False

        return not writes(_PROBE) and writes([{"type": "text", "text": _PROBE}])

    def _render(
        self,
        messages: list[TemplateMessage],
        tools: list[TemplateMessage] | None,
        options: Mapping[str, object],
    ) -> str:
        if self._needs_content_parts:
            messages = with_content_parts(messages)
        return self._render_as_is(messages, self._no_tools if tools is None else tools, options)

    def _render_as_is(
        self,
        messages: list[TemplateMessage],
        tools: list[TemplateMessage] | None,
        options: Mapping[str, object],
    ) -> str:
        try:
            with _memory_limit(MEMORY_LIMIT_BYTES), _Deadline(TIME_LIMIT_S):
                return self._generate(messages, tools, options)
        except TemplateTimeout:
            raise TemplateTooSlow(
                f"The model's chat template ran for more than {TIME_LIMIT_S:g} s and was stopped."
            ) from None
        except _Refusal as error:
            raise BadRequest(f"The chat template refused this conversation: {error}") from error
        except (RecursionError, MemoryError) as error:
            raise BadRequest(
                "The model's chat template needs too much memory for this conversation and was "
                "stopped."
            ) from error
        except (
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            # Their own words are for the template's author, in the terms of Python.
            raise BadRequest(
                f"The model's chat template failed on this conversation{_line_of(error)}: it is "
                "written for messages of another form. Send the messages in another form, or load "
                "the model with another template (--chat-template FILE)."
            ) from error

    def _generate(
        self,
        messages: list[TemplateMessage],
        tools: list[TemplateMessage] | None,
        options: Mapping[str, object],
    ) -> str:
        chunks: list[str] = []
        length = 0
        for chunk in self._template.generate(
            **{
                "add_generation_prompt": True,
                "documents": None,
                **options,
                **self._tokens,
                "messages": messages,
                "tools": tools,
            }
        ):
            length += len(chunk)
            if length > MAX_RENDERED_CHARS:
                raise BadRequest(
                    f"The model's chat template wrote more than {MAX_RENDERED_CHARS} characters."
                )
            chunks.append(chunk)
        return "".join(chunks)


def uses_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    """Tell whether a conversation has tools, or calls of earlier ones."""
    return bool(tools) or any(m.tool_calls or m.role is Role.TOOL for m in messages)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, and no operator that makes a huge value out of two small ones."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: object, right: object
    ) -> object:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        huge = (
            isinstance(left, int) and isinstance(right, int) and max(abs(left), abs(right)) > 2**63
        )
        if operator == "**" or huge or not numbers:
            raise jinja2.exceptions.SecurityError(
                f"operator {operator} on {type(left).__name__} and {type(right).__name__} "
                "is not allowed in a chat template"
            )
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        if isinstance(obj, str) and attr in _FORBIDDEN_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


class _GenerationTag(Extension):
    """Accepts `{% generation %}...{% endgeneration %}`, which marks for training what the model
    has written (`transformers`, AssistantTracker). In a prompt it means nothing."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Deadline:
    """Raise TemplateTimeout in the thread that entered, when the time is over.

    An asynchronous exception instead of SIGALRM: it works on Windows and in any thread.
    """

    def __init__(self, seconds: float) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._over = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            if not self._over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(TemplateTimeout)
                )


@contextmanager
def _memory_limit(extra_bytes: int) -> Iterator[None]:
    """Let this process grow by `extra_bytes` at most: more is a MemoryError, not a dead machine.

    A template can double a string forty times. Nothing else runs while one is rendered, so the
    limit hits nobody else. macOS and Windows do not enforce RLIMIT_AS; there the process's own
    death is the limit, and the parent outlives it.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (_tighter(_tighter(limit, soft), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _tighter(limit: int, other: int) -> int:
    return limit if other < 0 else min(limit, other)  # RLIM_INFINITY is -1


def _tojson(
    value: object, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False
) -> str:
    """Write JSON as `transformers` does: not escaped for HTML, unlike Jinja's own filter."""
    if isinstance(value, RawArguments):
        return str(value)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=min(indent or 0, 16) or None, sort_keys=sort_keys
    )


def _indent(text: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    """Indent as Jinja's own filter does, by widths that make no huge value out of a small one."""
    if not isinstance(width, int) or not 0 <= width <= _MAX_INDENT:
        raise ValueError(f"indent by {width!r}")
    return do_indent(text, width, first, blank)


class _Refusal(jinja2.TemplateError):
    """A template's own word that it does not take a conversation."""


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(message)


def _line_of(error: BaseException) -> str:
    """Name the line of the template that an error comes from; "" when it is not known."""
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == _TEMPLATE_FILE
    ]
    return f", in its line {lines[-1]}" if lines else ""


_TEMPLATE_FILE = "<template>"
"""What jinja calls a template that came from no file, in its tracebacks."""


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
