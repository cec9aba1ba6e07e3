"""The forward pass as a graph of temporaries: what attention allocates.

Follows `llm_graph_context` (`src/llama-graph.cpp`) and the graphs of `src/models/*.cpp` in
llama.cpp b11434, node by node in the order in which they are computed. Which parts a layer has is
read from the names of its tensors. Widths are elements of F32 unless a name says otherwise.
"""

from dataclasses import dataclass

from localllm.core.architectures import Memory
from localllm.core.footprint.arena import Graph
from localllm.core.footprint.cache import Cells, cells, flash, shift_width, state_width, ubatch
from localllm.core.load import KvType, LoadSettings
from localllm.core.model import ModelSpec
from localllm.core.once import once
from localllm.core.quants import BLOCKS, GgmlType

_FLOAT, _HALF, _INDEX = 4, 2, 8
_LAYER_NORM_NAMES = """
    bert bloom chameleon codeshell cohere2 command-r dbrx falcon gpt2 gptneox jais jais2
    jina-bert-v2 jina-bert-v3 modern-bert mpt nemotron nomic-bert nomic-bert-moe olmo orion phi2
    rwkv6 rwkv7 stablelm starcoder starcoder2
"""
_LAYER_NORM = frozenset(_LAYER_NORM_NAMES.split())
"""Architectures that norm with mean and variance (LLM_NORM in their file); the others with RMS."""
_LIKE_LAYERS = 4
_NORMED_AFTER_ROPE = {"llama4"}
_ROPE_WHERE_SLIDING = {"cohere2", "exaone4", "llama4"}
_FETCHED_LATE = {"qwen3next", "qwen35", "qwen35moe", "falcon-h1"}
_WITHOUT_ROPE = {"jamba", "nemotron_h", "nemotron_h_moe"}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """The inputs of one cache's attention: indices, mask, and rotations of a quantized cache."""

    keys: int
    values: int
    mask: int
    turn_key: int | None
    turn_value: int | None
    cells: int


