"""`localllm run`: one answer, or a conversation on a terminal."""

import asyncio
import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from localllm.cli import options
from localllm.cli.answer import Answer, AnswerWriter, print_stats, read_answer
from localllm.cli.chat_session import ChatSession, open_session
from localllm.cli.completion import model_names
from localllm.cli.options import Command
from localllm.cli.output import error, info, print_json, warn
from localllm.cli.progress import load_with_progress
from localllm.core.text import strip_controls
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
    Thinking,
)
from localllm.engine.messages.limits import MAX_GRAMMAR_CHARS, MAX_IMAGE_BYTES, ranges_of
from localllm.engine.messages.validation import check_images
from localllm.errors import BadRequest, ExitCode, GenerationFailed, NotFound, StoreError, UsageError
from localllm.library.files.names import printable
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime

MAX_PROMPT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """The options of every request of this invocation; `images` stand before the first turn."""

    system: str | None
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    grammar: Grammar | None
    overflow: Overflow
    thinking: Thinking | None = None
    images: tuple[Image, ...] = ()

    def completed(self, runtime: Runtime, session: ChatSession) -> "RequestOptions":
        """Return them with what the session and the settings say where the command line does
        not."""
        return replace(
            self,
            system=session.conversation.system,
            thinking=self.thinking or runtime.default_thinking,
        )

    def request(self, turns: tuple[Message, ...], *, chat: bool) -> GenerateRequest:
        """Make the request for the next turn; a base model gets the last turn's text to
        continue."""
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
            thinking=self.thinking or Thinking(),
        )


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
@click.argument("model", shell_complete=model_names)
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
@options.thinking_options
@options.load_options(
    options.LORA,
    options.CONTEXT,
    options.KV_TYPE,
    options.GPU_LAYERS,
    options.CPU_MOE,
    options.NO_KV_OFFLOAD,
    options.TRUST_GPU,
    options.SPECULATE,
    options.DRAFT,
    options.THREADS,
    options.MMAP,
    options.CHAT_TEMPLATE,
    *options.ROPE,
    base=CHAT,
)
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
    thinking: Thinking | None,
    choice: LoadChoice,
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
    interactive = prompt is None and sys.stdin.isatty() and not as_json
    request_options = RequestOptions(
        system=system, max_tokens=max_tokens, stop=stop, images=read_images(images),
        sampling=Sampling(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
            repeat_penalty=repeat_penalty, seed=seed,
        ),
        grammar=None if json_schema is None else read_grammar(json_schema), thinking=thinking,
        overflow=Overflow.ROLL if interactive or session_file else Overflow.ERROR,
    )  # fmt: skip
    if images and session_file is not None:
        raise UsageError("--session keeps text alone: it cannot go with --image.")
    text = None if interactive else read_prompt(prompt)
    if images:
        choice = replace(choice, vision=True)
    runtime = Runtime.of_this_machine()
    with (
        open_session(session_file, system=system, cached=not no_session_cache) as session,
        asyncio.Runner() as runner,
    ):
        try:
            resident = runner.run(_load(runtime, model, choice, force=force, quiet=quiet))
            for warning in resident.warnings:
                warn(warning)
            if stats:
                info(resident.comparison.sentence())
            request_options = request_options.completed(runtime, session)
            client = ChatClient(runner, runtime, resident, session, request_options, stats=stats)
            return _chat(client, text, as_json=as_json)
        finally:
            runner.run(runtime.close())


async def _load(
    runtime: Runtime, model: str, choice: LoadChoice, *, force: bool, quiet: bool
) -> ResidentModel:
    plan = await runtime.plan(runtime.resolve(model), choice)
    return await load_with_progress(runtime, plan, force=force, quiet=quiet)


