"""A model's header: the values read from a GGUF file, and the counts that follow from them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from localllm.core.memoize import memoize, memoize_each
from localllm.core.model.architecture import Architecture, Memory, Recurrence, Window
from localllm.core.model.architectures import architecture_of
from localllm.core.model.file_types import QUANT_LABELS
from localllm.core.model.quants import GgmlType
from localllm.errors import GgufError

MetadataValue = (
    str | int | float | bool | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bool]
)

_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERT = re.compile(r"\.ffn_(gate|up|down|gate_up)_(exps|chexps)(\.|$)")
MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS (`llama-hparams.h`): llama.cpp aborts above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of the file. `shape` is in ggml order (ne0, the contiguous one, first);
    `offset` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """The product of the shape."""
        return prod(self.shape)

    @property
    def layer(self) -> int | None:
        """The layer it belongs to ("blk.7..."); None for embeddings, output and norms."""
        return _layer_of(self.name)

    @property
    def expert(self) -> bool:
        """True for routed experts, of which a token reads only some."""
        return _is_expert(self.name)


@lru_cache(maxsize=1 << 16)  # the names repeat from model to model
def _layer_of(name: str) -> int | None:
    match = _LAYER.match(name)
    return int(match[1]) if match else None


@lru_cache(maxsize=1 << 16)
def _is_expert(name: str) -> bool:
    return _EXPERT.search(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A GGUF header that passed every check.

    `metadata` holds every key of the header; long arrays are lazy sequences. `data_offset` is
    where tensor data starts; `file_bytes` the real length of the file. The properties below
    follow llama.cpp b11434 (`llama_model_base::load_hparams`, `src/llama-hparams.cpp`); they
    raise GgufError when a key has a type that it cannot have.
    """

    architecture: str
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    version: int
    alignment: int
    data_offset: int
    file_bytes: int
    # the results of `memoize`
    _memo: dict[object, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    # labels

    @property
    def name(self) -> str | None:
        """The model's title, as the file states it."""
        return self._text("general.name")

    @property
    def license(self) -> str | None:
        """The licence as the file states it (an SPDX id in most files)."""
        return self._text("general.license")

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of the file: untrusted text."""
        return self._text("tokenizer.chat_template")

    @property
    def quant(self) -> str | None:
        """The file's label ("Q4_K_M"); None when it states none or an unknown one."""
        value = self.metadata.get("general.file_type")
        return QUANT_LABELS.get(value) if isinstance(value, int) else None

    @property
    def arch(self) -> Architecture:
        """The facts about the architecture that a header leaves out."""
        return architecture_of(self.architecture)

    # sizes

    @property
    @memoize
    def blocks(self) -> int:
        """Layers in the file, draft (next-token-prediction) blocks included."""
        return self._required("block_count", at_most=MAX_LAYERS)

    @property
    def draft_blocks(self) -> int:
        """Blocks at the end that only a draft context uses; llama.cpp does not load them."""
        return min(self._int("nextn_predict_layers", 0), self.blocks)

    @property
    @memoize
    def layers(self) -> int:
        """Layers that every token passes."""
        return self.blocks - self.draft_blocks

    @property
    @memoize
    def embedding(self) -> int:
        """Width of the residual stream."""
        return self._required("embedding_length")

    @property
    def context_train(self) -> int:
        """Tokens of context it was trained for."""
        return self._required("context_length")

    @property
    @memoize
    def vocabulary(self) -> int:
        """Tokens of the vocabulary: the tokenizer's list, else the header's count, else the
        rows of the embedding."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, Sequence) and not isinstance(tokens, str):
            return len(tokens)
        stated = self._int("vocab_size", 0)
        if stated:
            return stated
        return next((t.shape[-1] for t in self.tensors if t.name == "token_embd.weight"), 0)

    @memoize_each
    def feed_forward(self, layer: int) -> int:
        """Return the width of a layer's dense feed-forward part; 0 where it has none."""
        return self._at("feed_forward_length", layer, 0)

    # attention

    @memoize_each
    def head_count(self, layer: int) -> int:
        """Count the query heads."""
        return self._at("attention.head_count", layer, 0)

    @memoize_each
    def head_count_kv(self, layer: int) -> int:
        """Count the key and value heads; as many as query heads unless the header says fewer."""
        return self._at("attention.head_count_kv", layer, self.head_count(layer))

    @memoize_each
    def key_length(self, layer: int) -> int:
        """Return the width of one key head, in elements."""
        return self._head_length("key", layer)

    @memoize_each
    def value_length(self, layer: int) -> int:
        """Return the width of one value head, in elements."""
        return self._head_length("value", layer)

    def _head_length(self, which: str, layer: int) -> int:
        full = self._full_head_length(which)
        if self.slides(layer):
            return self._int(f"attention.{which}_length_swa", full)
        return full

    def _full_head_length(self, which: str) -> int:
        heads = self.head_count(0)
        key = f"attention.{which}_length"
        if heads:
            return self._int(key, self.embedding // heads)
        return self._int(key, 0) if self.arch.head_lengths_required else 0

    @property
    @memoize
    def mla(self) -> bool:
        """True for multi-head latent attention: one compressed key per token, no value cache."""
        return bool(
            self._int("attention.key_length_mla", 0) and self._int("attention.value_length_mla", 0)
        )

    @property
    @memoize
    def window(self) -> int:
        """Tokens that a sliding layer looks back; 0 when no layer slides."""
        rule = self._window_rule()
        if rule is None:
            return 0
        if rule.forced_size is not None:
            return rule.forced_size
        return self._int("attention.sliding_window", rule.size or 0)

    @memoize_each
    def slides(self, layer: int) -> bool:
        """Return True when this layer attends only within the window."""
        rule = self._window_rule()
        if rule is None:
            return False
        pattern = self.value("attention.sliding_window_pattern")
        if isinstance(pattern, Sequence) and not isinstance(pattern, str):
            return layer < len(pattern) and bool(pattern[layer])
        period = pattern if isinstance(pattern, int) and rule.period is not None else rule.period
        if period is None or layer >= self.layers:
            return False
        if period == 0:
            return True
        return layer % period != 0 if rule.dense_first else layer % period < period - 1

    @memoize
    def _window_rule(self) -> Window | None:
        """Return the architecture's window if this model has one (`swa_type` in `src/models/`)."""
        rule = self.arch.window
        if rule is None or (rule.only_layers is not None and self.layers != rule.only_layers):
            return None
        stated = self.value("attention.sliding_window")
        if rule.unless_zero:
            return None if stated == 0 else rule
        if rule.size is None and not stated:
            return None
        return rule

    # recurrence

    @memoize_each
    def recurrent(self, layer: int) -> bool:
        """Return True when this layer carries a recurrent state."""
        recurrence = self.arch.recurrence
        if recurrence is None or layer >= self.layers:
            return False
        interval = 1
        if recurrence is Recurrence.INTERVAL:
            stated = self.value("attention.recurrent_layers")
            if isinstance(stated, Sequence) and not isinstance(stated, str):
                return layer < len(stated) and bool(stated[layer])
            interval = self._int("full_attention_interval", self.arch.interval) or 1
        return recurrence.applies(
            layer,
            kv_heads=self.head_count_kv(layer),
            feed_forward=self.feed_forward(layer),
            interval=interval,
        )

    @memoize_each
    def attends(self, layer: int) -> bool:
        """Return True when this layer has a KV cache of its own or reads another layer's."""
        arch = self.arch
        if not arch.known:
            return layer < self.layers and self.head_count_kv(layer) > 0
        if arch.memory in (Memory.NONE, Memory.RECURRENT):
            return False
        if arch.recurrence is Recurrence.EVERY:
            return True
        if arch.recurrence is Recurrence.NO_KV_HEADS_NO_FFN:
            return not self.recurrent(layer) and self.feed_forward(layer) == 0
        return layer < self.layers and not self.recurrent(layer)

    @memoize_each
    def caches(self, layer: int) -> bool:
        """Return True when this layer owns keys and values (Gemma 3n's and 4's last ones share)."""
        if not self.attends(layer):
            return False
        owners = self.arch.kv_layers
        if self.arch.shares_kv:
            owners = self.blocks - self._int("attention.shared_kv_layers", 0)
        return owners is None or layer < owners

    # experts

    @property
    @memoize
    def experts(self) -> int:
        """Routed experts a layer; 0 for a dense model."""
        return self._int("expert_count", 0)

    @property
    @memoize
    def active_experts(self) -> int:
        """Experts a token is routed to in a layer (the most, where layers differ)."""
        return max((self.active_experts_in(i) for i in range(self.layers)), default=0)

    @memoize_each
    def active_experts_in(self, layer: int) -> int:
        """Count the experts that a token is routed to in this layer."""
        return self._at("expert_used_count", layer, 0)

    @property
    def parameters(self) -> int:
        """Every weight of the file, draft blocks included."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def active_parameters(self) -> int:
        """Weights that one token is multiplied with: of the routed experts only those chosen,
        no draft blocks, and one row of the input embedding counted as none unless it is also
        the output matrix."""
        total = 0.0
        for tensor in self.tensors:
            if tensor.layer is not None and tensor.layer >= self.layers:
                continue
            if tensor.expert and self.experts:
                used = self.active_experts_in(tensor.layer or 0)
                total += tensor.elements * used / self.experts
            elif tensor.name != "token_embd.weight" or self.tied:
                total += tensor.elements
        return round(total)

    @property
    @memoize
    def tied(self) -> bool:
        """True when the input embedding is also the output matrix."""
        names = {tensor.name for tensor in self.tensors}
        return "token_embd.weight" in names and "output.weight" not in names

    # reading the header

    def value(self, key: str) -> MetadataValue | None:
        """Read an architecture's own key, without its prefix; None when it is missing."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _required(self, key: str, *, at_most: int | None = None) -> int:
        value = self.value(key)
        if value is None:
            raise GgufError(f"the header has no {self.architecture}.{key}; the file is not usable")
        number = self._number(key, value)
        if number == 0 or (at_most is not None and number > at_most):
            limit = f"1 to {at_most}" if at_most else "at least 1"
            raise GgufError(f"{self.architecture}.{key} is {number}; it must be {limit}")
        return number

    def _int(self, key: str, default: int) -> int:
        value = self.value(key)
        return default if value is None else self._number(key, value)

    def integer(self, key: str, default: int = 0) -> int:
        """Read an architecture's own integer key, without its prefix."""
        return self._int(key, default)

    def _at(self, key: str, layer: int, default: int) -> int:
        """Read a key that is one number for all layers or an array with one for each."""
        value = self.value(key)
        if value is None:
            return default
        if isinstance(value, Sequence) and not isinstance(value, str):
            if layer >= len(value):
                return 0
            return self._number(key, value[layer])
        return self._number(key, value)

    def _number(self, key: str, value: MetadataValue) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            shown = f"{value!r:.40}"
            raise GgufError(f"{self.architecture}.{key} is {shown}; a whole number is needed")
        return value
