"""Texts to vectors: several texts a batch, pooled here, request by request.

llama.cpp hands out a row for each token; mean, first or last of them is a text's vector. So one
load serves every pooling, and a text longer than a micro-batch is computed piece by piece where
the model looks back only. Ranking is llama.cpp's own pooling: a score for each pair.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from localllm.core.model.purpose import is_bidirectional, is_matryoshka
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Pooling
from localllm.core.units import format_bytes
from localllm.engine.messages import (
    Embedded,
    EmbedRequest,
    Event,
    RequestError,
    Reranked,
    RerankRequest,
)
from localllm.engine.messages.validation import check_embed, check_rerank
from localllm.engine.worker.llama.model import Aborted, Model, NoRoom, Row
from localllm.errors import BadRequest, ContextOverflow, GenerationFailed, QueueFull

MAX_WAITING = 256
"""Requests that may wait or be computed; one more is refused at once."""

MAX_ANSWER_BYTES = 40 * 2**20
"""Of vectors; the parent takes lines of 64 MiB, and base64 adds a third."""

_FIRST_CHARS = 8
"""Characters for each token of the context that are looked at first; text has 3 to 5."""

Vectors = NDArray[np.float32]
"""Rows of one text, or its vector."""


@dataclass(slots=True, eq=False)
class Job:
    """One request: its texts' tokens, how many of them were begun, and what has come of them."""

    request: EmbedRequest | RerankRequest
    texts: list[list[int]]
    begun: int = 0
    results: dict[int, Vectors] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def complete(self) -> bool:
        return len(self.results) == len(self.texts)


@dataclass(slots=True, eq=False)
class Text:
    """One text on its way, in a slot of its own from its first token to its last."""

    job: Job
    index: int
    slot: int
    done: int = 0
    rows: list[Vectors] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return self.job.texts[self.index]

    @property
    def left(self) -> int:
        return len(self.tokens) - self.done


