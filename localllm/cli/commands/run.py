"""`localllm run`: one answer, or a conversation on a terminal."""

import asyncio
import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from localllm.cli import options
from localllm.cli.answer import Answer, Writer, print_stats, read_answer
from localllm.cli.chat_session import Session, opened
from localllm.cli.loading import load_with_progress, require_answers, require_vision
from localllm.cli.output import print_json
from localllm.core.sizing.load import KvType, LoadSettings, Lora, Speculate
from localllm.core.text import single_line, strip_controls
from localllm.core.units import format_bytes
from localllm.engine.messages import (
    GenerateRequest,
    Grammar,
    GrammarKind,
    Image,
    Message,
    Overflow,
    Role,
    Sampling,
)
from localllm.engine.messages.limits import MAX_GRAMMAR_CHARS, MAX_IMAGE_BYTES, ranges_of
from localllm.engine.messages.validation import check_images
from localllm.errors import BadRequest, ExitCode, GenerationFailed, NotFound, StoreError, UsageError
from localllm.library.files.names import printable
from localllm.runtime.runtime import ResidentModel, Runtime, read_spec


def read_images(paths: tuple[Path, ...]) -> tuple[Image, ...]:
    """Read picture files, before anything is loaded for them.

    Raises NotFound, and UsageError for one that cannot be read or that the engine would refuse.
    """
    images = tuple(Image(data=_read(path)) for path in paths)
    for path, image in zip(paths, images, strict=True):
        try:
            check_images((Message(role=Role.USER, content="", images=(image,)),))
        except BadRequest as error:
            raise UsageError(f"--image {printable(path)}: {error}") from None
    try:
        check_images((Message(role=Role.USER, content="", images=images),))
    except BadRequest as error:
        raise UsageError(str(error)) from None
    return images


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no file {printable(path)} for --image.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"--image {printable(path)} cannot be read: {reason}.") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise UsageError(
            f"--image {printable(path)} is larger than {format_bytes(MAX_IMAGE_BYTES)}. "
            "Scale it down, or save it as JPEG."
        )
    return data


MAX_PROMPT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How every answer of this invocation is asked for."""

    system: str | None
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    grammar: Grammar | None
    overflow: Overflow
    images: tuple[Image, ...] = ()
    """They stand before the first turn."""

    def request(self, turns: tuple[Message, ...], *, chat: bool) -> GenerateRequest:
        """A request for the next turn; a base model gets the last turn's text to continue."""
        turns = (replace(turns[0], images=self.images), *turns[1:])
        system = (Message(role=Role.SYSTEM, content=self.system),) if self.system else ()
        return GenerateRequest(
            request_id=uuid.uuid4().hex,
            messages=(*system, *turns) if chat else None,
            prompt=None if chat else turns[-1].content,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            stop=self.stop,
            grammar=self.grammar,
            overflow=self.overflow if chat else Overflow.ERROR,
        )


Command = TypeVar("Command", bound=Callable[..., object])


def _sampling_option(field: str, help_text: str) -> Callable[[Command], Command]:
    """Make the option of a field of `Sampling`, with the field's range and default."""
    values, default = ranges_of(Sampling)[field], getattr(Sampling(), field)
    number: click.IntRange | click.FloatRange = (
        click.IntRange(int(values.low), int(values.high))
        if values.type is int
        else click.FloatRange(values.low, values.high, min_open=values.low_open)
    )
    return click.option(
        "--" + field.replace("_", "-"), type=number, default=default, help=help_text.format(default)
    )


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Longest answer.")
@_sampling_option("temperature", "Default {}.")
@_sampling_option("top_p", "Default {}.")
@_sampling_option("top_k", "Default {}; 0: all.")
@_sampling_option("min_p", "Default {}.")
@_sampling_option("repeat_penalty", "Default {:g}.")
@_sampling_option("seed", "Same seed, same answer.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer here; repeatable.")
@click.option("--json-schema", metavar="FILE", type=click.Path(path_type=Path),
              help="Answer in JSON that follows this JSON Schema.")  # fmt: skip