class ChatClient:
    """Ask a loaded model for the turns of one session; `stats` are printed on stderr."""

    def __init__(
        self,
        runner: asyncio.Runner,
        runtime: Runtime,
        resident: ResidentModel,
        session: ChatSession,
        request_options: RequestOptions,
        *,
        stats: bool,
    ) -> None:
        self._runner = runner
        self._runtime = runtime
        self._options = request_options
        self._stats = stats
        self.resident = resident
        self.session = session

    def ask(self, text: str, writer: AnswerWriter) -> Answer:
        """Get the answer to the next turn of the session, of which it is then part."""
        chat = self.resident.loaded.has_chat_template
        given = {
            "--system": self._options.system, "--image": self._options.images,
            "--session": self.session.path,
        }  # fmt: skip
        if not chat and (misplaced := next((name for name in given if given[name]), None)):
            raise UsageError(
                f"{self.resident.model.name} is a base model without a chat template: it continues "
                f"text and has no place for {misplaced}."
            )
        if self._options.images and self.resident.vision_unavailable is not None:
            raise UsageError(self.resident.vision_unavailable)
        question = Message(role=Role.USER, content=text)
        turns = self.session.conversation.sent_messages(question)
        request = self._options.request(turns, chat=chat)
        events = self._runtime.generate(self.resident.model.name, request)
        answer = self._runner.run(read_answer(events, writer))
        self.session.add_turn(question, answer)
        return answer

    def print_stats(self, answer: Answer) -> None:
        if self._stats:
            name = self.resident.model.name
            print_stats(answer, self.resident, self._runtime.memory_bytes(name))

    def restore_state(self) -> None:
        """Bring back what was computed of the session last time."""
        self._print(self._runner.run(self.session.restore_state(self._runtime, self.resident)))

    def save_state(self) -> None:
        """Save what was computed of the session for next time."""
        self._print(self._runner.run(self._save_state()))

    async def _save_state(self) -> str:
        thinking = self._options.thinking or Thinking()
        return await self.session.save_state(self._runtime, self.resident, thinking)

    def _print(self, outcome: str) -> None:
        if self._stats and outcome:
            info(outcome)


def _chat(client: ChatClient, text: str | None, *, as_json: bool) -> ExitCode:
    """Answer `text`, or converse when it is None."""
    client.restore_state()
    if text is None:
        _converse(client)
        return ExitCode.OK
    answer = _answer_once(client, text, as_json=as_json)
    return ExitCode.INTERRUPTED if answer.stopped else ExitCode.OK


def _answer_once(client: ChatClient, text: str, *, as_json: bool) -> Answer:
    """Print one answer; alone, or the next of its session."""
    answer = client.ask(text, AnswerWriter(silent=as_json))
    if as_json:
        print_json(answer.document(client.resident) | client.session.document(answer))
    client.print_stats(answer)
    client.save_state()
    return answer


def _converse(client: ChatClient) -> None:
    """Answer turn after turn until Ctrl+D, or a Ctrl+C while nothing is being answered."""
    _enable_line_editing()
    name = strip_controls(client.resident.model.name)
    info(f"{name}. Ctrl+C stops an answer, Ctrl+D leaves, /new starts over.")
    client.session.announce()
    while True:
        try:
            text = input("> ").encode("utf-8", "replace").decode("utf-8")
        except (EOFError, KeyboardInterrupt):
            info()
            client.save_state()
            return
        if not text.strip():
            continue
        try:
            if text.strip() == "/new":
                client.session.clear()
            else:
                client.print_stats(client.ask(text, AnswerWriter()))
        except (GenerationFailed, StoreError) as failure:
            error(str(failure))


def _enable_line_editing() -> None:
    """Turn on arrow keys and the history of this session in input(); nothing goes to the disk."""
    try:
        import readline  # noqa: F401 - importing it is what enables it
    except ImportError:
        return


# --- what is read before anything is loaded ---


def read_prompt(argument: str | None) -> str:
    """Take the prompt from the command line, else from stdin. Raises UsageError when there is
    none, or too much."""
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


def read_grammar(path: Path) -> Grammar:
    """Read a JSON Schema. Raises NotFound, and UsageError for a file that holds no JSON; the engine
    judges the schema itself."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_GRAMMAR_CHARS + 1).decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no file {printable(path)} for --json-schema.") from None
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--json-schema {printable(path)} cannot be read: {reason}.") from None
    try:
        json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"--json-schema {printable(path)} is not valid JSON: {problem}.") from None
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=text)


def read_images(paths: tuple[Path, ...]) -> tuple[Image, ...]:
    """Read picture files, before anything is loaded for them.

    Raises NotFound, and UsageError for one that cannot be read or that the engine would refuse.
    """
    images = tuple(Image(data=_read_image(path)) for path in paths)
    for path, image in zip(paths, images, strict=True):
        try:
            check_images((Message(role=Role.USER, content="", images=(image,)),))
        except BadRequest as problem:
            raise UsageError(f"--image {printable(path)}: {problem}") from None
    try:
        check_images((Message(role=Role.USER, content="", images=images),))
    except BadRequest as problem:
        raise UsageError(str(problem)) from None
    return images


def _read_image(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no file {printable(path)} for --image.") from None
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise UsageError(f"--image {printable(path)} cannot be read: {reason}.") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise UsageError(
            f"--image {printable(path)} is larger than {format_bytes(MAX_IMAGE_BYTES)}. "
            "Scale it down, or save it as JPEG."
        )
    return data
