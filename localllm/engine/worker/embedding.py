"""Embeddings and scores: several texts a batch, pooled here, request by request.

llama.cpp returns a row for each token; the mean, the first or the last of them is a text's vector.
So one load serves every pooling, and a text longer than a physical batch is computed in chunks
where attention is causal. Ranking is llama.cpp's own pooling: a score for each pair.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

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
    Message,
    RequestError,
    Reranked,
    RerankRequest,
    Role,
)
from localllm.engine.messages.validation import check_embed, check_rerank
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.model import Aborted, BatchToken, CacheFull, Model
from localllm.engine.worker.prompt.control_words import ControlWords, LiteralText
from localllm.errors import BadRequest, ContextOverflow, GenerationFailed, QueueFull

MAX_WAITING = 256
"""Requests that may wait or be computed; one more is refused at once."""

MAX_ANSWER_BYTES = 40 * 2**20
"""Of vectors; the parent takes lines of 64 MiB, and base64 adds a third."""

_FIRST_CHARS = 8
"""Characters for each token of the context that are tokenized first; text has 3 to 5."""

Vectors = NDArray[np.float32]
"""Rows of one text, or its vector."""


@dataclass(slots=True, eq=False)
class Job:
    """One request: the tokens of its texts, the number that were begun, and the results so far by
    the text's index."""

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
class TextSequence:
    """One text that is being computed, in a slot of its own from its first token to its last.

    `computed` counts its tokens, of which `rows` are the output."""

    job: Job
    index: int
    slot: int
    computed: int = 0
    rows: list[Vectors] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return self.job.texts[self.index]

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.computed


