"""`localllm run`: one answer, or a conversation on a terminal."""

import asyncio
import json
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import click

from localllm.cli import options
from localllm.cli.answer import Answer, Writer, print_stats, read_answer
from localllm.cli.images import read_images
from localllm.cli.loading import load_with_progress, require_answers, require_sight
from localllm.cli.output import print_json
from localllm.core.load import KvType, Lora
from localllm.core.text import strip_controls
from localllm.engine.events import (
    GenerateRequest,
    Grammar,
    GrammarKind,
    Image,
    Message,
    Role,
    Sampling,
)
from localllm.engine.limits import MAX_GRAMMAR_CHARS
from localllm.errors import ExitCode, GenerationFailed, NotFound, UsageError
from localllm.library.names import shown
from localllm.runtime import ResidentModel, Runtime, read_spec

MAX_PROMPT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How every answer of this invocation is asked for."""

    system: str | None
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    grammar: Grammar | None
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
        )


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 5), default=0.8, help="Default 0.8.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.95, help="Default 0.95.")
@click.option("--top-k", type=click.IntRange(0, 2**31 - 1), default=40, help="Default 40; 0: all.")
@click.option("--min-p", type=click.FloatRange(0, 1), default=0.05, help="Default 0.05.")
@click.option("--repeat-penalty", type=click.FloatRange(0.01, 10), default=1.0, help="Default 1.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), help="Same seed, same answer.")
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
@options.FORCE
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
    adapters: tuple[Lora, ...],
    context: int | None,
    kv_type: str,
    gpu_layers: int | None,
    cpu_moe: int,
    no_kv_offload: bool,
    force: bool,
    stats: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Answer PROMPT (or what comes on stdin) with MODEL; without either, converse.

    Ctrl+C stops the answer, a second one leaves.
    """
    sampling = Sampling(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        repeat_penalty=repeat_penalty, seed=seed,
    )  # fmt: skip
    question = Question(
        system=system, sampling=sampling, max_tokens=max_tokens, stop=stop,
        grammar=None if json_schema is None else _grammar(json_schema),
        images=read_images(images),
    )  # fmt: skip
    converses = prompt is None and sys.stdin.isatty() and not as_json
    text = None if converses else _prompt_text(prompt)
    runtime = Runtime.of_this_machine()
    with asyncio.Runner() as runner:
        try:
            installed = runtime.resolve(model)
            spec = read_spec(installed.path)
            require_answers(spec, installed.name)
            settings = options.settings_for(
                spec, context=context, gpu_layers=gpu_layers, kv_type=KvType(kv_type),
                cpu_moe=cpu_moe, kv_offload=not no_kv_offload, adapters=adapters,
                encoder=require_sight(installed) if images else None,
            )  # fmt: skip
            resident = runner.run(
                load_with_progress(runtime, installed, settings, force=force, quiet=quiet)
            )
            if stats:  # of the load, so once and not after each answer
                click.echo(resident.comparison.sentence(), err=True)
            if text is None:
                _converse(runner, runtime, resident, question, stats=stats)
                return ExitCode.OK
            answer = runner.run(_only(runtime, resident, question, text, silent=as_json))
            _report(answer, resident, runtime, as_json=as_json, stats=stats)
            return ExitCode.INTERRUPTED if answer.stopped else ExitCode.OK
        finally:
            runner.run(runtime.close())


async def _only(
    runtime: Runtime, resident: ResidentModel, question: Question, text: str, *, silent: bool
) -> Answer:
    """The answer to a prompt that stands alone."""
    turns = (Message(role=Role.USER, content=text),)
    return await _answer(runtime, resident, question, turns, Writer(silent=silent))


def _grammar(path: Path) -> Grammar:
    """Raises NotFound and UsageError for a file that holds no JSON; what the schema says is the
    engine's to judge."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_GRAMMAR_CHARS + 1).decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no file {shown(path)} for --json-schema.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--json-schema {shown(path)} cannot be read: {reason}.") from None
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--json-schema {shown(path)} is not valid JSON: {error}.") from None
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


async def _answer(
    runtime: Runtime,
    resident: ResidentModel,
    question: Question,
    turns: tuple[Message, ...],
    writer: Writer,
) -> Answer:
    chat = resident.loaded.has_chat_template
    if not chat and (question.system or question.images):
        raise UsageError(
            f"{resident.model.name} is a base model without a chat template: it continues text "
            f"and has no place for {'--system' if question.system else '--image'}."
        )
    if question.images and resident.blind is not None:
        raise UsageError(resident.blind)
    request = question.request(turns, chat=chat)
    return await read_answer(runtime.generate(resident.model.name, request), writer)


def _report(
    answer: Answer, resident: ResidentModel, runtime: Runtime, *, as_json: bool, stats: bool
) -> None:
    if as_json:
        print_json(answer.document(resident))
    if stats:
        print_stats(answer, resident, runtime.memory_bytes(resident.model.name))


def _converse(
    runner: asyncio.Runner,
    runtime: Runtime,
    resident: ResidentModel,
    question: Question,
    *,
    stats: bool,
) -> None:
    """Turn after turn until Ctrl+D, or a Ctrl+C while nothing is being answered."""
    _enable_line_editing()
    name = strip_controls(resident.model.name)
    click.echo(f"{name}. Ctrl+C stops an answer, Ctrl+D leaves, /new starts over.", err=True)
    turns: tuple[Message, ...] = ()
    while True:
        try:
            text = input("> ").encode("utf-8", "replace").decode("utf-8")
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return
        if text.strip() == "/new":
            turns = ()
            continue
        if not text.strip():
            continue
        asked = (*turns, Message(role=Role.USER, content=text))
        try:
            answer = runner.run(_answer(runtime, resident, question, asked, Writer()))
        except GenerationFailed as error:
            click.echo(f"localllm: {error}", err=True)
            continue
        said = Message(role=Role.ASSISTANT, content=answer.text, reasoning=answer.reasoning or None)
        turns = (*asked, said)
        if stats:
            print_stats(answer, resident, runtime.memory_bytes(resident.model.name))


def _enable_line_editing() -> None:
    """Arrow keys and history of this session in input(); nothing is written to disk."""
    try:
        import readline  # noqa: F401 - importing it is what enables it
    except ImportError:
        return
