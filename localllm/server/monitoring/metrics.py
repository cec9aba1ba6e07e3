"""The counters behind `/metrics`, in one registry that belongs to one server.

Two families. `llamacpp:*` are llama-server's own names, without labels, so that boards made for it
work; they count all models together. `localllm_*` are by model. A label is the name of an installed
model, of a key, a device, or a word of ours: never a client's text, so their number is bounded.

The llama-server names that are missing here are `spec_decode_num_drafts_total`, which the engine
does not count, and `kv_cache_*`, which llama-server itself has given up.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from localllm.engine.messages import (
    CacheUsage,
    Finished,
    GenerateEvent,
    HostCacheStats,
    PromptProgress,
    Token,
)
from localllm.server.request_record import RequestRecord, current_record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_RATE_WINDOW_S = 60.0
_RATE_SAMPLES = 4096

# A series `_created` beside every counter is of no use to anybody here. The switch is the
# library's, which nothing else in this process uses, and has no annotation.
disable_created_metrics()  # type: ignore[no-untyped-call]


class ServerMetrics:
    """What a server counts. Its methods are called by `ServedModels` and the middleware."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.registry = CollectorRegistry(auto_describe=False)
        self._make_engine_counters()
        self._make_request_counters()
        self._make_model_counters()

    def _make_engine_counters(self) -> None:
        """Make those of llama-server (tools/server/server-task.cpp, b10519)."""

        def counter(name: str, text: str) -> Counter:
            return Counter(f"llamacpp:{name}", text, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"llamacpp:{name}", text, registry=self.registry)

        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens computed.")
        self.prompt_cached = counter("prompt_tokens_cached", "Prompt tokens taken from the cache.")
        self.prompt_seconds = counter("prompt_seconds", "Time of computing prompts.")
        self.predicted_tokens = counter("tokens_predicted", "Tokens generated.")
        self.predicted_seconds = counter("tokens_predicted_seconds", "Time of generating tokens.")
        self.drafted = counter("spec_decode_num_draft_tokens", "Tokens drafted.")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Drafted tokens accepted.")
        self.decodes = counter("n_decode", "Calls of llama_decode, for answers that have ended.")
        self._decodes, self._batches = 0.0, 0
        gauge("n_busy_slots_per_decode", "Mean of the answers in a llama_decode.").set_function(
            lambda: self._batches / self._decodes if self._decodes else 0.0
        )
        self._tokens_max = gauge("n_tokens_max", "Most tokens of a prompt with its answer.")
        self._longest = 0
        self.processing = gauge("requests_processing", "Requests being computed.")
        self.deferred = gauge("requests_deferred", "Requests that wait.")
        self.prompt_rate = Rate(self.clock)
        self.predicted_rate = Rate(self.clock)
        gauge(
            "prompt_tokens_seconds", "Prompt tokens/s of the requests of the last minute."
        ).set_function(self.prompt_rate.value)
        gauge(
            "predicted_tokens_seconds", "Generated tokens/s of the requests of the last minute."
        ).set_function(self.predicted_rate.value)

    def _make_request_counters(self) -> None:
        def histogram(name: str, text: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(
                f"localllm_{name}", text, ("model",), buckets=tuple(buckets), registry=self.registry
            )

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"localllm_{name}", text, labels, registry=self.registry)

        self.running = Gauge(
            "localllm_requests_running", "Requests being computed.", ("model",),
            registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "localllm_requests_waiting", "Requests that wait for a slot or for their model.",
            ("model",), registry=self.registry,
        )  # fmt: skip
        self.ttft = histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _SECONDS
        )
        self.queue = histogram("queue_seconds", "Waiting for a slot of the engine.", _SECONDS)
        self.token_time = histogram(
            "time_per_output_token_seconds", "Mean between two tokens of an answer.", _TOKEN_SECONDS
        )
        self.duration = histogram(
            "request_duration_seconds", "From a request to the end of its answer.", _SECONDS
        )
        self.model_prompt = counter("prompt_tokens", "Tokens of prompts, cached included.", "model")
        self.model_cached = counter("cached_tokens", "Prompt tokens from the cache.", "model")
        self.sources = counter(
            "prompt_source_tokens", "Prompt tokens, by where they came from.", "model", "source"
        )
        self.misses = counter(
            "cache_misses", "Prompts that were known but for a part, by what broke them.",
            "model", "reason",
        )  # fmt: skip
        self.lost = counter(
            "cache_lost_tokens", "Known tokens that were computed again.", "model", "reason"
        )
        self.host_states = Gauge(
            "localllm_host_cache_states", "Conversations in host memory, without a slot.",
            ("model",), registry=self.registry,
        )  # fmt: skip
        self.host_bytes = Gauge(
            "localllm_host_cache_bytes", "What they take.", ("model",), registry=self.registry
        )
        self.host_evictions = counter(
            "host_cache_evictions", "Conversations that host memory had no room for.", "model"
        )
        self._host_evicted: dict[str, int] = {}
        self.model_completion = counter("completion_tokens", "Tokens of answers.", "model")
        self.finished = counter(
            "generations", "Prompts answered, by the reason of the end.", "model", "reason"
        )
        self.http = counter(
            "http_requests", "Answers, by method, route and status.", "method", "route", "status"
        )
        self.key_requests = counter("key_requests", "Requests, by key.", "key")
        self.key_tokens = counter("key_tokens", "Tokens of prompts and answers, by key.", "key")

    def _make_model_counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"localllm_{name}", text, labels, registry=self.registry)

        self.loads = counter("model_loads", "Loads that ended, by result.", "model", "result")
        self.load_time = Histogram(
            "localllm_model_load_seconds", "Time of a load.", ("model",), buckets=_LOAD_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.evictions = counter("model_evictions", "Unloads that made room for another.", "model")
        self.unloads = counter("model_unloads", "Unloads for any other reason.", "model")
        self.crashes = counter("engine_crashes", "Engines that ended by themselves.", "model")

    # --- models ---

    def load_finished(self, model: str, seconds: float, *, failed: bool = False) -> None:
        """Count a load that has ended."""
        self.loads.labels(model, "failed" if failed else "ok").inc()
        if not failed:
            self.load_time.labels(model).observe(seconds)

    def evicted(self, model: str) -> None:
        """Count a model that was unloaded to make room for another."""
        self.evictions.labels(model).inc()
        self._forget_host_cache(model)

    def unloaded(self, model: str) -> None:
        """Count a model that was unloaded because it was idle, or because somebody wanted it."""
        self.unloads.labels(model).inc()
        self._forget_host_cache(model)

    def crashed(self, model: str) -> None:
        """Count an engine that ended by itself."""
        self.crashes.labels(model).inc()
        self._forget_host_cache(model)

    # --- requests ---

    def generation(self, model: str) -> "Generation":
        """Make the measurement of one prompt that is answered by `model`."""
        return Generation(self, model)

    def count_running(self, model: str, change: int) -> None:
        """Count a request that begins to be computed (1) or no longer is (-1)."""
        self.running.labels(model).inc(change)
        self.processing.inc(change)

    def running_of(self, model: str) -> int:
        """The number of requests that `model` computes now."""
        labels = {"model": model}
        return int(self.registry.get_sample_value("localllm_requests_running", labels) or 0)

    def count_waiting(self, model: str, change: int) -> None:
        """Count a request that begins to wait (1) or no longer does (-1)."""
        self.waiting.labels(model).inc(change)
        self.deferred.inc(change)

    def count_decodes(self, calls: float, answers: int) -> None:
        """Count calls of llama_decode, and the answers in each of them together."""
        self._decodes += calls
        self._batches += answers
        self.decodes.inc(calls)

    def note_host_cache(self, model: str, stats: HostCacheStats) -> None:
        """Note what the engine of `model` has in host memory; it counts from its load on."""
        self.host_states.labels(model).set(stats.states)
        self.host_bytes.labels(model).set(stats.size_bytes)
        before = self._host_evicted.get(model, 0)
        more = stats.evicted - before if stats.evicted >= before else stats.evicted
        self._host_evicted[model] = stats.evicted
        self.host_evictions.labels(model).inc(more)

    def _forget_host_cache(self, model: str) -> None:
        self._host_evicted.pop(model, None)
        for gauge in (self.host_states, self.host_bytes):
            gauge.labels(model).set(0)

    def note_length(self, tokens: int) -> None:
        """Note the tokens of a prompt with its answer."""
        if tokens > self._longest:
            self._longest = tokens
            self._tokens_max.set(tokens)

    def read(self, model: str, prompt_tokens: int) -> None:
        """Count texts that were embedded or ranked."""
        self.model_prompt.labels(model).inc(prompt_tokens)
        record = current_record()
        if record is not None:
            record.model = model
            record.prompt_tokens += prompt_tokens
            _charge(record, prompt_tokens)

    def request_finished(
        self, record: RequestRecord, *, method: str, route: str, status: int, seconds: float
    ) -> None:
        """Count a request that has been answered. `route` is one of ours, not the path."""
        self.http.labels(method, route, str(status)).inc()
        if record.model is not None:
            self.duration.labels(record.model).observe(seconds)
        if record.caller is not None:
            self.key_requests.labels(record.caller.name).inc()
            tokens = record.prompt_tokens + record.completion_tokens
            self.key_tokens.labels(record.caller.name).inc(tokens)

    def add_collector(self, collector: Collector) -> None:
        """Add what is read when somebody looks: memory, states."""
        self.registry.register(collector)

    def exposition(self) -> bytes:
        """Write all of it in Prometheus's text format."""
        return generate_latest(self.registry)


class Generation:
    """One prompt and its answers, from the request to the last event: a context manager, whose end
    is the end of the request, whatever ended it."""

    def __init__(self, metrics: ServerMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._record = current_record()
        self._running = False
        self._prompt: int | None = None
        self._prompt_ended = False
        self._tokens: dict[int, int] = {}
        """Tokens of each answer that came one by one; its end says how many there were."""

    def __enter__(self) -> "Generation":
        self._started = self._metrics.clock()
        if self._record is not None:
            self._record.model = self._model
        self._metrics.count_waiting(self._model, 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._running:
            self._metrics.count_running(self._model, -1)
        else:
            self._metrics.count_waiting(self._model, -1)

    def note(self, event: GenerateEvent) -> None:
        """Count an event of the engine."""
        match event:
            case Token(of_prompt=False, index=index):
                self._begin()
                self._note_token(index)
            case PromptProgress(processed=processed, total=total):
                if processed > 0:  # the first one comes when it begins to wait
                    self._begin()
                self._note_prompt(total)
            case Finished():
                self._begin()
                self._note_end(event)

    def _begin(self) -> None:
        if not self._running:
            self._running = True
            self._metrics.count_waiting(self._model, -1)
            self._metrics.count_running(self._model, 1)

    def _note_prompt(self, tokens: int) -> None:
        record = self._record
        if record is not None:
            more = tokens - (self._prompt or 0)
            record.prompt_tokens += more
            _charge(record, more)
        self._prompt = tokens

    def _note_token(self, index: int) -> None:
        record = self._record
        if not self._tokens:
            now = self._metrics.clock()
            self._metrics.ttft.labels(self._model).observe(now - self._started)
            if record is not None and record.first_token is None:
                record.first_token = now
        self._tokens[index] = self._tokens.get(index, 0) + 1
        if record is not None:
            record.completion_tokens += 1
            _charge(record, 1)

    def _note_end(self, end: Finished) -> None:
        metrics, model, record = self._metrics, self._model, self._record
        if record is not None:
            more = end.completion_tokens - self._tokens.get(end.index, 0)
            record.completion_tokens += more
            _charge(record, more)
        metrics.finished.labels(model, end.reason.value).inc()
        metrics.model_completion.labels(model).inc(end.completion_tokens)
        metrics.predicted_tokens.inc(end.completion_tokens)
        metrics.drafted.inc(end.timings.drafted)
        metrics.accepted.inc(end.timings.accepted)
        metrics.count_decodes(end.batch_share, end.batches)
        if end.host_cache is not None:
            metrics.note_host_cache(model, end.host_cache)
        metrics.note_length(end.prompt_tokens + end.completion_tokens)
        if (rate := end.timings.decode_tps) and end.completion_tokens > 1:
            # The first token comes out of the prompt: n tokens are n - 1 steps.
            steps = end.completion_tokens - 1
            metrics.predicted_seconds.inc(steps / rate)
            metrics.predicted_rate.add(steps, steps / rate)
            metrics.token_time.labels(model).observe(1 / rate)
        if not self._prompt_ended:  # the other answers are to the same prompt
            self._prompt_ended = True
            self._note_prompt(end.prompt_tokens)
            self._note_read(end)

    def _note_read(self, end: Finished) -> None:
        metrics = self._metrics
        computed = max(0, end.prompt_tokens - end.cached_tokens)
        metrics.prompt_tokens.inc(computed)
        metrics.prompt_cached.inc(end.cached_tokens)
        metrics.model_prompt.labels(self._model).inc(end.prompt_tokens)
        metrics.model_cached.labels(self._model).inc(end.cached_tokens)
        if end.timings.cache is not None:
            self._note_cache(end.timings.cache)
        metrics.queue.labels(self._model).observe(max(0.0, end.timings.queue_s))
        if rate := end.timings.prefill_tps:
            metrics.prompt_seconds.inc(computed / rate)
            metrics.prompt_rate.add(computed, computed / rate)
        if self._record is not None:
            self._record.cached_tokens += end.cached_tokens

    def _note_cache(self, cache: CacheUsage) -> None:
        sources = {
            "own": cache.own,
            "shared": cache.shared,
            "host": cache.host,
            "checkpoint": cache.checkpoint,
            "computed": cache.computed,
        }
        for source, tokens in sources.items():
            self._metrics.sources.labels(self._model, source).inc(tokens)
        if (miss := cache.miss) is not None:
            self._metrics.misses.labels(self._model, miss.reason.value).inc()
            self._metrics.lost.labels(self._model, miss.reason.value).inc(miss.lost_tokens)


class Rate:
    """Tokens/s of what ended in the last minute; 0 when nothing did."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended: deque[tuple[float, int, float]] = deque(maxlen=_RATE_SAMPLES)

    def add(self, tokens: int, seconds: float) -> None:
        """Add a request that has ended."""
        self._ended.append((self._clock(), tokens, seconds))

    def value(self) -> float:
        """Return the rate now."""
        oldest = self._clock() - _RATE_WINDOW_S
        while self._ended and self._ended[0][0] < oldest:
            self._ended.popleft()
        seconds = sum(each[2] for each in self._ended)
        return sum(each[1] for each in self._ended) / seconds if seconds > 0 else 0.0


def _charge(record: RequestRecord, tokens: int) -> None:
    if record.charge is not None and tokens:
        record.charge(tokens)
