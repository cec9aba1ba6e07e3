"""The parts of `size` beside the memory of one load: capacity, rules of thumb, fine-tuning."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.console import Console

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import capacity, finetune, rules_of_thumb
from localllm.core.sizing.finetune import Method, TrainingMemory
from localllm.core.sizing.fit import Fit
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement import Budget
from localllm.core.sizing.rope import trained_context
from localllm.core.units import format_bytes
from localllm.runtime.find_model import SizedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The largest of each that fits here with the rest as it was given; None when nothing does,
    and `quant` also for a model of which only one file is at hand."""

    context: int | None
    parallel: int | None
    quant: str | None


def capacity_of(
    model: SizedModel, settings: LoadSettings, budget: Budget, draft: ModelSpec | None = None
) -> Capacity:
    """Find the largest of each that this machine has room for."""
    quants = model.quants
    trained = trained_context(model.spec, settings.rope)
    return Capacity(
        context=capacity.largest_context(
            model.spec,
            settings,
            budget,
            draft=draft,
            # who asks for more than it was trained for gets an answer that agrees with that
            beyond_training=trained is not None and settings.context > trained,
        ),
        parallel=capacity.most_parallel(model.spec, settings, budget, draft=draft),
        quant=capacity.largest_quant(quants, settings, budget, draft=draft) if quants else None,
    )


def print_capacity(
    console: Console, largest: Capacity, settings: LoadSettings, spec: ModelSpec
) -> None:
    if largest.context is None:
        console.print("No context fits here.")
    else:
        users = f" for each of {settings.parallel}" if settings.parallel > 1 else ""
        trained = trained_context(spec, settings.rope)
        beyond = trained is not None and largest.context > trained
        of_training = f" (it was trained for {spec.context_train})" if beyond else ""
        console.print(f"Largest context here{users}: {largest.context} tokens{of_training}")
    console.print(f"Conversations of {settings.context} tokens at once: {largest.parallel or 0}")
    if largest.quant is not None:
        console.print(f"Largest quant here: {largest.quant}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOfThumb:
    """A common rule of thumb beside our number for the same thing, in bytes."""

    rule: str
    bytes: int
    ours: str
    ours_bytes: int


def rules_for(spec: ModelSpec, fit: Fit) -> Iterator[RuleOfThumb]:
    """Apply the rules of `core/sizing/rules_of_thumb.py` to this model and this load."""
    needed, count = fit.footprint, spec.parameters
    width = needed.weights_bytes / max(1, count)
    yield RuleOfThumb(
        rule=f"{count / 1e9:.2f} B parameters x {width:.2f} bytes x {rules_of_thumb.OVERHEAD}",
        bytes=rules_of_thumb.memory_bytes(count, width),
        ours="everything this load needs",
        ours_bytes=needed.total_bytes,
    )
    yield RuleOfThumb(
        rule="2 x parameters to serve it in 16 bits",
        bytes=rules_of_thumb.serving_bytes(count),
        ours="the weights of this file",
        ours_bytes=needed.weights_bytes,
    )
    heads = spec.head_count(0)
    if heads and needed.kv_bytes:
        yield RuleOfThumb(
            rule="cache of one token with full multi-head attention",
            bytes=rules_of_thumb.kv_bytes_per_token(
                layers=spec.layers, hidden=spec.embedding, heads=heads, kv_heads=heads
            ),
            ours="of this model, on average over this context",
            ours_bytes=needed.kv_bytes // fit.settings.cells,
        )
    # What lies on a GPU passed through system memory, by the rule; mapped files need not.
    host = fit.placement.host
    yield RuleOfThumb(
        rule="the host must hold the weights once to load them",
        bytes=needed.weights_bytes,
        ours=f"its share of this load (mmap {'on' if fit.settings.mmap else 'off'})",
        ours_bytes=host.total_bytes,
    )


def print_rules(console: Console, spec: ModelSpec, fit: Fit) -> None:
    console.print("Rules of thumb:", style="dim")
    for each in rules_for(spec, fit):
        console.print(
            f"  {each.rule}: {format_bytes(each.bytes)}; "
            f"{each.ours}: {format_bytes(each.ours_bytes)}",
            style="dim",
        )
    tokens = fit.settings.context
    console.print(
        f"  {tokens} tokens of context: about {rules_of_thumb.words_of(tokens)} English words",
        style="dim",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The options of a fine-tune: `batch` sequences of `sequence` tokens at once."""

    method: Method
    rank: int
    batch: int
    sequence: int

    def memory(self, spec: ModelSpec) -> TrainingMemory:
        """Estimate its memory on one device. Raises GgufError for a header that lacks counts."""
        return finetune.training_memory(
            finetune.shape_of(spec),
            self.method,
            rank=self.rank,
            batch=self.batch,
            sequence=self.sequence,
        )

    def document(self, spec: ModelSpec) -> dict[str, object]:
        memory = self.memory(spec)
        return asdict(self) | asdict(memory) | {"total_bytes": memory.total_bytes}


_TRAINING_PARTS = (
    ("weights", "weights_bytes"),
    ("adapters", "adapter_bytes"),
    ("gradients", "gradient_bytes"),
    ("optimizer", "optimizer_bytes"),
    ("activations", "activation_bytes"),
    ("logits", "logits_bytes"),
)


def print_training(console: Console, training: Training, spec: ModelSpec) -> None:
    memory = training.memory(spec)
    rank = "" if training.method is Method.FULL else f", rank {training.rank}"
    parts = ", ".join(
        f"{label} {format_bytes(getattr(memory, name))}"
        for label, name in _TRAINING_PARTS
        if getattr(memory, name)
    )
    console.print(
        f"Fine-tuning ({training.method.value}{rank}, {training.batch} x {training.sequence} "
        f"tokens, AdamW, mixed precision): {format_bytes(memory.total_bytes)} on one device"
    )
    console.print(f"  {parts}", style="dim")
    console.print(f"  {memory.trained_parameters / 1e6:.1f} M parameters are trained", style="dim")
