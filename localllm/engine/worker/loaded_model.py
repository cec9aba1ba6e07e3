"""The loaded model of an engine's process, and all that was made for it."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.core.hardware import DeviceTest
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.embedding import with_embedding_defaults
from localllm.core.sizing.load import ChatTemplateFile, LoadSettings
from localllm.core.speed.threads import ThreadTrial
from localllm.engine.messages import Event, Loaded, LoadProgress, LoadRequest, VocabularyInfo
from localllm.engine.messages.validation import check_settings, check_thread_counts
from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.exported_state import ExportedStates
from localllm.engine.worker.kv_cache.host_memory import make_host_cache
from localllm.engine.worker.kv_cache.state_file import ModelFiles, StateFiles
from localllm.engine.worker.llama.heartbeat import HeartbeatState
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.llama.native_log import NativeLog, note
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.prompt_builder import PromptBuilder
from localllm.engine.worker.prompt.text_tokenizer import TextTokenizer
from localllm.engine.worker.scheduling.scheduler import Scheduler
from localllm.engine.worker.thread_trial import try_threads
from localllm.errors import BadRequest, EngineUnavailable, LoadFailed, UsageError

if TYPE_CHECKING:  # imported by loads that need them, and numpy or mtmd with them
    from localllm.engine.worker.embedding import Embedder
    from localllm.engine.worker.speculative.draft_model import DraftModel
    from localllm.engine.worker.vision_encoder import VisionEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with its scheduler, prompts, states and companions.

    `embedder` runs instead of the scheduler when the model was loaded for embeddings.
    `vision_unavailable`: why there is no `encoder`, though the load has asked for one.
    """

    model: Model
    scheduler: Scheduler
    prompts: PromptBuilder
    tokenizer: TextTokenizer
    states: StateFiles
    exports: ExportedStates
    embedder: "Embedder | None"
    encoder: "VisionEncoder | None"
    vision_unavailable: str | None
    drafter: "DraftModel | None"
    has_chat_template: bool
    chat_template: str | None
    chat_template_sha256: str | None
    chat_template_problem: str | None
    thread_trials: tuple[ThreadTrial, ...]
    device_test: DeviceTest | None

    @property
    def runner(self) -> "Embedder | Scheduler":
        return self.embedder or self.scheduler

    def check_generates(self) -> None:
        """Raise BadRequest when this model writes no answers."""
        if self.embedder is not None:
            raise BadRequest("This model was loaded for embeddings: it writes no answers.")
        if not self.model.has_cache:
            raise BadRequest(
                "This model is an encoder: it writes no answers. Load it for embeddings."
            )

    def loaded(self) -> Loaded:
        """Describe the load to the parent."""
        model, encoder = self.model, self.encoder
        return Loaded(
            allocations=model.allocations + (encoder.allocations if encoder is not None else ()),
            context=model.context,
            cells=model.cells,
            parallel=model.settings.parallel,
            gpu_layers=_offloaded_layers(model),
            has_chat_template=self.has_chat_template,
            chat_template_sha256=self.chat_template_sha256,
            chat_template_problem=self.chat_template_problem,
            load_s=model.load_s,
            vision=encoder is not None,
            vision_unavailable=self.vision_unavailable,
            draft=self.drafter.allocations if self.drafter is not None else (),
            vocabulary=_describe(model.vocab),
            chat_template=self.chat_template,
            threads=model.threads,
            threads_batch=model.prompt_threads,
            thread_trials=self.thread_trials,
            device_test=self.device_test,
        )

    def close(self) -> None:
        for loaded in (self.scheduler, self.encoder, self.drafter, self.model):
            if loaded is not None:
                loaded.close()


def load_model(
    request: LoadRequest,
    emit: Callable[[Event], None],
    *,
    log: NativeLog,
    heartbeat: HeartbeatState,
    on_progress: Callable[[LoadProgress], None],
) -> LoadedModel:
    """Load a model and its companions. Raises LoadFailed, UsageError."""
    check_settings(request.settings)
    check_thread_counts(request.try_threads)
    own = request.settings.chat_template
    if own is not None:
        _check_template(own)
    files = ModelFiles(request.path, request.settings.loras)
    settings, spec = _embedding_settings(request)
    with ExitStack() as stack:
        model, tested = _load_tested(
            request, settings, log=log, heartbeat=heartbeat, on_progress=on_progress
        )
        stack.callback(model.close)
        encoder, vision_unavailable = _load_encoder(model, log)
        if encoder is not None:
            stack.callback(encoder.close)
        drafter = _load_drafter(model, log)
        stack.pop_all()
    host = None if settings.embeddings else make_host_cache(settings.cache_ram)
    scheduler = Scheduler(model, emit, drafter=drafter, host=host)
    embedder = None if spec is None else _make_embedder(model, spec, emit)
    source = own.source if own is not None else model.chat_template
    template, problem = _compile(source, model)
    digest = hashlib.sha256(source.encode()).hexdigest() if source is not None else None
    states = StateFiles(model, scheduler.kv_cache, files=files, log=log, chat_template=digest)
    return LoadedModel(
        model=model,
        scheduler=scheduler,
        prompts=PromptBuilder(
            model.vocab,
            template,
            context=model.context,
            batch=model.settings.batch,
            encoder=encoder,
            vision_unavailable=vision_unavailable,
            template_problem=problem,
            parse_special=settings.parse_special,
        ),
        tokenizer=TextTokenizer(model.vocab),
        states=states,
        exports=ExportedStates(model, scheduler.kv_cache, states),
        embedder=embedder,
        encoder=encoder,
        vision_unavailable=vision_unavailable,
        drafter=drafter,
        has_chat_template=template is not None,
        chat_template=source,
        chat_template_sha256=digest,
        chat_template_problem=problem,
        thread_trials=() if settings.embeddings else try_threads(model, request.try_threads),
        device_test=tested,
    )