class Embedder:
    """Runs every request of one model loaded for embeddings. Requests take turns, a text each: who
    asks for one vector does not wait for somebody's thousand."""

    def __init__(self, model: Model, spec: ModelSpec, emit: Callable[[Event], None]) -> None:
        self._model = model
        self._emit = emit
        self._whole = is_bidirectional(spec)
        self._shortens = is_matryoshka(spec)
        self._width = int(llama.llama_model_n_embd_out(llama.llama_get_model(model.handle)))
        self._pooling = model.settings.pooling or Pooling.MEAN
        self._pairs = Pairs(model)
        self._jobs: dict[str, Job] = {}
        self._turns: deque[Job] = deque()
        """Jobs with texts that were not begun, whose turn it is first."""
        self._running: list[Text] = []
        self._free = list(range(model.settings.parallel))
        model.use(model.loras.space(None))

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, request: EmbedRequest | RerankRequest) -> None:
        """Queue a request. Raises BadRequest, ContextOverflow (a text is too long), QueueFull."""
        if request.request_id in self._jobs:
            raise BadRequest(f"A request with the id {request.request_id!r} is running already.")
        if len(self._jobs) >= MAX_WAITING:
            raise QueueFull(f"{len(self._jobs)} requests are waiting already. Try again later.")
        if isinstance(request, EmbedRequest):
            texts = self._inputs(request)
        else:
            texts = self._documents(request)
        job = self._jobs[request.request_id] = Job(request, texts)
        self._turns.append(job)

    def cancel(self, request_id: str) -> None:
        """End a request between steps. Unknown ids are ignored."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._refuse(job, GenerationFailed("The request was cancelled."))

    def step(self) -> None:
        """Compute one batch: as many texts, or pieces of them, as it holds."""
        batch = self._fill()
        rows = [
            Row(token, text.done + i, text.slot, True)
            for text, count in batch
            for i, token in enumerate(text.tokens[text.done : text.done + count])
        ]
        try:
            self._model.decode(rows)
        except (Aborted, NoRoom, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            for job in {text.job for text, _ in batch}:
                message = f"llama.cpp could not compute this batch: {reason}."
                self._refuse(job, GenerationFailed(message))
            return
        self._collect(batch)

    # --- texts and tokens ---

    def _inputs(self, request: EmbedRequest) -> list[list[int]]:
        check_embed(request)
        if self._pooling is Pooling.RANK:
            raise BadRequest("This model ranks: send a query with its documents.")
        self._check_dimensions(request)
        texts = []
        for i, given in enumerate(request.inputs):
            name = f"input[{i}]"
            if isinstance(given, str):
                tokens = self._tokenize(given, name, truncate=request.truncate)
            else:
                tokens = self._checked(list(given), name)
            texts.append(self._fitted(tokens, name, truncate=request.truncate))
        self._check_answer(request, texts)
        return texts

    def _check_answer(self, request: EmbedRequest, texts: list[list[int]]) -> None:
        rows = len(texts)
        if (request.pooling or self._pooling) is Pooling.NONE:
            rows = sum(map(len, texts))
        size_bytes = rows * self._width * 4
        if size_bytes > MAX_ANSWER_BYTES:
            raise BadRequest(
                f"The vectors would take {format_bytes(size_bytes)}; one answer can have "
                f"{format_bytes(MAX_ANSWER_BYTES)}. Send fewer texts at once."
            )

    def _documents(self, request: RerankRequest) -> list[list[int]]:
        check_rerank(request)
        if self._pooling is not Pooling.RANK:
            raise BadRequest("This model does not rank: it has no classifier, or another pooling.")
        texts, limit = [], self._model.context
        self._check_length(request.query, "query")
        for i, document in enumerate(request.documents):
            name = f"documents[{i}] with the query"
            if request.truncate:
                head = document[: _FIRST_CHARS * limit]
                tokens = self._pairs.tokens(request.query, head, at_most=limit)
            else:
                self._check_length(document, name)
                tokens = self._pairs.tokens(request.query, document)
            texts.append(self._fitted(tokens, name, truncate=False))
        return texts

    def _check_dimensions(self, request: EmbedRequest) -> None:
        wanted = request.dimensions
        if wanted is None or wanted == self._width:
            return
        if not self._shortens:
            raise BadRequest(
                f"dimensions is {wanted}; the vectors of this model have {self._width}, and it "
                "does not say that it was trained to be used with fewer (Matryoshka)."
            )
        if wanted > self._width:
            raise BadRequest(f"dimensions is {wanted}; this model has {self._width}.")

    def _tokenize(self, text: str, name: str, *, truncate: bool) -> list[int]:
        """Of a far too long text no more than it takes to know that: its tokens could keep
        everybody waiting."""
        if truncate:
            text = text[: _FIRST_CHARS * self._model.context]
        else:
            self._check_length(text, name)
        return self._model.tokenize(text, special=True)

    def _check_length(self, text: str, name: str) -> None:
        limit = self._model.context
        length = _FIRST_CHARS * limit
        while length < len(text):
            tokens = len(self._model.tokenize(text[:length], special=True))
            if tokens > 2 * limit:  # twice: what the cut changed does not matter
                raise _too_long(name, f"more than {tokens}", limit)
            length *= 2

    def _checked(self, tokens: list[int], name: str) -> list[int]:
        if max(tokens) >= self._model.vocabulary:
            raise BadRequest(
                f"{name} has the token {max(tokens)}; this model's are 0 to "
                f"{self._model.vocabulary - 1}."
            )
        return tokens

    def _fitted(self, tokens: list[int], name: str, *, truncate: bool) -> list[int]:
        self._model.vitals.beat()  # two thousand texts take a while to tokenize
        limit = self._model.context
        if not tokens:
            raise BadRequest(f"{name} has no tokens.")
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise _too_long(name, str(len(tokens)), limit)
        edges = self._model.tokenize("", special=True)
        if len(edges) > 1 and tokens[-1] == edges[-1]:  # what ends every text stays
            return [*tokens[: limit - 1], tokens[-1]]
        return tokens[:limit]

    # --- batches ---

    def _fill(self) -> list[tuple[Text, int]]:
        """Texts and how many of their next tokens: those that run, then as many new ones as there
        is room for."""
        room = self._model.chunk
        batch = []
        for text in self._running:
            count = min(room, text.left)
            batch.append((text, count))
            room -= count
        while self._turns and self._free and room > 0:
            job = self._turns[0]
            length = len(job.texts[job.begun])
            if self._whole and length > room:
                break
            text = Text(job, job.begun, self._free.pop())
            self._running.append(text)
            batch.append((text, min(room, length)))
            room -= min(room, length)
            job.begun += 1
            self._turns.popleft()
            if job.begun < len(job.texts):
                self._turns.append(job)
        return [(text, count) for text, count in batch if count]

    def _collect(self, batch: list[tuple[Text, int]]) -> None:
        ranks = self._pooling is Pooling.RANK
        rows = None if ranks else self._rows(sum(count for _, count in batch))
        at = 0
        for text, count in batch:
            text.done += count
            if rows is not None:
                text.rows.append(rows[at : at + count].copy())
                at += count
            if text.left == 0:
                found = self._score(text.slot) if ranks else np.concatenate(text.rows)
                self._finish(text, found)

    def _rows(self, count: int) -> Vectors:
        """A row for each token of the batch, in its order."""
        found = llama.llama_get_embeddings(self._model.handle)
        return np.ctypeslib.as_array(found, (count, self._width))

    def _score(self, slot: int) -> Vectors:
        """What the classifier says of a pair: the first label is the relevance."""
        found = llama.llama_get_embeddings_seq(self._model.handle, slot)
        return np.ctypeslib.as_array(found, (1,)).copy()

    def _finish(self, text: Text, found: Vectors) -> None:
        self._leave(text)
        job = text.job
        if isinstance(job.request, EmbedRequest):
            found = vector(found, job.request, job.request.pooling or self._pooling)
        job.results[text.index] = found
        if job.complete:
            del self._jobs[job.id]
            self._emit(answer(job))

    def _leave(self, text: Text) -> None:
        self._running.remove(text)
        self._model.keep(text.slot, 0)
        self._free.append(text.slot)

    def _refuse(self, job: Job, error: GenerationFailed) -> None:
        for text in [text for text in self._running if text.job is job]:
            self._leave(text)
        if job in self._turns:
            self._turns.remove(job)
        del self._jobs[job.id]
        self._emit(RequestError(request_id=job.id, code=error.code, message=str(error)))


def vector(rows: Vectors, request: EmbedRequest, pooling: Pooling) -> Vectors:
    """A text's vector (with pooling NONE its rows) as the request wants it."""
    match pooling:
        case Pooling.MEAN:
            pooled = rows.mean(axis=0, dtype=np.float64, keepdims=True)
        case Pooling.CLS:
            pooled = rows[:1]
        case Pooling.LAST:
            pooled = rows[-1:]
        case _:
            pooled = rows
    pooled = pooled[:, : request.dimensions].astype(np.float64)
    if request.normalize:
        lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
        pooled = pooled / np.where(lengths > 0, lengths, 1)
    found: Vectors = pooled.astype("<f4")
    return found


