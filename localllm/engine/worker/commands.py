"""What each command does in the engine's process.

`handle` is called between steps, `step` computes one batch, `interrupt` comes from the reader
thread while a batch is computed.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as llama

from localllm.core.sizing.embedding import with_embedding_defaults
from localllm.core.sizing.load import Allocation
from localllm.engine.messages import (
    BuildInfo,
    BuildInfoRequest,
    Cancel,
    Command,
    EmbedRequest,
    Event,
    GenerateRequest,
    Loaded,
    LoadError,
    LoadProgress,
    LoadRequest,
    Overflow,
    Probed,
    ProbeRequest,
    RequestError,
    RerankRequest,
    RestoreState,
    SaveState,
    StateError,
    StateRestored,
    StateSaved,
)
from localllm.engine.messages.validation import check_generate, check_settings, check_tokens
from localllm.engine.worker.kv_cache.state_file import KEY_BYTES, ModelFiles, StateFiles
from localllm.engine.worker.llama.build_info import describe
from localllm.engine.worker.llama.heartbeat import HeartbeatState
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.llama.native_log import NativeLog, note
from localllm.engine.worker.parsing.model_format import Dialect, tools_told
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.context_window import RollingWindow, room
from localllm.engine.worker.prompt.image_prompt import BLIND, Marker, PicturePrompt
from localllm.engine.worker.scheduling.scheduler import Scheduler
from localllm.errors import (
    BadRequest,
    ContextOverflow,
    GenerationFailed,
    LoadFailed,
    StateFailed,
    UsageError,
)

if TYPE_CHECKING:  # and numpy with them
    from localllm.engine.worker.embedding import Embedder
    from localllm.engine.worker.speculative.draft_model import DraftModel
    from localllm.engine.worker.vision_encoder import VisionEncoder

Emit = Callable[[Event], None]

_FIRST_CHARS = 8
"""Characters for each token of the context that are looked at first; text has 3 to 5."""


class WorkerEngine:
    """One model at most; requests before a load are refused."""

    def __init__(self, emit: Emit, flush: Callable[[], None], heartbeat: HeartbeatState) -> None:
        self._emit = emit
        self._flush = flush
        self._heartbeat = heartbeat
        self._log = NativeLog()
        llama.llama_backend_init()
        self._model: Model | None = None
        self._scheduler: Scheduler | None = None
        self._template: ChatTemplate | None = None
        self._dialect: Dialect | None = None
        self._window = RollingWindow()
        self._states: StateFiles | None = None
        self._eyes: VisionEncoder | None = None
        self._blind: str | None = None
        self._drafter: DraftModel | None = None
        self._embedder: Embedder | None = None
        """In the scheduler's place, for a model that was loaded for embeddings."""

    @property
    def busy(self) -> bool:
        runner = self._embedder or self._scheduler
        return runner is not None and runner.busy

    def handle(self, command: Command, arrived: float) -> None:
        self._heartbeat.beat()
        match command:
            case BuildInfoRequest():
                self._emit(BuildInfo(build=describe()))
            case LoadRequest():
                self._load(command)
            case ProbeRequest():
                self._probe(command)
            case GenerateRequest():
                self._generate(command, arrived)
            case SaveState():
                self._save_state(command)
            case RestoreState():
                self._restore_state(command)
            case EmbedRequest() | RerankRequest():
                self._embed(command)
            case Cancel() if (runner := self._embedder or self._scheduler) is not None:
                runner.cancel(command.request_id)

    def step(self, nothing_new: Callable[[], bool]) -> None:
        """Compute one batch, unless a command has just arrived.

        The flag is lowered before looking: a cancel that comes later raises it again, one that
        came before is in the inbox.
        """
        runner = self._embedder or self._scheduler
        if runner is None or self._model is None or not runner.busy:
            return
        self._model.abort.lower()
        if nothing_new():
            runner.step()

    def interrupt(self, request_id: str) -> None:
        """Called by the reader thread: end the running batch if it reads this request's prompt."""
        model, scheduler = self._model, self._scheduler
        if model is None or scheduler is None:
            return
        if request_id in scheduler.interruptible:
            model.abort.raise_()

    def close(self) -> None:
        if self._eyes is not None:
            self._eyes.close()
        if self._drafter is not None:
            self._drafter.close()
        if self._model is not None:
            self._model.close()

    def _load(self, request: LoadRequest) -> None:
        if self._model is not None:
            self._emit(LoadError(message="This engine already holds a model."))
            return
        try:
            check_settings(request.settings)
            files = ModelFiles(request.path, request.settings.loras)
            settings, spec = request.settings, None
            if settings.embeddings:
                from localllm.engine.worker.llama.dry_run import read_header

                spec = read_header(request.path)
                settings = with_embedding_defaults(spec, settings)
            model = Model(
                request.path,
                settings,
                log=self._log,
                on_progress=self._progress,
                heartbeat=self._heartbeat,
            )
            self._blind = self._open_eyes(model)
            self._drafter = self._open_draft(model)
        except (LoadFailed, UsageError) as error:
            self._emit(LoadError(message=str(error)))
            return
        self._model = model
        self._scheduler = Scheduler(model, self._emit, drafter=self._drafter)
        if spec is not None:
            from localllm.engine.worker.embedding import Embedder

            self._embedder = Embedder(model, spec, self._emit)
        source = model.chat_template
        self._template = self._compile(source, model)
        if self._template is not None:
            self._dialect = Dialect(self._template.family, self._template.fence, model.vocab)
        digest = hashlib.sha256(source.encode()).hexdigest() if source is not None else None
        self._states = StateFiles(
            model, self._scheduler.kv_cache, files=files, log=self._log, chat_template=digest
        )
        self._emit(
            Loaded(
                allocations=self._allocations(model),
                context=model.context,
                cells=model.cells,
                parallel=model.settings.parallel,
                gpu_layers=_offloaded(model),
                has_chat_template=self._template is not None,
                chat_template_sha256=digest,
                load_s=model.load_s,
                vision=self._eyes is not None,
                vision_unavailable=self._blind,
                draft=self._drafter.allocations if self._drafter is not None else (),
            )
        )

    def _open_eyes(self, model: Model) -> str | None:
        """Load the image encoder; why it cannot be when it cannot: the model answers text still."""
        if model.settings.mmproj is None:
            return None
        from localllm.engine.worker.vision_encoder import VisionEncoder

        try:
            self._eyes = VisionEncoder(model.settings.mmproj, model, log=self._log)
        except LoadFailed as error:
            return str(error)
        return None

    def _open_draft(self, model: Model) -> "DraftModel | None":
        path = model.settings.active_draft
        if path is None:
            return None
        from localllm.engine.worker.speculative.draft_model import DraftModel

        return DraftModel(path, model, log=self._log)

    def _allocations(self, model: Model) -> tuple[Allocation, ...]:
        """Those of the model and its encoder."""
        return model.allocations + (self._eyes.allocations if self._eyes else ())

    def _compile(self, source: str | None, model: Model) -> ChatTemplate | None:
        if source is None:
            return None
        try:
            return ChatTemplate(source, bos_token=model.vocab.bos, eos_token=model.vocab.eos)
        except BadRequest as error:
            note(f"localllm worker: {error}")
            return None

    def _progress(self, fraction: float) -> None:
        self._heartbeat.beat()
        self._emit(LoadProgress(fraction=fraction))
        self._flush()

    def _probe(self, request: ProbeRequest) -> None:
        from localllm.engine.worker.llama.dry_run import probe

        try:
            check_settings(request.settings)
            self._emit(Probed(allocations=probe(request.path, request.settings)))
        except LoadFailed as error:
            self._emit(LoadError(message=str(error)))

    def _save_state(self, request: SaveState) -> None:
        try:
            states, key = self._kept(request.key)
            conversation = GenerateRequest(request_id="", messages=request.messages)
            check_generate(conversation)
            assert self._model is not None  # there are states
            tokens = self._tokens(conversation, self._model)
            with self._heartbeat.long_call():  # a disk
                count, size = states.save(
                    tokens, Path(request.path), key=key, max_bytes=request.max_bytes
                )
            self._emit(StateSaved(tokens=count, size_bytes=size))
        except (StateFailed, GenerationFailed) as error:
            self._emit(StateError(message=str(error)))

    def _restore_state(self, request: RestoreState) -> None:
        try:
            states, key = self._kept(request.key)
            with self._heartbeat.long_call():
                tokens = states.restore(Path(request.path), key=key)
            self._emit(StateRestored(tokens=tokens))
        except StateFailed as error:
            self._emit(StateError(message=str(error)))

    def _kept(self, key: str) -> "tuple[StateFiles, bytes]":
        if self._states is None:
            raise StateFailed("No model is loaded.")
        if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", key):
            raise StateFailed(f"The key of a state has {2 * KEY_BYTES} hexadecimal digits.")
        return self._states, bytes.fromhex(key)

    def _generate(self, request: GenerateRequest, arrived: float) -> None:
        try:
            if self._scheduler is None or self._model is None:
                raise BadRequest("No model is loaded.")
            if self._embedder is not None:
                raise BadRequest("This model was loaded for embeddings: it writes no answers.")
            if not self._model.has_cache:
                raise BadRequest(
                    "This model is an encoder: it writes no answers. Load it for embeddings."
                )
            check_generate(request)
            check_tokens(request, self._model.vocab.size)
            prompt, dropped = self._prompt(request, self._model)
            if not prompt:
                raise BadRequest("The prompt is empty.")
            manner = None
            if self._dialect is not None:
                manner = self._dialect.manner(request, prompt)
                request = self._dialect.bound(request, prompt)
            self._scheduler.submit(
                request, prompt, arrived, dropped_messages=dropped, answer_format=manner
            )
        except GenerationFailed as error:
            self._refuse(request.request_id, error)

    def _embed(self, request: EmbedRequest | RerankRequest) -> None:
        try:
            if self._embedder is None:
                raise BadRequest(
                    "This model was loaded to answer, not for embeddings. Load an embedding model, "
                    "or this one with --embeddings."
                )
            self._embedder.submit(request)
        except GenerationFailed as error:
            self._refuse(request.request_id, error)

    def _refuse(self, request_id: str, error: GenerationFailed) -> None:
        self._emit(RequestError(request_id=request_id, code=error.code, message=str(error)))

    def _prompt(self, request: GenerateRequest, model: Model) -> tuple[list[int], int]:
        """The prompt, and how many messages were left out to make it fit."""
        if request.overflow is Overflow.ERROR or request.messages is None:
            return self._tokens(request, model), 0
        prompt, dropped = self._window.fit(
            request.messages,
            room(model.context, request.max_tokens),
            lambda messages: self._tokens(replace(request, messages=messages), model),
        )
        if len(prompt) >= model.context:
            raise ContextOverflow(
                f"The last turn and the system prompt alone have {len(prompt)} tokens and the "
                f"context holds {model.context}. Shorten them, or load the model with a larger "
                "context (--ctx)."
            )
        return prompt, dropped

    def _tokens(self, request: GenerateRequest, model: Model) -> list[int]:
        if request.prompt_tokens is not None:
            return list(request.prompt_tokens)
        if request.prompt is not None:
            return _tokenize(model, request.prompt)
        if self._template is None:
            raise BadRequest(
                "This model has no usable chat template: it is a base model that continues text. "
                "Send a plain prompt instead of a conversation."
            )
        if any(message.images for message in request.messages or ()):
            return self._with_pictures(request, model)
        return _tokenize(model, self._text(self._template, request, model))

    def _text(self, template: ChatTemplate, request: GenerateRequest, model: Model) -> str:
        """The conversation as the template writes it, without what the tokenizer puts before it:
        twice hurts the answer."""
        reasons = False if request.grammar is not None else None  # it could not be followed
        text = template.render(request.messages or (), tools_told(request), reasons=reasons)
        return text.removeprefix(model.vocab.bos) if model.vocab.adds_bos else text

    def _with_pictures(self, request: GenerateRequest, model: Model) -> PicturePrompt:
        if self._template is None or self._eyes is None:
            raise BadRequest(self._blind or BLIND)
        marker = Marker()
        marked = replace(request, messages=marker.mark(request.messages or ()))
        text = self._text(self._template, marked, model)
        if len(text) > _FIRST_CHARS * model.context:
            _tokenize(model, text)  # which refuses what is far too long
        return self._eyes.read(marker.split(text))


def _tokenize(model: Model, text: str) -> list[int]:
    """Tokens of a prompt; of a far too long one no more than it takes to know that.

    Nobody else's answer goes on meanwhile, and 10 MB of control tokens keep llama.cpp busy for
    minutes (its search for them takes quadratic time).
    """
    length = _FIRST_CHARS * model.context
    while length < len(text):
        tokens = model.vocab.tokenize(text[:length], special=True)
        if len(tokens) > 2 * model.context:  # twice: what the cut changed does not matter
            raise ContextOverflow(
                f"The prompt has {len(text)} characters, more than {len(tokens)} tokens, and the "
                f"context holds {model.context}. Shorten the conversation, or load the model with "
                "a larger context (--ctx)."
            )
        length *= 2
    return model.vocab.tokenize(text, special=True)


def _offloaded(model: Model) -> int:
    if not llama.llama_supports_gpu_offload():
        return 0
    layers = int(llama.llama_model_n_layer(llama.llama_get_model(model.handle))) + 1
    asked = model.settings.gpu_layers
    return layers if asked is None else min(asked, layers)