class Embedder:
    """Runs every request of one model loaded for embeddings, a text of each in turn: a request for
    one vector does not wait for another's thousand."""

    def __init__(self, model: Model, spec: ModelSpec, emit: Callable[[Event], None]) -> None:
        self._model = model
        self._emit = emit
        self._non_causal = is_bidirectional(spec)
        self._can_shorten = is_matryoshka(spec)
        self._width = int(llama.llama_model_n_embd_out(llama.llama_get_model(model.handle)))
        self._pooling = model.settings.pooling or Pooling.MEAN
        self._pairs = PairTokenizer(model)
        self._special = model.settings.parse_special
        """False: control tokens that are written in a text are text."""
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        """Jobs with texts that were not begun; the first is next."""
        self._running: list[TextSequence] = []
        self._free_slots = list(range(model.settings.parallel))
        model.apply_loras(model.loras.default_key)

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
        self._queue.append(job)

    def cancel(self, request_id: str) -> None:
        """End a request between steps. Unknown ids are ignored."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._refuse(job, GenerationFailed("The request was cancelled."))

    def step(self) -> None:
        """Compute one batch: as many texts, or pieces of them, as it holds."""
        batch = self._schedule()
        tokens = [
            BatchToken(token, text.computed + i, text.slot, True)
            for text, count in batch
            for i, token in enumerate(text.tokens[text.computed : text.computed + count])
        ]
        try:
            self._model.decode(tokens)
        except (Aborted, CacheFull, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            for job in {text.job for text, _ in batch}:
                message = f"llama.cpp could not compute this batch: {reason}."
                self._refuse(job, GenerationFailed(message))
            return
        self._postprocess(batch)

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
                tokens = self._check_tokens(list(given), name)
            texts.append(self._fit_context(tokens, name, truncate=request.truncate))
        self._check_result_size(request, texts)
        return texts

    def _check_result_size(self, request: EmbedRequest, texts: list[list[int]]) -> None:
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
            texts.append(self._fit_context(tokens, name, truncate=False))
        return texts

    def _check_dimensions(self, request: EmbedRequest) -> None:
        dimensions = request.dimensions
        if dimensions is None or dimensions == self._width:
            return
        if not self._can_shorten:
            raise BadRequest(
                f"dimensions is {dimensions}; the vectors of this model have {self._width}, and it "
                "does not say that it was trained to be used with fewer (Matryoshka)."
            )
        if dimensions > self._width:
            raise BadRequest(f"dimensions is {dimensions}; this model has {self._width}.")

    def _tokenize(self, text: str, name: str, *, truncate: bool) -> list[int]:
        """Tokenize a text; of a far too long one no more than it takes to know that, for everybody
        else waits meanwhile."""
        if truncate:
            text = text[: _FIRST_CHARS * self._model.context]
        else:
            self._check_length(text, name)
        return self._model.vocab.tokenize(text, special=self._special)

    def _check_length(self, text: str, name: str) -> None:
        limit = self._model.context
        length = _FIRST_CHARS * limit
        while length < len(text):
            tokens = len(self._model.vocab.tokenize(text[:length], special=self._special))
            if tokens > 2 * limit:  # twice: what the cut changed does not matter
                raise _too_long(name, f"more than {tokens}", limit)
            length *= 2

    def _check_tokens(self, tokens: list[int], name: str) -> list[int]:
        if max(tokens) >= self._model.vocab.size:
            raise BadRequest(
                f"{name} has the token {max(tokens)}; this model's are 0 to "
                f"{self._model.vocab.size - 1}."
            )
        return tokens

    def _fit_context(self, tokens: list[int], name: str, *, truncate: bool) -> list[int]:
        self._model.heartbeat.beat()  # two thousand texts take a while to tokenize
        limit = self._model.context
        if not tokens:
            raise BadRequest(f"{name} has no tokens.")
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise _too_long(name, str(len(tokens)), limit)
        edges = self._model.vocab.tokenize("", special=True)
        if len(edges) > 1 and tokens[-1] == edges[-1]:  # the token that ends every text stays
            return [*tokens[: limit - 1], tokens[-1]]
        return tokens[:limit]

    # --- batches ---

    def _schedule(self) -> list[tuple[TextSequence, int]]:
        """Choose the texts of the next batch and the number of tokens of each: those that run, then
        as many new ones as fit."""
        tokens_left = self._model.max_batch_tokens
        batch = []
        for text in self._running:
            count = min(tokens_left, text.remaining)
            batch.append((text, count))
            tokens_left -= count
        while self._queue and self._free_slots and tokens_left > 0:
            job = self._queue[0]
            length = len(job.texts[job.begun])
            if self._non_causal and length > tokens_left:
                break  # it is computed whole
            text = TextSequence(job, job.begun, self._free_slots.pop())
            self._running.append(text)
            batch.append((text, min(tokens_left, length)))
            tokens_left -= min(tokens_left, length)
            job.begun += 1
            self._queue.popleft()
            if job.begun < len(job.texts):
                self._queue.append(job)
        return [(text, count) for text, count in batch if count]

    def _postprocess(self, batch: list[tuple[TextSequence, int]]) -> None:
        """Take each text's rows from the batch, and finish those that are complete."""
        ranks = self._pooling is Pooling.RANK
        rows = None if ranks else self._rows(sum(count for _, count in batch))
        start = 0
        for text, count in batch:
            text.computed += count
            if rows is not None:
                text.rows.append(rows[start : start + count].copy())
                start += count
            if text.remaining == 0:
                self._finish(text, self._score(text.slot) if ranks else np.concatenate(text.rows))

    def _rows(self, count: int) -> Vectors:
        """Return a row for each token of the batch, in its order."""
        memory = llama.llama_get_embeddings(self._model.handle)
        return np.ctypeslib.as_array(memory, (count, self._width))

    def _score(self, slot: int) -> Vectors:
        """Return the classifier's score of a pair: its first label is the relevance."""
        memory = llama.llama_get_embeddings_seq(self._model.handle, slot)
        return np.ctypeslib.as_array(memory, (1,)).copy()

    def _finish(self, text: TextSequence, output: Vectors) -> None:
        self._release(text)
        job = text.job
        if isinstance(job.request, EmbedRequest):
            output = pooled(output, job.request, job.request.pooling or self._pooling)
        job.results[text.index] = output
        if job.complete:
            del self._jobs[job.id]
            self._emit(result_of(job))

    def _release(self, text: TextSequence) -> None:
        self._running.remove(text)
        self._model.remove_cells(text.slot)
        self._free_slots.append(text.slot)

    def _refuse(self, job: Job, error: GenerationFailed) -> None:
        for text in [text for text in self._running if text.job is job]:
            self._release(text)
        if job in self._queue:
            self._queue.remove(job)
        del self._jobs[job.id]
        self._emit(RequestError(request_id=job.id, code=error.code, message=str(error)))