def answer(job: Job) -> Embedded | Reranked:
    """What a job's parent is told when all of its texts are computed."""
    tokens = tuple(len(text) for text in job.texts)
    found = [job.results[i] for i in range(len(job.texts))]
    if isinstance(job.request, RerankRequest):
        scores = tuple(float(each[0]) for each in found)
        return Reranked(request_id=job.id, scores=scores, tokens=tokens)
    vectors = tuple(each.tobytes() for each in found)
    return Embedded(request_id=job.id, vectors=vectors, tokens=tokens)


def _too_long(name: str, tokens: str, limit: int) -> ContextOverflow:
    return ContextOverflow(
        f"{name} has {tokens} tokens, and this model was loaded for at most {limit}. Send shorter "
        "texts, ask for truncation, or load it with a larger context (--ctx)."
    )


class Pairs:
    """With the model's own template ("tokenizer.chat_template.rerank"), or with the vocabulary's
    special tokens around the two, as llama-server's `format_prompt_rerank`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        native = llama.llama_get_model(model.handle)
        template = llama.llama_model_chat_template(native, b"rerank")
        self._template = template.decode("utf-8", "replace") if template else None
        self._query: tuple[str, list[int]] = ("", [])
        """The last one and its tokens: it is the same for all documents of a request."""

    def tokens(self, query: str, document: str, *, at_most: int | None = None) -> list[int]:
        """The pair; of a document that makes it longer than `at_most` the beginning."""
        if self._template is None:
            if query != self._query[0]:
                self._query = (query, self._plain(query))
            return self._joined(self._query[1], self._plain(document), at_most)
        tokens = self._templated(self._template, query, document)
        while at_most is not None and len(tokens) > at_most and document:
            rest = self._templated(self._template, query, "")
            share = max(0, at_most - len(rest)) / max(1, len(tokens) - len(rest))
            document = document[: min(int(len(document) * share), len(document) - 1)]
            tokens = self._templated(self._template, query, document)
        return tokens

    def _templated(self, template: str, query: str, document: str) -> list[int]:
        named = {"{query}": query, "{document}": document}
        text = re.sub(r"\{query\}|\{document\}", lambda found: named[found[0]], template)
        return self._model.tokenize(text, special=True, ends=False)

    def _plain(self, text: str) -> list[int]:
        return self._model.tokenize(text, special=False, ends=False)

    def _joined(self, query: list[int], document: list[int], at_most: int | None) -> list[int]:
        vocab = self._model.vocab
        separator = [llama.llama_vocab_sep(vocab)] if llama.llama_vocab_get_add_sep(vocab) else []
        end = llama.llama_vocab_eos(vocab)
        ends = [end if end >= 0 else llama.llama_vocab_sep(vocab)]
        ends = ends if llama.llama_vocab_get_add_eos(vocab) else []
        start = [llama.llama_vocab_bos(vocab)] if llama.llama_vocab_get_add_bos(vocab) else []
        before = [token for token in (*start, *query, *ends, *separator) if token >= 0]
        after = [token for token in ends if token >= 0]
        if at_most is not None:
            document = document[: max(0, at_most - len(before) - len(after))]
        return [*before, *document, *after]
