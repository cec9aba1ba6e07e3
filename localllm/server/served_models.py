"""The models of a server, by the names that its clients use: what every dialect calls.

A dialect turns its requests into the engine's and gives them to `ServedModels`; the load of a model
that is not in memory, the checks, the deadline and the report of a crash are the same for all of
them.
"""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from localllm.core.text import single_line
from localllm.engine.messages import (
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    GenerateEvent,
    GenerateRequest,
    Reranked,
    RerankRequest,
    Token,
    Tokenized,
    TokenizeRequest,
)
from localllm.errors import ContextOverflow, EngineCrashed, NotFound
from localllm.runtime.model_pool.listing import ModelListing
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import unknown_model_message
from localllm.runtime.model_pool.warm_swap import KeptConversations
from localllm.runtime.runtime import ResidentModel
from localllm.server.errors import ApiError, api_error, is_shutdown
from localllm.server.monitoring.activity import Activity
from localllm.server.monitoring.metrics import ServerMetrics
from localllm.server.request_record import current_record, may_use
from localllm.server.streaming import DescribedStream

logger = logging.getLogger("localllm.server")

T = TypeVar("T")


class ServedModels:
    """The models of `pool`, which loads them when a request names one.

    One request does not wait for another of the same model: the engine batches them. `deadline_s`:
    seconds after which an answer that is not complete ends with an error, the load of its model
    included, None: never.
    """

    def __init__(
        self,
        pool: ModelPool,
        deadline_s: float | None = None,
        metrics: ServerMetrics | None = None,
        activity: Activity | None = None,
    ) -> None:
        self.metrics = metrics or ServerMetrics()
        self.started_at = int(time.time())
        self._pool = pool
        self._runtime = pool.runtime
        self._deadline_s = deadline_s
        self._activity = activity or Activity()
        self._reported: EngineCrashed | None = None

    @property
    def resident(self) -> tuple[ResidentModel, ...]:
        """The models in memory whose engine runs; a crashed one starts with its next request."""
        return self._runtime.resident()

    @property
    def ids(self) -> tuple[str, ...]:
        """The names that this request can use: those of the models, then the aliases."""
        names = self._allowed_names()
        return tuple(
            dict.fromkeys([*(own for own, *_ in names), *(alias for _, *a in names for alias in a)])
        )

    def requested(self, model: str | None) -> str:
        """Return the name in a request's field `model`, which can be left out or empty when there
        is one model.

        Raises ApiError when it is left out though there are several.
        """
        if model:
            return model
        default = self._pool.models.default
        if default is not None and self._allows(default.name):
            return default.name
        if len(names := self._allowed_names()) == 1:
            return names[0][0]
        raise ApiError(
            f"`model` is required, since there are several: {', '.join(self.ids)}.",
            code="missing_required_parameter",
            param="model",
        )

    def resolve(self, model: str) -> str:
        """Return the name of the model that is called `model`: a name, an alias, another spelling
        or the beginning of one name. No name is read as a path.

        Raises ApiError when none is (404), with the names that there are, or when the request's key
        does not allow it (403).
        """
        try:
            name = self._pool.models.find(model).name
        except NotFound as error:
            raise self._unknown_model(model, error) from None
        if not self._allows(name):
            own = ", ".join(self.ids) or "none of this server's"
            raise ApiError(
                f"This API key may not use that model. It may use: {own}. "
                "Who runs the server makes others: localllm key create NAME --model MODEL",
                status=403,
                code="model_not_allowed",
                param="model",
            )
        return name

    def _unknown_model(self, model: str, error: NotFound) -> ApiError:
        """Name the models that there are, or of them those that the request's key allows."""
        if all(map(may_use, (name for each in self._pool.models.names() for name in each))):
            return api_error(error)
        return ApiError(
            unknown_model_message(model, self.ids),
            status=404,
            code="model_not_found",
            param="model",
        )

    def listed(self) -> tuple[ModelListing, ...]:
        """List every model that this request can name, those that are not in memory too. Nothing
        is loaded, and no model counts as used."""
        return tuple(
            each for each in self._pool.listed() if any(map(may_use, (each.name, *each.aliases)))
        )

    def _allows(self, name: str) -> bool:
        """Tell whether the request's key allows a model, by its own name or one of its aliases."""
        return may_use(name) or any(map(may_use, self._pool.models.aliases_of(name)))

    def _allowed_names(self) -> list[tuple[str, ...]]:
        """List the models that the request's key allows, each with its own name first."""
        return [names for names in self._pool.models.names() if any(map(may_use, names))]

    def generate(
        self,
        name: str,
        request: GenerateRequest,
        *,
        prompt_field: str = "messages",
        keep_alive: float | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Generate with the model called `name`, once it is in memory; closing the iterator cancels
        the request.

        `prompt_field`: the field that an error names when the prompt does not fit the context.
        `keep_alive`: seconds that the model stays in memory after its last request; None: as it is
        configured, negative or infinity: for ever, 0: until it has nothing to do.
        Raises ApiError at once for an unknown model; the iterator raises LocalLLMErrors.
        """
        name = self.resolve(name)
        events = self._events(name, request, prompt_field, keep_alive)
        return DescribedStream(events, lambda: self._pool.waiting_for(name))

    async def _events(
        self, name: str, request: GenerateRequest, prompt_field: str, keep_alive: float | None
    ) -> AsyncGenerator[GenerateEvent, None]:
        tokens = None if request.max_tokens is None else request.max_tokens * request.n
        # An answer that rests while others are written may take as long as they like.
        deadline_s = self._deadline_s if request.priority == 0 else None
        acquired = self._pool.acquire(
            name, keep_alive=keep_alive, max_tokens=tokens, deadline_s=deadline_s
        )
        watched = self._activity.generating(current_record(), request)
        with self.metrics.generation(name) as measured, watched as watch:
            async with acquired as use, self._reported_errors(name, prompt_field):
                request = replace(request, deadline_s=use.left_s(deadline_s))
                async with aclosing(self._runtime.generate(name, request)) as events:
                    async for event in events:
                        if isinstance(event, Token):
                            use.count_token()
                        measured.note(event)
                        watch(event)
                        yield event

    async def embed(
        self,
        name: str,
        request: EmbedRequest,
        *,
        prompt_field: str,
        keep_alive: float | None = None,
    ) -> Embedded:
        """Embed with the model called `name`; as `generate`. Cancelling it cancels the request."""
        name = self.resolve(name)
        embedded = await self._result(
            name, lambda: self._runtime.embed(name, request), prompt_field, keep_alive
        )
        self.metrics.read(name, embedded.prompt_tokens)
        return embedded

    async def rerank(
        self,
        name: str,
        request: RerankRequest,
        *,
        prompt_field: str,
        keep_alive: float | None = None,
    ) -> Reranked:
        """Rerank with the model called `name`; as `embed`."""
        name = self.resolve(name)
        reranked = await self._result(
            name, lambda: self._runtime.rerank(name, request), prompt_field, keep_alive
        )
        self.metrics.read(name, reranked.prompt_tokens)
        return reranked

    async def load(
        self, name: str, *, keep_alive: float | None = None, pin: bool | None = None
    ) -> ModelListing:
        """Bring the model called `name` into memory, as a request to `generate` does."""
        name = self.resolve(name)
        async with self._reported_errors(name, "model"):
            return await self._pool.load(name, keep_alive=keep_alive, pin=pin)

    async def unload(self, name: str) -> bool:
        """Free the model called `name` when its requests are done. False when it was not in
        memory."""
        return await self._pool.unload(self.resolve(name))

    def memory_bytes(self, name: str) -> int | None:
        """Measure the resident memory of a model's process; None when there is none."""
        return self._runtime.memory_bytes(name)

    def kept(self) -> dict[str, KeptConversations]:
        """Map the models whose conversations wait for their next load to what is kept of them."""
        return {each.name: each.kept for each in self._pool.listed() if each.kept is not None}

    async def tokenize(
        self, name: str, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> Tokenized:
        """Cut a text into tokens of the model called `name` (see `TokenizeRequest`)."""
        name = self.resolve(name)
        request = TokenizeRequest(
            request_id=f"tok-{secrets.token_hex(12)}",
            text=text,
            add_special=add_special,
            parse_special=parse_special,
        )
        return await self._result(name, lambda: self._runtime.tokenize(name, request), "content")

    async def detokenize(self, name: str, tokens: Sequence[int]) -> str:
        """Write tokens of the model called `name` as text."""
        name = self.resolve(name)
        request = DetokenizeRequest(
            request_id=f"detok-{secrets.token_hex(12)}", tokens=tuple(tokens)
        )
        result = await self._result(name, lambda: self._runtime.detokenize(name, request), "tokens")
        return result.text

    async def apply_template(
        self, name: str, request: GenerateRequest, *, prompt_field: str = "messages"
    ) -> str:
        """Write the prompt of a request as text; nothing is generated. Raises as `generate`."""
        name = self.resolve(name)
        return await self._result(
            name, lambda: self._runtime.apply_template(name, request), prompt_field
        )

    async def count_tokens(
        self, name: str, request: GenerateRequest, *, prompt_field: str = "messages"
    ) -> int:
        """Count the tokens of the prompt of a request, as the usage of its answer would; nothing is
        generated. Raises as `generate`."""
        name = self.resolve(name)
        return await self._result(
            name, lambda: self._runtime.count_tokens(name, request), prompt_field
        )

    async def _result(
        self,
        name: str,
        work: Callable[[], Coroutine[None, None, T]],
        prompt_field: str,
        keep_alive: float | None = None,
    ) -> T:
        """Do `work` once the model is in memory."""
        acquired = self._pool.acquire(name, keep_alive=keep_alive, deadline_s=self._deadline_s)
        async with acquired, self._reported_errors(name, prompt_field):
            return await work()

    @asynccontextmanager
    async def _reported_errors(self, name: str, prompt_field: str) -> AsyncIterator[None]:
        """Log a crash, and name the field at fault when the context overflows."""
        try:
            yield
        except EngineCrashed as crash:
            self._report(name, crash)
            raise
        except ContextOverflow as error:
            raise api_error(error, prompt_field=prompt_field) from error

    def _report(self, name: str, crash: EngineCrashed) -> None:
        """Log a crash once, though every request that was in flight raises it."""
        if crash is not self._reported and not is_shutdown(crash):
            self._reported = crash
            self.metrics.crashed(name)
            logger.warning("%s: %s", single_line(name), crash)
