"""The models of a server, by the names that its clients use: what every dialect calls.

A dialect turns its requests into the engine's and gives them to `ServedModels`; the checks, the
deadline and the report of a crash are the same for all of them.
"""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
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
    Tokenized,
    TokenizeRequest,
)
from localllm.errors import ContextOverflow, EngineCrashed
from localllm.runtime.model_pool.listing import ModelListing, ModelState
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.server.errors import ApiError, api_error, is_shutdown
from localllm.server.monitoring.metrics import ServerMetrics
from localllm.server.request_record import may_use

logger = logging.getLogger("localllm.server")

T = TypeVar("T")


class ServedModels:
    """The models called `names`, which `runtime` has loaded.

    One request does not wait for another: the engine batches them. `deadline_s`: seconds after
    which an answer that is not complete ends with an error, None: never. `aliases`: other names,
    each of one of them.
    """

    def __init__(
        self,
        runtime: Runtime,
        names: tuple[str, ...],
        deadline_s: float | None = None,
        aliases: Mapping[str, str] | None = None,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self.names = names
        self.metrics = metrics or ServerMetrics()
        self._aliases = dict(aliases or {})
        self.started_at = int(time.time())
        self._runtime = runtime
        self._deadline_s = deadline_s
        self._reported: EngineCrashed | None = None

    @property
    def resident(self) -> tuple[ResidentModel, ...]:
        """The served models whose engine runs; a crashed one starts with its next request."""
        return tuple(
            resident for resident in self._runtime.resident() if resident.model.name in self.names
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """The names that this request can use: those of the models, then the aliases."""
        every = dict.fromkeys((*self.names, *self._aliases))
        return tuple(name for name in every if self.allows(name))

    def requested(self, model: str | None) -> str:
        """Return the name in a request's field `model`, which can be left out or empty when there
        is one model.

        Raises ApiError when it is left out though there are several.
        """
        if model:
            return model
        if len(names := [name for name in self.names if self.allows(name)]) == 1:
            return names[0]
        raise ApiError(
            f"`model` is required, since there are several: {', '.join(self.ids)}.",
            code="missing_required_parameter",
            param="model",
        )

    def resolve(self, model: str) -> str:
        """Return the name of the model that is called `model`, which may be an alias.

        Raises ApiError when none is (404), or when the request's key does not allow it (403).
        """
        name = model if model in self.names else self._aliases.get(model)
        if name is not None and not self.allows(name):
            own = ", ".join(self.ids) or "none of this server's"
            raise ApiError(
                f"This API key may not use that model. It may use: {own}.",
                status=403,
                code="model_not_allowed",
                param="model",
            )
        if name is None:
            raise ApiError(
                f"This server does not serve that model. It serves: {', '.join(self.ids)}.",
                status=404,
                code="model_not_found",
                param="model",
            )
        return name

    def listed(self) -> tuple[ModelListing, ...]:
        """List every model that this request can name, those that are not in memory too. Nothing
        is loaded, and no model counts as used."""
        alive = {each.model.name: each for each in self._runtime.resident()}
        crashed = {each.model.name: each for each in self._runtime.crashed()}
        return tuple(
            ModelListing(
                name=name,
                model=(alive.get(name) or crashed[name]).model,
                aliases=tuple(alias for alias, model in self._aliases.items() if model == name),
                state=ModelState.READY if name in alive else ModelState.CRASHED,
                resident=alive.get(name),
            )
            for name in self.names
            if (name in alive or name in crashed) and self.allows(name)
        )

    def allows(self, name: str) -> bool:
        """Tell whether the request's key allows a model, by its own name or one of its aliases."""
        model = self._aliases.get(name, name)
        others = (alias for alias, target in self._aliases.items() if target == model)
        return may_use(model) or any(map(may_use, others))

    def generate(
        self,
        name: str,
        request: GenerateRequest,
        *,
        prompt_field: str = "messages",
        keep_alive: float | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Generate with the model called `name`; closing the iterator cancels the request.

        `prompt_field`: the field that an error names when the prompt does not fit the context.
        `keep_alive`: seconds that the model stays in memory after its last request; None: as it is
        configured, negative or infinity: for ever, 0: until it has nothing to do.
        Raises ApiError at once for an unknown model; the iterator raises LocalLLMErrors.
        """
        return self._events(self.resolve(name), request, prompt_field)

    async def _events(
        self, name: str, request: GenerateRequest, prompt_field: str
    ) -> AsyncGenerator[GenerateEvent, None]:
        request = replace(request, deadline_s=self._deadline_s)
        with self.metrics.generation(name) as measured:
            async with aclosing(self._runtime.generate(name, request)) as events:
                try:
                    async for event in events:
                        measured.note(event)
                        yield event
                except EngineCrashed as crash:
                    self._report(name, crash)
                    raise
                except ContextOverflow as error:
                    raise api_error(error, prompt_field=prompt_field) from error

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
        embedded = await self._result(name, self._runtime.embed(name, request), prompt_field)
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
        reranked = await self._result(name, self._runtime.rerank(name, request), prompt_field)
        self.metrics.read(name, reranked.prompt_tokens)
        return reranked

    def memory_bytes(self, name: str) -> int | None:
        """Measure the resident memory of a model's process; None when there is none."""
        return self._runtime.memory_bytes(name)

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
        return await self._result(name, self._runtime.tokenize(name, request), "content")

    async def detokenize(self, name: str, tokens: Sequence[int]) -> str:
        """Write tokens of the model called `name` as text."""
        name = self.resolve(name)
        request = DetokenizeRequest(
            request_id=f"detok-{secrets.token_hex(12)}", tokens=tuple(tokens)
        )
        result = await self._result(name, self._runtime.detokenize(name, request), "tokens")
        return result.text

    async def apply_template(
        self, name: str, request: GenerateRequest, *, prompt_field: str = "messages"
    ) -> str:
        """Write the prompt of a request as text; nothing is generated. Raises as `generate`."""
        name = self.resolve(name)
        return await self._result(name, self._runtime.apply_template(name, request), prompt_field)

    async def count_tokens(
        self, name: str, request: GenerateRequest, *, prompt_field: str = "messages"
    ) -> int:
        """Count the tokens of the prompt of a request, as the usage of its answer would; nothing is
        generated. Raises as `generate`."""
        name = self.resolve(name)
        return await self._result(name, self._runtime.count_tokens(name, request), prompt_field)

    async def _result(self, name: str, work: Coroutine[None, None, T], prompt_field: str) -> T:
        try:
            return await work
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
