"""Dispatch the parent's commands: a method for each.

`handle` is called between steps, `step` computes one batch, and `interrupt` comes from the reader
thread while a batch is computed.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from localllm.engine.messages import (
    ApplyTemplateRequest,
    Architectures,
    ArchitecturesRequest,
    BuildInfo,
    BuildInfoRequest,
    Cancel,
    Command,
    CountTokensRequest,
    DetokenizeRequest,
    EmbedRequest,
    Event,
    ExportState,
    GenerateRequest,
    ImportState,
    ListStates,
    LoadError,
    LoadProgress,
    LoadRequest,
    Probed,
    ProbeRequest,
    RequestError,
    RerankRequest,
    RestoreState,
    SaveState,
    StateError,
    StateRestored,
    StateSaved,
    StatesListed,
    TemplateApplied,
    TokenizeRequest,
    TokensCounted,
)
from localllm.engine.messages.validation import check_settings
from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.state_file import KEY_BYTES
from localllm.engine.worker.llama.build_info import describe
from localllm.engine.worker.llama.heartbeat import HeartbeatState
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.loaded_model import LoadedModel, load_model
from localllm.errors import BadRequest, GenerationFailed, LoadFailed, StateFailed, UsageError

Emit = Callable[[Event], None]

Q = TypeVar("Q", TokenizeRequest | DetokenizeRequest, ApplyTemplateRequest | CountTokensRequest)


class WorkerEngine:
    """One model at most; requests before a load are refused."""

    def __init__(self, emit: Emit, flush: Callable[[], None], heartbeat: HeartbeatState) -> None:
        self._emit = emit
        self._flush = flush
        self._heartbeat = heartbeat
        self._log = NativeLog()
        llama.llama_backend_init()
        self._loaded: LoadedModel | None = None

    @property
    def busy(self) -> bool:
        return self._loaded is not None and self._loaded.runner.busy

    def handle(self, command: Command, arrived: float) -> None:
        self._heartbeat.beat()
        match command:
            case BuildInfoRequest():
                self._emit(BuildInfo(build=describe()))
            case LoadRequest():
                self._load(command)
            case ProbeRequest():
                self._probe(command)
            case ArchitecturesRequest():
                self._architectures(command)
            case GenerateRequest():
                self._generate(command, arrived)
            case EmbedRequest() | RerankRequest():
                self._embed(command)
            case TokenizeRequest() | DetokenizeRequest():
                self._answer(command, self._tokens)
            case ApplyTemplateRequest() | CountTokensRequest():
                self._answer(command, self._prompt)
            case SaveState():
                self._save_state(command)
            case RestoreState():
                self._restore_state(command)
            case ListStates() | ExportState() | ImportState():
                self._swap_state(command)
            case Cancel():
                self._cancel(command)

    def step(self, nothing_new: Callable[[], bool]) -> None:
        """Compute one batch, unless a command has just arrived.

        The flag is lowered before looking: a cancel that comes later raises it again, one that
        came before is in the inbox.
        """
        if self._loaded is None or not self.busy:
            return
        self._loaded.model.abort.lower()
        if nothing_new():
            self._loaded.runner.step()

    def interrupt(self, request_id: str) -> None:
        """End the running batch if it reads this request's prompt. Called by the reader thread."""
        loaded = self._loaded
        if loaded is not None and request_id in loaded.scheduler.interruptible:
            loaded.model.abort.raise_()

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    def _load(self, request: LoadRequest) -> None:
        if self._loaded is not None:
            self._emit(LoadError(message="This engine already holds a model."))
            return
        try:
            self._loaded = load_model(
                request,
                self._emit,
                log=self._log,
                heartbeat=self._heartbeat,
                on_progress=self._report_progress,
            )
        except (LoadFailed, UsageError) as error:
            self._emit(LoadError(message=str(error), usage=isinstance(error, UsageError)))
            return
        self._emit(self._loaded.loaded())

    def _report_progress(self, progress: LoadProgress) -> None:
        self._heartbeat.beat()
        self._emit(progress)
        self._flush()

    def _probe(self, request: ProbeRequest) -> None:
        from localllm.engine.worker.llama.dry_run import probe

        try:
            check_settings(request.settings)
            self._emit(Probed(allocations=probe(request.path, request.settings)))
        except LoadFailed as error:
            self._emit(LoadError(message=str(error)))

    def _architectures(self, request: ArchitecturesRequest) -> None:
        from localllm.engine.worker.llama.architectures import runnable

        try:
            known = runnable(request.names)
            self._emit(Architectures(runnable=known, version=describe().version))
        except LoadFailed as error:
            self._emit(LoadError(message=str(error)))

    def _generate(self, request: GenerateRequest, arrived: float) -> None:
        try:
            if self._loaded is None:
                raise BadRequest("No model is loaded.")
            self._loaded.check_generates()
            prompt = self._loaded.prompts.build(request)
            self._loaded.scheduler.submit(request, prompt, arrived)
        except GenerationFailed as error:
            self._refuse(request.request_id, error)

    def _embed(self, request: EmbedRequest | RerankRequest) -> None:
        try:
            if self._loaded is None or self._loaded.embedder is None:
                raise BadRequest(
                    "This model was loaded to answer, not for embeddings. Load an embedding model, "
                    "or this one with --embeddings."
                )
            self._loaded.embedder.submit(request)
        except GenerationFailed as error:
            self._refuse(request.request_id, error)

    def _answer(self, command: Q, answer: Callable[[LoadedModel, Q], Event]) -> None:
        """Answer a request at once that computes nothing."""
        try:
            if self._loaded is None:
                raise BadRequest("No model is loaded.")
            self._emit(answer(self._loaded, command))
        except GenerationFailed as error:
            self._refuse(command.request_id, error)

    def _tokens(self, loaded: LoadedModel, command: TokenizeRequest | DetokenizeRequest) -> Event:
        if isinstance(command, TokenizeRequest):
            return loaded.tokenizer.tokenize(command)
        return loaded.tokenizer.detokenize(command)

    def _prompt(
        self, loaded: LoadedModel, command: ApplyTemplateRequest | CountTokensRequest
    ) -> Event:
        request_id, request = command.request_id, command.request
        loaded.check_generates()
        if isinstance(command, ApplyTemplateRequest):
            return TemplateApplied(request_id=request_id, text=loaded.prompts.text_of(request))
        cells = loaded.prompts.build(request).cells
        return TokensCounted(request_id=request_id, prompt_tokens=cells)

    def _refuse(self, request_id: str, error: GenerationFailed) -> None:
        self._emit(RequestError(request_id=request_id, code=error.code, message=str(error)))

    def _cancel(self, command: Cancel) -> None:
        if self._loaded is not None:
            self._loaded.runner.cancel(command.request_id)

    def _save_state(self, request: SaveState) -> None:
        try:
            loaded, key = self._with_states(request.key)
            tokens = loaded.prompts.tokens_of(request.messages, request.thinking)
            with self._heartbeat.long_call():  # a disk
                count, size = loaded.states.save(
                    tokens, Path(request.path), key=key, max_bytes=request.max_bytes
                )
            self._emit(StateSaved(tokens=count, size_bytes=size))
        except (StateFailed, GenerationFailed) as error:
            self._emit(StateError(message=str(error)))

    def _restore_state(self, request: RestoreState) -> None:
        try:
            loaded, key = self._with_states(request.key)
            with self._heartbeat.long_call():
                tokens = loaded.states.restore(Path(request.path), key=key)
            self._emit(StateRestored(tokens=tokens))
        except StateFailed as error:
            self._emit(StateError(message=str(error)))

    def _swap_state(self, request: ListStates | ExportState | ImportState) -> None:
        try:
            with self._heartbeat.long_call():
                self._emit(self._swapped(request))
        except StateFailed as error:
            self._emit(StateError(message=str(error)))

    def _swapped(self, request: ListStates | ExportState | ImportState) -> Event:
        if self._loaded is None:
            raise StateFailed("No model is loaded.")
        states = self._loaded.exports
        if isinstance(request, ListStates):
            return StatesListed(tokens=states.listed())
        key = None if request.key is None else self._with_states(request.key)[1]
        path = Path(request.path)
        if isinstance(request, ImportState):
            return StateRestored(tokens=states.restore(path, key=key))
        count, size = states.save(request.index, path, key=key, max_bytes=request.max_bytes)
        return StateSaved(tokens=count, size_bytes=size)

    def _with_states(self, key: str) -> tuple[LoadedModel, bytes]:
        """Return the model and a state's key. Raises StateFailed when one of them is none."""
        if self._loaded is None:
            raise StateFailed("No model is loaded.")
        if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", key):
            raise StateFailed(f"The key of a state has {2 * KEY_BYTES} hexadecimal digits.")
        return self._loaded, bytes.fromhex(key)
