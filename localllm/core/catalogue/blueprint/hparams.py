"""The hyperparameters that a GGUF header would hold, read as numbers and per layer.

Keys are llama.cpp's (`llama-arch.cpp`) without the architecture's prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localllm.core.model.architecture import Architecture, ExpertLayers, Recurrence
from localllm.core.model.architectures import architecture_of

HeaderValue = str | int | float | bool | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerParams:
    """The hyperparameters of one layer that its tensors depend on. Widths in elements."""

    heads: int
    kv_heads: int
    ff: int
    recurrent: bool
    experts: bool
    window: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HParams:
    """The hyperparameters of a model (`llama_hparams`), from which all tensor shapes follow.

    `gguf` holds header keys without the architecture's prefix. `extra` names what a header does
    not say but the tensors show: biases ("qkv_bias", "output_bias", "ffn_bias", "expert_bias"),
    norms of queries and keys ("qk_norm"), fused matrices ("fused_qkv", "fused_experts"), a gate
    in an encoder ("gated_ffn"), rope factors ("rope_freqs", "rope_long_short"), "token_types", a
    "classifier", and what is missing ("no_ssm_norm", "shared_v": values are the keys).
    """

    architecture: str
    vocabulary: int
    context: int
    tied: bool
    extra: frozenset[str]
    gguf: Mapping[str, HeaderValue]

    @property
    def arch(self) -> Architecture:
        """The facts about the architecture that a header leaves out."""
        return architecture_of(self.architecture)

    def number(self, key: str, default: int | None = None) -> int:
        """Read a whole number; KeyError when it is absent and there is no default."""
        value = self.gguf.get(key, default)
        if not isinstance(value, int):
            raise KeyError(key)
        return value

    def at(self, key: str, layer: int, default: int | None = None) -> int:
        """Read a number that may differ by layer (an array, or one value for all)."""
        value = self.gguf.get(key, default)
        if isinstance(value, tuple):
            value = value[layer]
        if not isinstance(value, int):
            raise KeyError(key)
        return value

    @property
    def layers(self) -> int:
        """Every block, draft blocks included."""
        return self.number("block_count")

    @property
    def width(self) -> int:
        """n_embd."""
        return self.number("embedding_length")

    @property
    def uniform(self) -> bool:
        """True when all layers are surely alike, without looking at each."""
        return (
            self.arch.recurrence is not Recurrence.INTERVAL
            and self.arch.expert_layers is ExpertLayers.AFTER_DENSE
            and not self.number("leading_dense_block_count", 0)
            and not any(isinstance(value, tuple) for value in self.gguf.values())
        )

    @property
    def experts(self) -> int:
        """Routed experts a layer; 0 for a dense model."""
        return self.number("expert_count", 0)

    @property
    def experts_used(self) -> int:
        """Experts a token is routed to in a layer."""
        return self.number("expert_used_count", 0)

    def head_size(self, layer: LayerParams, part: str = "key") -> int:
        """Return the elements of one key or value head (n_embd_head_k, n_embd_head_v)."""
        if layer.window and f"attention.{part}_length_swa" in self.gguf:
            return self.number(f"attention.{part}_length_swa")
        return self.number(f"attention.{part}_length", self.width // max(layer.heads, 1))

    def layer(self, i: int) -> LayerParams:
        """Return the parameters of layer `i`."""
        heads = self.at("attention.head_count", i)
        kv_heads = self.at("attention.head_count_kv", i, heads)
        ff = self.at("feed_forward_length", i, 0)
        return LayerParams(
            heads=heads,
            kv_heads=kv_heads,
            ff=ff,
            recurrent=self._recurrent(i, kv_heads, ff),
            experts=self._has_experts(i, ff),
            window=self._window(i),
        )

    def _recurrent(self, i: int, kv_heads: int, ff: int) -> bool:
        if self.arch.recurrence is None:
            return False
        interval = self.number("full_attention_interval", self.arch.interval)
        return self.arch.recurrence.applies(
            i, kv_heads=kv_heads, feed_forward=ff, interval=interval
        )

    def _has_experts(self, i: int, ff: int) -> bool:
        no_ffn = self.arch.recurrence is Recurrence.NO_KV_HEADS_NO_FFN and ff == 0
        if not self.experts or no_ffn:
            return False
        key = self.arch.expert_layers.value
        match self.arch.expert_layers:
            case ExpertLayers.INTERLEAVED:
                return (i + 1) % self.number(key) == 0
            case ExpertLayers.ALTERNATE:
                return i % self.number(key) == 1
            case ExpertLayers.AFTER_DENSE:
                return i >= self.number(key, 0)

    def _window(self, i: int) -> bool:
        pattern = self.gguf.get("attention.sliding_window_pattern")
        return isinstance(pattern, Sequence) and not isinstance(pattern, str) and bool(pattern[i])
