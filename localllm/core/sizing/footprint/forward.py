"""The forward pass as a graph of temporaries: what the parts of all layers share.

Follows `llm_graph_context` (`src/llama-graph.cpp`) and the graphs of `src/models/*.cpp` in
llama.cpp b11434, node by node in the order in which they are computed. Which parts a layer has is
read from the names of its tensors. Widths are elements of F32 unless a name says otherwise.
"""

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
_LIKE_LAYERS = 4

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
        self.arch = spec.arch
        self.settings = settings
        self.graph = Graph()
        self.flash = flash(spec, settings)
        self.cells: Cells = cells(spec, settings)
        self.sequences = settings.parallel
        # `graph_reserve` rounds up to whole sequences
        self.tokens = -(-ubatch(settings) // self.sequences) * self.sequences
        self.outputs = min(ubatch(settings), settings.outputs)
        self.rows = self.tokens  # rows that the current layer still computes
        self.width = spec.embedding
        self.shapes = by_layer(spec)
        self.outside: Shapes = self.shapes.get(None, {})
        self.order = self._distinct()
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
        node = self.graph.node(self.size(width), *parents)
        rank = self._ranks.get(width)
        return node if rank is None else self._adapted(node, width, rank, parents)

    def _adapted(self, node: int, width: int, rank: int, parents: tuple[int, ...]) -> int:
        """What an adapter adds to a product (`build_lora_mm`). Which weights it changes is not
        looked at: every result of a width that it has counts as changed."""
        low = self.graph.node(self.size(rank), *parents)
        scaled = self.wise(width, self.graph.node(self.size(width), low))
        return self.graph.node(self.size(width), node, scaled, onto=(node,))

    def wise(self, width: int, *parents: int) -> int:
        """An element-wise step, in place where ggml can."""
        return self.graph.over(self.size(width), *parents)

    def norm(self, node: int, width: int | None = None, *, bias: bool = False) -> int:
        """A norm and its weights. ggml can do an RMS norm in place, a layer norm not."""
        width = width or self.width
        in_place = self.arch.norm is Norm.RMS
        node = self.wise(width, node) if in_place else self.linear(width, node)
        node = self.wise(width, node)
        return self.wise(width, node) if bias else node

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
        if not self.arch.layer_graph.is_rwkv:
            return -1
        return self._gather(state_width(self.spec))

    def fetch_first(self, layer: int) -> None:
        """Gather a recurrent layer's states before its norm, as most models do."""
        if self.spec.recurrent(layer) and not self.arch.gathers_state_late:
            self.fetch(layer)

    def fetch_next(self, layer: int) -> None:
        """Gather the next recurrent layer's states already: the graph's order puts them before
        whatever this layer has not been asked for yet. An attention layer comes first."""
        if self.arch.gathers_state_late:
            return
        for later in self.order[self.order.index(layer) + 1 :]:
            if self.spec.recurrent(later):
                self.fetch(later)
            if self.spec.recurrent(later) or self.spec.attends(later):
                return

    # the end

    def pick(self, *nodes: int) -> tuple[int, ...]:
        """Keep only the rows whose logits are asked for, as the last layer does."""
        if self.output_ids < 0:
            raise ValueError("the graph has no output rows")
        self.rows = self.outputs
        return tuple(self.linear(self.width, node, self.output_ids) for node in nodes)


@memoize
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