def pooled(rows: Vectors, request: EmbedRequest, pooling: Pooling) -> Vectors:
    """Return a text's vector (with pooling NONE its rows), shortened and normalized as the request
    asks, as little-endian float32."""
    match pooling:
        case Pooling.MEAN:
            vectors = rows.mean(axis=0, dtype=np.float64, keepdims=True)
        case Pooling.CLS:
            vectors = rows[:1]
        case Pooling.LAST:
            vectors = rows[-1:]
        case _:
            vectors = rows
    vectors = vectors[:, : request.dimensions].astype(np.float64)
    if request.normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1)
    result: Vectors = vectors.astype("<f4")
    return result


def result_of(job: Job) -> Embedded | Reranked:
    """Make the event of a job whose texts are all computed."""
    tokens = tuple(len(text) for text in job.texts)
    results = [job.results[i] for i in range(len(job.texts))]
    if isinstance(job.request, RerankRequest):
        scores = tuple(float(each[0]) for each in results)
        return Reranked(request_id=job.id, scores=scores, tokens=tokens)
    vectors = tuple(each.tobytes() for each in results)
    return Embedded(request_id=job.id, vectors=vectors, tokens=tokens)


def _too_long(name: str, tokens: str, limit: int) -> ContextOverflow:
    return ContextOverflow(
        f"{name} has {tokens} tokens, and this model was loaded for at most {limit}. Send shorter "
        "texts, ask for truncation, or load it with a larger context (--ctx)."
    )


_SLOTS = ("{query}", "{document}")
"""Where a template for ranking has the two texts."""


def _user(text: str) -> Message:
    return Message(role=Role.USER, content=text)


class PairTokenizer:
    """Tokens of a query with a document: by the model's own template
    ("tokenizer.chat_template.rerank"), or else with the vocabulary's special tokens around the two,
    as llama-server's `format_prompt_rerank`."""

    def __init__(self, model: Model) -> None:
        self._vocab = model.vocab
        before, after = model.vocab.strip_words
        self._words = ControlWords(
            () if model.settings.parse_special else model.vocab.control_words,
            strip_before=before,
            strip_after=after,
        )
        native = llama.llama_get_model(model.handle)
        template = llama.llama_model_chat_template(native, b"rerank")
        self._template = template.decode("utf-8", "replace") if template else None
        self._query: tuple[str, list[int]] = ("", [])
        """The last query and its tokens: it is the same for all documents of a request."""

    def tokens(self, query: str, document: str, *, at_most: int | None = None) -> list[int]:
        """Return the tokens of a pair; of a document that makes it longer than `at_most` only the
        beginning."""
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
        marked = self._words.mark([_user(query), _user(document)], ())
        named = dict(zip(_SLOTS, (each.content for each in marked.messages), strict=True))
        text = re.sub("|".join(map(re.escape, _SLOTS)), lambda match: named[match[0]], template)
        pieces = self._words.stripped(self._words.pieces(text, marked.mark))
        return [
            token
            for piece in pieces
            for token in self._vocab.tokenize(
                piece, special=not isinstance(piece, LiteralText), ends=False
            )
        ]

    def _plain(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, special=False, ends=False)

    def _joined(self, query: list[int], document: list[int], at_most: int | None) -> list[int]:
        vocab = self._vocab.handle
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