@click.option("--image", "images", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="Show the model this picture before PROMPT; repeatable.")  # fmt: skip
@options.LORA
@options.CONTEXT
@options.KV_TYPE
@options.GPU_LAYERS
@options.CPU_MOE
@options.NO_KV_OFFLOAD
@options.SPECULATE
@options.DRAFT
@options.FORCE
@click.option("--session", "session_file", metavar="FILE", type=click.Path(path_type=Path),
              help="Go on with the conversation in FILE, and keep it there.")  # fmt: skip
@click.option("--no-session-cache", is_flag=True,
              help="With --session: keep what was said, and read it again next time.")  # fmt: skip
@click.option("--stats", is_flag=True, help="Token counts, rates and memory on stderr.")
@options.JSON
@options.QUIET
def command(
    model: str,
    prompt: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    repeat_penalty: float,
    seed: int | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    images: tuple[Path, ...],
    loras: tuple[Lora, ...],
    context: int | None,
    kv_type: str,
    gpu_layers: int | None,
    cpu_moe: int,
    no_kv_offload: bool,
    speculate: str,
    draft: str | None,
    force: bool,
    session_file: Path | None,
    no_session_cache: bool,
    stats: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Answer PROMPT (or what comes on stdin) with MODEL; without either, converse.

    Ctrl+C stops the answer, a second one leaves.
    """
    converses = prompt is None and sys.stdin.isatty() and not as_json
    question = Question(
        system=system, max_tokens=max_tokens, stop=stop, images=read_images(images),
        sampling=Sampling(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
            repeat_penalty=repeat_penalty, seed=seed,
        ),
        grammar=None if json_schema is None else _grammar(json_schema),
        overflow=Overflow.ROLL if converses or session_file else Overflow.ERROR,
    )  # fmt: skip
    if question.images and session_file is not None:
        raise UsageError("--session keeps text alone: it cannot go with --image.")
    text = None if converses else _prompt_text(prompt)
    load = Load(
        model=model, draft=draft, sees=bool(images), force=force, quiet=quiet,
        settings=partial(
            options.settings_for, context=context, gpu_layers=gpu_layers, kv_type=KvType(kv_type),
            cpu_moe=cpu_moe, kv_offload=not no_kv_offload, loras=loras,
            speculate=Speculate(speculate),
        ),
    )  # fmt: skip
    with opened(session_file, system=system, cached=not no_session_cache) as session:
        return _run(load, session, question, text, stats=stats, as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is loaded, and how; `settings` is `options.settings_for` but for what the model says."""

    model: str
    draft: str | None
    sees: bool
    force: bool
    quiet: bool
    settings: Callable[..., LoadSettings]


def _run(
    load: Load,
    session: Session,
    question: Question,
    text: str | None,
    *,
    stats: bool,
    as_json: bool,
) -> int:
    """Load the model and answer `text`, or converse when it is None."""
    question = replace(question, system=session.talk.system)
    runtime = Runtime.of_this_machine()
    with asyncio.Runner() as runner:
        try:
            installed = runtime.resolve(load.model)
            spec = read_spec(installed.path)
            require_answers(spec, installed.name)
            settings = load.settings(
                spec,
                mmproj=require_vision(installed) if load.sees else None,
                draft=None if load.draft is None else runtime.resolve(load.draft).path,
            )
            resident = runner.run(
                load_with_progress(runtime, installed, settings, force=load.force, quiet=load.quiet)
            )
            if stats:  # of the load, so once and not after each answer
                click.echo(resident.comparison.sentence(), err=True)
            speaker = Speaker(runner, runtime, resident, stats=stats)
            speaker.say(runner.run(session.restore(runtime, resident)))
            if text is None:
                _converse(speaker, session, question)
                return ExitCode.OK
            answer = _only(speaker, session, question, text, as_json=as_json)
            return ExitCode.INTERRUPTED if answer.stopped else ExitCode.OK
        finally:
            runner.run(runtime.close())


def _grammar(path: Path) -> Grammar:
    """Raises NotFound and UsageError for a file that holds no JSON; what the schema says is the
    engine's to judge."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_GRAMMAR_CHARS + 1).decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no file {printable(path)} for --json-schema.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--json-schema {printable(path)} cannot be read: {reason}.") from None
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--json-schema {printable(path)} is not valid JSON: {error}.") from None
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=text)


def _prompt_text(argument: str | None) -> str:
    if argument is None:
        raw = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
        if len(raw) > MAX_PROMPT_BYTES:
            raise UsageError(f"The prompt on stdin is longer than {MAX_PROMPT_BYTES // 2**20} MiB.")
        argument = raw.decode("utf-8", "replace")
    if not argument.strip():
        raise UsageError(
            'The prompt is empty. Give one: localllm run starter "Why is the sky blue?" '
            "or pipe it in."
        )
    return argument


class Speaker:
    """A model that answers, and what is said of that."""

    def __init__(
        self, runner: asyncio.Runner, runtime: Runtime, resident: ResidentModel, *, stats: bool
    ) -> None:
        self._runner = runner
        self._runtime = runtime
        self._stats = stats
        self.resident = resident

    def say(self, text: str) -> None:
        """On stderr, for who wants to know."""
        if self._stats and text:
            click.echo(single_line(text), err=True)

    def ask(self, session: Session, question: Question, text: str, writer: Writer) -> Answer:
        """The answer to the next turn of this session, of which it is then part."""
        chat = self.resident.loaded.has_chat_template
        given = {
            "--system": question.system, "--image": question.images, "--session": session.path,
        }  # fmt: skip
        if not chat and (misplaced := next((name for name in given if given[name]), None)):
            raise UsageError(
                f"{self.resident.model.name} is a base model without a chat template: it continues "
                f"text and has no place for {misplaced}."
            )
        if question.images and self.resident.vision_unavailable is not None:
            raise UsageError(self.resident.vision_unavailable)
        asked = Message(role=Role.USER, content=text)
        request = question.request(session.talk.told(asked), chat=chat)
        events = self._runtime.generate(self.resident.model.name, request)
        answer = self._runner.run(read_answer(events, writer))
        session.answered(asked, answer)
        return answer

    def report(self, answer: Answer) -> None:
        if self._stats:
            name = self.resident.model.name
            print_stats(answer, self.resident, self._runtime.memory_bytes(name))

    def leave(self, session: Session) -> None:
        """Keep what was computed, for next time."""
        self.say(self._runner.run(session.keep(self._runtime, self.resident)))


def _only(
    speaker: Speaker, session: Session, question: Question, text: str, *, as_json: bool
) -> Answer:
    """One answer; alone, or the next of its session."""
    answer = speaker.ask(session, question, text, Writer(silent=as_json))
    if as_json:
        print_json(answer.document(speaker.resident) | session.document(answer))
    speaker.report(answer)
    speaker.leave(session)
    return answer


def _converse(speaker: Speaker, session: Session, question: Question) -> None:
    """Turn after turn until Ctrl+D, or a Ctrl+C while nothing is being answered."""
    _enable_line_editing()
    name = strip_controls(speaker.resident.model.name)
    click.echo(f"{name}. Ctrl+C stops an answer, Ctrl+D leaves, /new starts over.", err=True)
    session.greet()
    while True:
        try:
            text = input("> ").encode("utf-8", "replace").decode("utf-8")
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            speaker.leave(session)
            return
        if not text.strip():
            continue
        try:
            if text.strip() == "/new":
                session.start_over()
            else:
                speaker.report(speaker.ask(session, question, text, Writer()))
        except (GenerationFailed, StoreError) as error:
            click.echo(f"localllm: {error}", err=True)


def _enable_line_editing() -> None:
    """Arrow keys and history of this session in input(); nothing is written to disk."""
    try:
        import readline  # noqa: F401 - importing it is what enables it
    except ImportError:
        return
