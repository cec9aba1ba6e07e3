"""The forward pass as a graph of temporaries: the state and operations that all layers share.

Follows `llm_graph_context` (`src/llama-graph.cpp`) and the graphs of `src/models/*.cpp` in
llama.cpp b11434, node by node in the order in which they are computed. Which parts a layer has is
read from the names of its tensors. Widths are elements of F32 unless a name says otherwise.
"""

from collections import Counter
from dataclasses import dataclass

from localllm.core.memoize import memoize
from localllm.core.model.architecture import Norm
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.arena import Graph
from localllm.core.sizing.footprint.cache import (
    Cells,
    cells,
    flash,
    shift_width,
    state_width,
    ubatch,
)
from localllm.core.sizing.load import LoadSettings

_FLOAT, _HALF = 4, 2
_REPEATS = 4
"""Like layers in a row that are written down: after so many the allocator repeats itself."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name, in ggml order."""


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """The inputs of one cache's attention: indices, mask, and rotations of a quantized cache."""

    keys: int
    values: int
    mask: int
    rotation_k: int | None
    rotation_v: int | None
    cells: int


class GraphContext:
    """One micro-batch through a model, as a graph in the making (`llm_graph_context`).

    Methods that add a node return its index. `rows` are those that the current layer computes: a
    micro-batch's tokens, and after `select_outputs` only those whose logits are wanted.
    """

    def __init__(self, spec: ModelSpec, settings: LoadSettings) -> None:
        self.spec = spec
        self.arch = spec.arch
        self.settings = settings
        self.graph = Graph()
        self.flash = flash(spec, settings)
        self.cells: Cells = cells(spec, settings)
        self.sequences = settings.parallel
        # `graph_reserve` rounds up to whole sequences
        self.tokens = -(-ubatch(settings) // self.sequences) * self.sequences
        self.outputs = min(ubatch(settings), settings.outputs)
        self.rows = self.tokens
        self.width = spec.embedding
        self.shapes = shapes_by_layer(spec)
        self.shapes_outside: Shapes = self.shapes.get(None, {})
        self.layers = self._distinct_layers()
        pairs = sorted(pair for lora in settings.loras for pair in lora.pairs)
        self._ranks = {width: rank for rank, width in pairs}  # of each width the largest
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

    def _distinct_layers(self) -> list[int]:
        """List the layers to write down: `_REPEATS` of each run of like ones, and always the last,
        which computes fewer rows. A layer is like another when both neighbours are, too."""
        spec = self.spec
        kinds = [
            (tuple(self.shapes[i].items()), spec.slides(i), spec.caches(i), spec.recurrent(i))
            for i in range(spec.layers)
        ]
        numbers = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
        distinct, counts = [], Counter[tuple[int, ...]]()
        for i in range(spec.layers):
            around = tuple(numbers[kind] for kind in kinds[max(i - 1, 0) : i + 2])
            counts[around] += 1
            if counts[around] <= _REPEATS or i == spec.layers - 1:
                distinct.append(i)
        return distinct

    def size(self, width: int) -> int:
        """Return the bytes of the current rows at a width."""
        return _FLOAT * width * self.rows

    def embed(self) -> int:
        """Add the token embedding."""
        node = self.graph.node(self.size(self.width), self._token_input)
        if self.deepstack:  # Qwen3-VL: image features lie beside each token
            node = self.wide_input = self.linear(self.width * (1 + self.deepstack), node)
        return node

    def linear(self, width: int, *parents: int) -> int:
        """Add a matrix product, or whatever else needs a tensor of its own."""
        node = self.graph.node(self.size(width), *parents)
        rank = self._ranks.get(width)
        return node if rank is None else self._adapted(node, width, rank, parents)

    def _adapted(self, node: int, width: int, rank: int, parents: tuple[int, ...]) -> int:
        """Add an adapter's product to a weight's (`build_lora_mm`). Every result of a width that
        the adapter has counts as changed, whichever weight it belongs to."""
        low = self.graph.node(self.size(rank), *parents)
        scaled = self.elementwise(width, self.graph.node(self.size(width), low))
        return self.graph.node(self.size(width), node, scaled, in_place_of=(node,))

    def elementwise(self, width: int, *parents: int) -> int:
        """Add an element-wise operation, in place where ggml can."""
        return self.graph.elementwise(self.size(width), *parents)

    def norm(self, node: int, width: int | None = None, *, bias: bool = False) -> int:
        """Add a norm and its weights. ggml can do an RMS norm in place, a layer norm not."""
        width = width or self.width
        in_place = self.arch.norm is Norm.RMS
        node = self.elementwise(width, node) if in_place else self.linear(width, node)
        node = self.elementwise(width, node)
        return self.elementwise(width, node) if bias else node

    def gather_states(self, layer: int) -> tuple[int, int]:
        """Gather the states of a layer's sequences from the cache, if that was not done yet: the
        convolution's input and, for RWKV, the state itself (-1 for others, which read it there)."""
        if layer not in self.states:
            self.states[layer] = (
                self._gather_rows(shift_width(self.spec)),
                self._gather_rwkv_state(),
            )
        return self.states[layer]

    def _gather_rows(self, width: int) -> int:
        return self.graph.node(_FLOAT * width * self.sequences)

    def _gather_rwkv_state(self) -> int:
        if not self.arch.layer_graph.is_rwkv:
            return -1
        return self._gather_rows(state_width(self.spec))

    def gather_before_norm(self, layer: int) -> None:
        """Gather a recurrent layer's states before its norm, as most models do."""
        if self.spec.recurrent(layer) and not self.arch.gathers_state_late:
            self.gather_states(layer)

    def gather_next(self, layer: int) -> None:
        """Gather the next recurrent layer's states already, unless an attention layer comes first:
        the graph's order puts them before whatever of this layer is still to be computed."""
        if self.arch.gathers_state_late:
            return
        for later in self.layers[self.layers.index(layer) + 1 :]:
            if self.spec.recurrent(later):
                self.gather_states(later)
            if self.spec.recurrent(later) or self.spec.attends(later):
                return

    def select_outputs(self, *nodes: int) -> tuple[int, ...]:
        """Cut nodes to the rows whose logits are wanted, as the last layer does."""
        if self.output_ids < 0:
            raise ValueError("the graph has no output rows")
        self.rows = self.outputs
        return tuple(self.linear(self.width, node, self.output_ids) for node in nodes)


@memoize
def shapes_by_layer(spec: ModelSpec) -> dict[int | None, Shapes]:
    """Return the shapes of the loaded tensors by layer and by name within it; None: of no layer."""
    layers: dict[int | None, Shapes] = {i: {} for i in range(spec.layers)}
    for tensor in spec.tensors:
        layer = tensor.layer
        if layer is None:
            layers.setdefault(None, {})[tensor.name] = tensor.shape
        elif layer < spec.layers:
            layers[layer][tensor.name.split(".", 2)[2]] = tensor.shape
    return layers
