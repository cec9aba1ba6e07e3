"""`localllm run`: one answer, or a conversation on a terminal."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from localllm.chat.conversation import Attachment
from localllm.chat.settings import ChatSettings
from localllm.cli import options
from localllm.cli.accessibility import (
    VARIABLE,
    accessible_because,
    accessible_setting,
    chosen_by_variable,
)
from localllm.cli.chat.answer import AnswerWriter
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.session import ChatSession, open_session
from localllm.cli.completion import model_names
from localllm.cli.options import Command
from localllm.cli.output import info, print_json, warn
from localllm.cli.progress import load_with_progress
from localllm.core.text import strip_controls
from localllm.core.units import format_bytes
from localllm.engine.messages import Image, Message, Overflow, Role, Sampling, Thinking
from localllm.engine.messages.limits import MAX_GRAMMAR_CHARS, MAX_IMAGE_BYTES, ranges_of
from localllm.engine.messages.validation import check_images
from localllm.errors import BadRequest, ExitCode, NotFound, UsageError
from localllm.library.files.names import printable
from localllm.library.files.settings import load as load_settings
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _, set_language

if TYPE_CHECKING:
    from localllm.cli.chat.plain_chat import LoadModel

MAX_PROMPT_BYTES = 64 * 2**20


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
@click.option("--deterministic", is_flag=True,
              help="The same text each time; with --seed or --temperature 0.")  # fmt: skip
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
    options.CACHE_RAM,
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
    deterministic: bool,
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
    settings = ChatSettings(
        system=system or "", max_tokens=max_tokens, stop=stop,
        sampling=Sampling(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
            repeat_penalty=repeat_penalty, seed=seed,
        ),
        json_schema="" if json_schema is None else read_json_schema(json_schema),
        context=choice.context, kv_type=choice.kv_type if "kv_type" in choice.given else None,
    )  # fmt: skip
    if deterministic and seed is None and temperature > 0:
        raise UsageError("--deterministic needs --seed, or --temperature 0.")
    shown = read_images(images)
    if images and session_file is not None:
        raise UsageError("--session keeps text alone: it cannot go with --image.")
    text = None if interactive else read_prompt(prompt)
    if interactive:
        # What converses with a person speaks the person's language; what a script reads is English.
        set_language(load_settings().language)
        _find_accessible_mode()
    if images:
        choice = replace(choice, vision=True)
    runtime = Runtime.of_this_machine()
    settings = replace(settings, thinking=thinking or runtime.default_thinking)
    invocation = _Invocation(
        model=model, choice=choice, text=text, images=shown, force=force, stats=stats,
        as_json=as_json, quiet=quiet, deterministic=deterministic,
    )  # fmt: skip
    with open_session(
        session_file, settings_given=settings, cached=not no_session_cache
    ) as session:
        return invocation.run(runtime, session)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Invocation:
    """What to answer, and with which model; `text` None: converse."""

    model: str
    choice: LoadChoice
    text: str | None
    images: tuple[Attachment, ...]
    force: bool
    stats: bool
    as_json: bool
    quiet: bool
    deterministic: bool

    def run(self, runtime: Runtime, session: ChatSession) -> ExitCode:
        """Load the model, and answer or converse."""
        with asyncio.Runner() as runner:
            try:
                load = partial(_load, runtime, force=self.force, quiet=self.quiet)
                resident = runner.run(load(runtime.resolve(self.model), self.choice))
                for warning in resident.warnings:
                    warn(warning)
                if self.stats:
                    info(resident.comparison.sentence())
                once = self.text is not None and session.path is None
                client = ChatClient(
                    runner, runtime, resident, session, images=self.images, stats=self.stats,
                    overflow=Overflow.ERROR if once else Overflow.ROLL,
                )  # fmt: skip
                client.deterministic = self.deterministic
                runner.run(client.restore_state())
                if self.text is not None:
                    return _answer_once(client, self.text, as_json=self.as_json)
                _converse(client, self.choice, load)
                return ExitCode.OK
            finally:
                runner.run(runtime.close())


def _find_accessible_mode() -> None:
    """Write plain lines where a screen reader reads this terminal, and say so."""
    because = accessible_because(setting=accessible_setting())
    if because is not None and chosen_by_variable() is None:
        info(because)
        os.environ[VARIABLE] = "1"


async def _load(
    runtime: Runtime, model: InstalledModel, choice: LoadChoice, *, force: bool, quiet: bool
) -> ResidentModel:
    plan = await runtime.plan(model, choice)
    if chosen_by_variable() and not quiet:
        from localllm.cli.accessible.progress import load_spoken

        return await load_spoken(runtime, plan, show=info, force=force)
    return await load_with_progress(runtime, plan, force=force, quiet=quiet)


def _answer_once(client: ChatClient, text: str, *, as_json: bool) -> ExitCode:
    """Print one answer; alone, or the next of its session."""
    client.add_question(text, after=client.conversation.leaf)
    answer = client.runner.run(client.answer(AnswerWriter(silent=as_json)))
    if as_json:
        print_json(answer.document(client.resident) | client.session_document(answer))
    client.print_stats(answer)
    client.runner.run(client.save_state())
    return ExitCode.INTERRUPTED if answer.stopped else ExitCode.OK


def _converse(client: ChatClient, choice: LoadChoice, load: "LoadModel") -> None:
    """Converse on a terminal until the person leaves."""
    from localllm.cli.chat.plain_chat import hold_conversation  # one answer needs none of it

    name = strip_controls(client.resident.model.name)
    text = _("{name}. Ctrl+C stops an answer, Ctrl+D leaves, /help lists the commands.")
    info(text.format(name=name))
    client.session.announce()
    hold_conversation(client, choice=choice, load=load, accessible=bool(chosen_by_variable()))
    client.runner.run(client.save_state())


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


def read_json_schema(path: Path) -> str:
    """Read the text of a JSON Schema. Raises NotFound, and UsageError for a file that holds no
    JSON; the engine judges the schema itself."""
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
    return text


def read_images(paths: tuple[Path, ...]) -> tuple[Attachment, ...]:
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
    return tuple(
        Attachment(name=printable(path.name), media_type="image", data=image.data)
        for path, image in zip(paths, images, strict=True)
    )


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