def _embedding_settings(request: LoadRequest) -> tuple[LoadSettings, ModelSpec | None]:
    """Return the settings as they are used; for embeddings with the header. Raises LoadFailed."""
    if not request.settings.embeddings:
        return request.settings, None
    from localllm.engine.worker.llama.dry_run import read_header

    spec = read_header(request.path)
    return with_embedding_defaults(spec, request.settings), spec


def _load_tested(
    request: LoadRequest,
    settings: LoadSettings,
    *,
    log: NativeLog,
    heartbeat: HeartbeatState,
    on_progress: Callable[[LoadProgress], None],
) -> tuple[Model, DeviceTest | None]:
    """Load the model itself, and test its devices where that is asked of it."""

    def load() -> Model:
        return Model(
            request.path,
            settings,
            log=log,
            on_progress=lambda fraction: on_progress(LoadProgress(fraction=fraction)),
            heartbeat=heartbeat,
        )

    if not request.test_devices or settings.embeddings:
        return load(), None
    from localllm.engine.worker.device_test import check_devices, compute_reference

    on_progress(LoadProgress(fraction=0, testing_devices=True))
    reference = compute_reference(request.path, settings, log=log, heartbeat=heartbeat)
    model = load()
    on_progress(LoadProgress(fraction=1, testing_devices=True))
    return model, check_devices(model, reference)


def _load_encoder(model: Model, log: NativeLog) -> "tuple[VisionEncoder | None, str | None]":
    """Load the image encoder; or return why it cannot be: the model answers text without it."""
    mmproj = model.settings.mmproj
    if mmproj is None:
        return None, None
    try:
        from localllm.engine.worker.vision_encoder import VisionEncoder

        return VisionEncoder(mmproj, model, log=log), None
    except (LoadFailed, EngineUnavailable) as error:  # the file, or this build of llama.cpp
        return None, str(error)


def _make_embedder(model: Model, spec: ModelSpec, emit: Callable[[Event], None]) -> "Embedder":
    from localllm.engine.worker.embedding import Embedder

    return Embedder(model, spec, emit)


def _load_drafter(model: Model, log: NativeLog) -> "DraftModel | None":
    path = model.settings.active_draft
    if path is None:
        return None
    from localllm.engine.worker.speculative.draft_model import DraftModel

    return DraftModel(path, model, log=log)


def _check_template(given: ChatTemplateFile) -> None:
    """Raise UsageError for a template of the user's that does not compile, before a load of
    minutes."""
    try:
        ChatTemplate(given.source)
    except BadRequest as error:
        raise UsageError(f"{given.path}: {error}") from error


def _compile(source: str | None, model: Model) -> tuple[ChatTemplate | None, str | None]:
    """Compile a chat template; or return why it is not usable. What it does to the simplest
    conversation is a problem, too: it can be used all the same."""
    if source is None:
        return None, None
    try:
        template = ChatTemplate(source, bos_token=model.vocab.bos, eos_token=model.vocab.eos)
    except BadRequest as error:
        note(f"localllm worker: {error}")
        return None, f"{error}."
    return template, template.problem()


def _describe(vocab: Vocabulary) -> VocabularyInfo:
    return VocabularyInfo(
        size=vocab.size,
        bos=vocab.bos or None,
        eos=vocab.eos or None,
        pad=vocab.pad or None,
        adds_bos=vocab.adds_bos,
        infill=vocab.infill_tokens is not None,
    )


def _offloaded_layers(model: Model) -> int:
    if not llama.llama_supports_gpu_offload():
        return 0
    layers = int(llama.llama_model_n_layer(llama.llama_get_model(model.handle))) + 1
    limit = model.settings.gpu_layers
    return layers if limit is None else min(limit, layers)