class Pass:
    """One micro-batch through a model, written down as a graph."""

    def __init__(self, spec: ModelSpec, settings: LoadSettings) -> None:
        self.spec = spec
        self.settings = settings
        self.graph = Graph()
        self.flash = flash(spec, settings)
        self.cells: Cells = cells(spec, settings)
        self.sequences = settings.parallel
        # `graph_reserve` rounds up to whole sequences
        self.tokens = -(-ubatch(settings) // self.sequences) * self.sequences
        self.outputs = min(ubatch(settings), self.sequences)
        self.rows = self.tokens  # rows that the current layer still computes
        self.width = spec.embedding
        self.layer_norm = spec.architecture in _LAYER_NORM
        self.shapes = by_layer(spec)
        self.outside: Shapes = self.shapes.get(None, {})
        self.order = self._distinct()
        self._token_input = self.graph.input(_HALF * 2 * self.tokens)
        self.deepstack = spec.integer("n_deepstack_layers")
        # inp_embd: reserved for vectors, unused
        self.graph.input(self.size(self.width * (1 + self.deepstack)))
        self.position = self.graph.input(_FLOAT * self.tokens * self._position_parts())
        self.attention_inputs: dict[bool, AttentionInputs] = {}
        self.output_ids = -1
        self.encoder_mask = -1
        self.wide_input = -1
        self.first_value = -1  # RWKV-7's, which later layers read
        self.states: dict[int, tuple[int, int]] = {}

    def _position_parts(self) -> int:
        return 4 if self.spec.value("rope.dimension_sections") is not None else 1

    def _distinct(self) -> list[int]:
        """The layers to write down: of each run of like layers a few, for the allocator repeats
        itself, and always the last, which computes fewer rows."""
        spec = self.spec
        kinds = [
            (tuple(self.shapes[i].items()), spec.slides(i), spec.caches(i), spec.recurrent(i))
            for i in range(spec.layers)
        ]
        numbers = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
        kept, seen = [], dict[tuple[int, ...], int]()
        for i in range(spec.layers):
            around = tuple(numbers[kind] for kind in kinds[max(i - 1, 0) : i + 2])
            seen[around] = seen.get(around, 0) + 1
            if seen[around] <= _LIKE_LAYERS or i == spec.layers - 1:
                kept.append(i)
        return kept

    def size(self, width: int, rows: int | None = None) -> int:
        return _FLOAT * width * (self.rows if rows is None else rows)

    def embed(self) -> int:
        node = self.graph.node(self.size(self.width), self._token_input)
        if self.deepstack:  # room for image features beside each token (Qwen3-VL)
            node = self.wide_input = self.linear(self.width * (1 + self.deepstack), node)
        return node

    def linear(self, width: int, *parents: int) -> int:
        return self.graph.node(self.size(width), *parents)

    def wise(self, width: int, *parents: int) -> int:
        """An element-wise step, in place where ggml can."""
        return self.graph.over(self.size(width), *parents)

    def norm(self, node: int, width: int | None = None, *, bias: bool = False) -> int:
        """A norm and its weights. ggml can do an RMS norm in place, a layer norm not."""
        width = width or self.width
        node = self.linear(width, node) if self.layer_norm else self.wise(width, node)
        node = self.wise(width, node)
        return self.wise(width, node) if bias else node

    # inputs

    def add_attention_inputs(self) -> None:
        if self.spec.rules is not None and self.spec.rules.memory is Memory.NONE:
            self.encoder_mask = self.graph.input(
                (_HALF if self.flash else _FLOAT) * self.tokens * self.tokens
            )
            return
        for sliding in sorted(
            {self.spec.slides(i) for i in range(self.spec.layers) if self.spec.attends(i)}
        ):
            self.attention_inputs[sliding] = self._attention_input(sliding)

    def _attention_input(self, sliding: bool) -> AttentionInputs:
        spec, tokens = self.spec, self.tokens
        span = self.cells.window if sliding else self.cells.full
        like = [i for i in range(spec.layers) if spec.attends(i) and spec.slides(i) is sliding]
        transposed = (
            1
            if self.flash
            else max(spec.value_length(i) * spec.head_count_kv(i) for i in range(spec.layers))
        )
        key = {spec.key_length(i) for i in like}
        value = set() if spec.mla else {spec.value_length(i) for i in like}
        return AttentionInputs(
            keys=self.graph.input(_INDEX * tokens),
            values=self.graph.input(_INDEX * tokens * transposed),
            mask=self.graph.input((_HALF if self.flash else _FLOAT) * span * tokens),
            turn_key=None if spec.mla else self._turn(self.settings.kv_type_k, key, largest=True),
            turn_value=self._turn(self.settings.kv_type_v, value, largest=False),
            cells=span,
        )

    def _turn(self, kind: KvType, lengths: set[int], *, largest: bool) -> int | None:
        """The Hadamard rotation of a quantized cache (`build_input_k_rot`, `_v_rot`)."""
        if BLOCKS[GgmlType[kind.name]].elements == 1 or len(lengths) != 1:
            return None
        (length,) = lengths
        if length % 64:
            return None
        side = 64
        while largest and length % (side * 2) == 0:
            side *= 2
        return self.graph.input(_FLOAT * side * side)

    # recurrent state

    def fetch(self, layer: int) -> tuple[int, int]:
        """The states of a layer's sequences, gathered from the cache: the history and, for RWKV,
        the state itself (-1 for the others, which read it in place)."""
        if layer not in self.states:
            self.states[layer] = (self._gather(shift_width(self.spec)), self._gather_state())
        return self.states[layer]

    def _gather(self, width: int) -> int:
        return self.graph.node(_FLOAT * width * self.sequences)

    def _gather_state(self) -> int:
        if not self.spec.architecture.startswith("rwkv"):
            return -1
        return self._gather(state_width(self.spec))

    def fetch_first(self, layer: int) -> None:
        """Gather a recurrent layer's states before its norm, as most models do."""
        if self.spec.recurrent(layer) and self.spec.architecture not in _FETCHED_LATE:
            self.fetch(layer)

    def fetch_next(self, layer: int) -> None:
        """Gather the next recurrent layer's states already: the graph's order puts them before
        whatever this layer has not been asked for yet. An attention layer comes first."""
        if self.spec.architecture in _FETCHED_LATE:
            return
        for later in self.order[self.order.index(layer) + 1 :]:
            if self.spec.recurrent(later):
                self.fetch(later)
            if self.spec.recurrent(later) or self.spec.attends(later):
                return

    # attention

    def attend(self, layer: int, node: int, *, project: bool = True) -> int:
        """Attention of `node` (normed); the result is the projected output."""
        shapes = self.shapes[layer]
        if self.encoder_mask >= 0:
            mixed = self._uncached_attention(layer, node)
        elif "attn_kv_a_mqa.weight" in shapes and self.spec.mla:
            mixed = self._latent_attention(layer, node)
        else:
            mixed = self._plain_attention(layer, node)
        return self.project(layer, mixed) if project else mixed

    def _unturned(self, layer: int, mixed: int) -> int:
        if self.spec.mla or self.encoder_mask >= 0:
            return mixed
        rotation = self.attention_inputs[self.spec.slides(layer)].turn_value
        width = self.spec.head_count(layer) * self.spec.value_length(layer)
        return self._turned(mixed, width, rotation)

    def project(self, layer: int, mixed: int) -> int:
        """The output matrix, after a rotated cache's values are turned back."""
        shapes = self.shapes[layer]
        gated = shapes.get("attn_q.weight", (0, 0))[1] == 2 * shapes["attn_output.weight"][0]
        out = self.linear(self.width, mixed if gated else self._unturned(layer, mixed))
        return self.wise(self.width, out) if "attn_output.bias" in self.shapes[layer] else out

    def _plain_attention(self, layer: int, node: int) -> int:
        spec, shapes = self.spec, self.shapes[layer]
        inputs = self.attention_inputs[spec.slides(layer)]
        q_width = spec.head_count(layer) * spec.key_length(layer)
        k_width = spec.head_count_kv(layer) * spec.key_length(layer)
        v_width = spec.head_count_kv(layer) * spec.value_length(layer)
        gate = None
        if "attn_qkv.weight" in shapes:
            q, k, v = self._fused(layer, node, inputs)
        else:
            gated = shapes["attn_q.weight"][1] == 2 * q_width
            q_wide = self.linear(2 * q_width if gated else q_width, node)
            gate = q_wide if gated else None
            q = self._query(layer, q_wide, q_width)
            q = self._turned(q, q_width, inputs.turn_key)
            if spec.window:  # build_attn for two caches expands q, k, v; for one q, v, k
                k = self._key(layer, node, k_width, inputs)
                v = self._value(shapes, node, v_width, inputs)
            else:
                v = self._value(shapes, node, v_width, inputs)
                k = self._key(layer, node, k_width, inputs)
        self.graph.node(0, k, inputs.keys)
        self.graph.node(0, v, inputs.values)
        mixed = self._scores(layer, q, inputs)
        if gate is None:
            return mixed
        mixed = self._unturned(layer, mixed)  # Qwen3-Next: an output gate beside the query
        opened = self.wise(q_width, self.linear(q_width, gate))
        return self.graph.node(self.size(q_width), mixed, opened, onto=(opened,))

    def _fused(self, layer: int, node: int, inputs: AttentionInputs) -> tuple[int, int, int]:
        spec, shapes = self.spec, self.shapes[layer]
        q_width = spec.head_count(layer) * spec.key_length(layer)
        k_width = spec.head_count_kv(layer) * spec.key_length(layer)
        v_width = spec.head_count_kv(layer) * spec.value_length(layer)
        normed = "attn_q_norm.weight" in shapes
        wide = self.linear(shapes["attn_qkv.weight"][1], node)
        q = self._positioned(layer, wide, q_width, normed=normed)
        q = self._turned(q, q_width, inputs.turn_key)
        v = wide
        if inputs.turn_value is not None:
            v = self._turned(self.linear(v_width, wide), v_width, inputs.turn_value)
        k = self._positioned(layer, wide, k_width, normed=normed)
        return q, self._turned(k, k_width, inputs.turn_key), v

    def _query(self, layer: int, node: int, width: int) -> int:
        """Bias, norm and rotation of the query. It is read as a view (heads apart), and nothing is
        done in place over a view."""
        shapes = self.shapes[layer]
        if "attn_q.bias" in shapes:
            node = self.wise(width, node)
        return self._positioned(layer, node, width, normed="attn_q_norm.weight" in shapes)

    def _positioned(self, layer: int, node: int, width: int, *, normed: bool) -> int:
        if normed:
            node = self.linear(width, node)
            node = self.wise(width, node)
            return self.wise(width, node, self.position) if self.rotates(layer) else node
        if not self.rotates(layer):
            return node
        node = self.linear(width, node, self.position)
        return self.wise(width, node) if self.spec.architecture in _NORMED_AFTER_ROPE else node

    def rotates(self, layer: int) -> bool:
        """Whether the layer applies RoPE; some leave it out where they do not slide."""
        architecture, spec = self.spec.architecture, self.spec
        if architecture in _ROPE_WHERE_SLIDING:
            return spec.slides(layer) or not spec.window
        return architecture not in _WITHOUT_ROPE

    def _key(self, layer: int, node: int, width: int, inputs: AttentionInputs) -> int:
        shapes = self.shapes[layer]
        key = self.linear(width, node)
        if "attn_k.bias" in shapes:
            key = self.wise(width, key)
        key = self._positioned(layer, key, width, normed="attn_k_norm.weight" in shapes)
        return self._turned(key, width, inputs.turn_key)

    def _value(self, shapes: Shapes, node: int, width: int, inputs: AttentionInputs) -> int:
        value = self.linear(width, node)
        if "attn_v.bias" in shapes:
            value = self.wise(width, value)
        return self._turned(value, width, inputs.turn_value)

    def _turned(self, node: int, width: int, rotation: int | None) -> int:
        return node if rotation is None else self.linear(width, node, rotation)

    def _scores(self, layer: int, q: int, inputs: AttentionInputs) -> int:
        """`build_attn_mha`."""
        spec, heads = self.spec, self.spec.head_count(layer)
        out = heads * spec.value_length(layer)
        if self.flash:
            return self.linear(out, q, *self._halved(layer, inputs), inputs.mask)
        scores = self.linear(heads * inputs.cells, q)
        if spec.value("attn_logit_softcapping") is not None or spec.architecture == "gemma2":
            scores = self.wise(heads * inputs.cells, scores)
        scores = self.graph.node(
            self.size(heads * inputs.cells), scores, inputs.mask, onto=(scores,)
        )
        return self.linear(out, self.linear(out, scores))

    def _halved(self, layer: int, inputs: AttentionInputs) -> list[int]:
        """An F32 cache is cast to F16 for flash attention, layer by layer."""
        spec, settings = self.spec, self.settings
        heads = spec.head_count_kv(layer)
        lengths = (
            (settings.kv_type_k, spec.key_length(layer)),
            (settings.kv_type_v, 0 if spec.mla else spec.value_length(layer)),
        )
        rows = inputs.cells * self.cells.streams
        return [
            self.graph.node(_HALF * length * heads * rows)
            for kind, length in lengths
            if kind is KvType.F32 and length
        ]

    def _uncached_attention(self, layer: int, node: int) -> int:
        """An encoder's attention: the whole batch looks at itself."""
        spec, shapes = self.spec, self.shapes[layer]
        heads = spec.head_count(layer)
        width = heads * spec.key_length(layer)
        parts = [self.linear(width, node) for _ in range(3)]
        if "attn_q.bias" in shapes:
            parts = [self.wise(width, part) for part in parts]
        q, k, v = parts
        if self.flash:
            halves = [self.graph.node(_HALF * width * self.rows, part) for part in (k, v)]
            return self.linear(width, q, *halves, self.encoder_mask)
        turned = self.linear(width, v)
        scores = self.linear(heads * self.tokens, k, q)
        scores = self.wise(heads * self.tokens, scores, self.encoder_mask)
        return self.linear(width, self.linear(width, turned, scores))

    def _latent_attention(self, layer: int, node: int) -> int:
        """DeepSeek's attention with absorbed matrices (`deepseek2.cpp`)."""
        spec, shapes = self.spec, self.shapes[layer]
        inputs, heads = self.attention_inputs[False], spec.head_count(layer)
        rank, length = spec.integer("attention.kv_lora_rank"), spec.key_length(layer)
        rope = length - rank
        query = self._latent_query(shapes, node, heads)
        absorbed = self.linear(rank * heads, query)
        turned = self.linear(rope * heads, query, self.position)
        q = self.linear(length * heads, absorbed, turned)
        compressed = self.linear(length, node)
        value = self.wise(rank, self.linear(rank, compressed))
        key = self.linear(length, value, self.linear(rope, compressed, self.position))
        self.graph.node(0, key, inputs.keys)
        final = heads * spec.integer("attention.value_length_mla")
        if self.flash:
            mixed = self.linear(rank * heads, q, *self._halved(layer, inputs), inputs.mask)
        else:
            values = self._values_copied(rank, inputs)
            scores = self.linear(heads * inputs.cells, q)
            scores = self.graph.node(
                self.size(heads * inputs.cells), scores, inputs.mask, onto=(scores,)
            )
            mixed = self.linear(rank * heads, values, scores)
        return self.linear(final, self.linear(final, mixed))

    def _values_copied(self, rank: int, inputs: AttentionInputs) -> int:
        """Without flash attention the latent values are copied out of the keys ("v_cont")."""
        element = BLOCKS[GgmlType[self.settings.kv_type_k.name]].size_bytes
        return self.graph.node(element * rank * inputs.cells * self.cells.streams)

    def _latent_query(self, shapes: Shapes, node: int, heads: int) -> int:
        width = heads * self.spec.integer("attention.key_length_mla")
        if "attn_q_a.weight" not in shapes:
            return self.linear(width, node)
        rank = shapes["attn_q_a.weight"][1]
        return self.linear(width, self.norm(self.linear(rank, node), rank))

    # the end

    def pick(self, *nodes: int) -> tuple[int, ...]:
        """Keep only the rows whose logits are asked for, as the last layer does."""
        if self.output_ids < 0:
            raise ValueError("the graph has no output rows")
        self.rows = self.outputs
        return tuple(self.linear(self.width, node, self.output_ids) for node in nodes)


@once
def by_layer(spec: ModelSpec) -> dict[int | None, Shapes]:
    """Shapes of the loaded tensors by layer and by name within it; None for those outside."""
    layers: dict[int | None, Shapes] = {i: {} for i in range(spec.layers)}
    for tensor in spec.tensors:
        layer = tensor.layer
        if layer is None:
            layers.setdefault(None, {})[tensor.name] = tensor.shape
        elif layer < spec.layers:
            layers[layer][tensor.name.split(".", 2)[2]] = tensor.shape
    return layers
