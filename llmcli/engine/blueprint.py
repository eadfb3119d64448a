"""What a decoder-only transformer computes, as data: one forward runs them all.

A blueprint says everything about the arithmetic but the numbers: those are weights, by the names
of :func:`roles`. A family (:mod:`llmcli.engine.families`) makes a blueprint of a config; the
kernels, the packing and the decoder know nothing else about a model.

What a factor can be folded into weights is folded when they are read, and stands here no more:
a norm's offset (Gemma), a residual's factor and the logits' (Granite), interleaved rotation
(GPT-J), which is the other kind with rows of the query and key weights in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

NormKind = Literal["layer", "rms"]
Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "relu", "silu", "tanh"]
Placement = Literal["before", "after", "both", "post"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary positions (Su et al. 2021, "RoFormer"), any scaling already in the frequencies.

    Attributes:
        frequencies: Radians a position for each pair of dimensions, float32 values. Dimension
            ``i`` of a head turns with dimension ``i + len(frequencies)``; what is beyond twice
            their number stays.
        scale: Factor on sine and cosine (YaRN's and LongRoPE's attention factor).
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Where one layer differs from another.

    Attributes:
        rotary: Which of the blueprint's rotations; None where queries and keys do not turn.
        window: How many positions a token sees, itself among them; None for all.
        scale: Factor on the products of queries and keys.
    """

    rotary: int | None
    window: int | None
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A decoder-only transformer.

    Attributes:
        family: transformers' name of the model type.
        vocab_size: Rows of the embedding and of the head.
        width: Of the residual stream.
        inner: Of the feed-forward network.
        heads: Query heads.
        kv_heads: Key and value heads; ``heads`` is a multiple of it.
        head_size: Dimensions of a head.
        layers: One entry a layer, first to last.
        norm: Layer norm or root mean square, for all norms but those of queries and keys.
        epsilon: Added to the variance in every norm.
        placement: Of the norms of a sub-layer: *before* it, *after* it (on its output, before
            it is added), *both*, or *post* (on the sum).
        parallel: Whether attention and feed-forward read the same residual.
        shared_norm: Whether they share one norm; parallel ones only.
        query_key_norm: What normalises queries and keys; None for nothing.
        query_key_norm_whole: Over all heads together; else over each head.
        activation: Of the feed-forward network.
        gated: Whether it is ``down(activation(gate(x)) * up(x))``.
        positions: Rows of the learned position embedding that tokens can use; 0 for none.
        position_offset: Rows before that of position 0.
        rotaries: The rotations that layers name.
        alibi: A slope for each head (Press et al. 2021, "ALiBi"); empty for none.
        embedding_scale: Factor on token embeddings.
        embedding_norm: Whether a norm follows the embedding.
        final_norm: Whether a norm precedes the head.
        attention_cap: ``cap * tanh(score / cap)`` on attention scores; 0 for none.
        logit_cap: The same on logits; 0 for none.
        tied: Whether the head's weights are the embedding's.
    """

    family: str
    vocab_size: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    layers: tuple[Layer, ...]
    norm: NormKind
    epsilon: float
    activation: Activation
    tied: bool
    placement: Placement = "before"
    parallel: bool = False
    shared_norm: bool = False
    query_key_norm: NormKind | None = None
    query_key_norm_whole: bool = False
    gated: bool = False
    positions: int = 0
    position_offset: int = 0
    rotaries: tuple[Rotary, ...] = ()
    alibi: tuple[float, ...] = ()
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    final_norm: bool = True
    attention_cap: float = 0.0
    logit_cap: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.width, self.inner, self.heads, self.kv_heads)
        if min(*sizes, self.head_size) < 1 or self.heads % self.kv_heads:
            raise ValueError("sizes that make no transformer")
        if any(2 * len(each.frequencies) > self.head_size for each in self.rotaries):
            raise ValueError("more dimensions turn than a head has")
        known = [None, *range(len(self.rotaries))]
        if any(layer.rotary not in known for layer in self.layers):
            raise ValueError("a layer names a rotation that is not there")

    def to_json(self) -> dict[str, Any]:
        """Plain data; :meth:`from_json` gives the same blueprint again."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Blueprint:
        """Build a blueprint of what :meth:`to_json` returned.

        Raises:
            TypeError, ValueError, KeyError: it is something else.
        """
        rotaries = tuple(
            Rotary(frequencies=tuple(each["frequencies"]), scale=each["scale"])
            for each in data["rotaries"]
        )
        layers = tuple(Layer(**each) for each in data["layers"])
        rest = {**data, "rotaries": rotaries, "layers": layers, "alibi": tuple(data["alibi"])}
        return cls(**rest)


def roles(blueprint: Blueprint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (role, shape) of every weight that a model of this blueprint has.

    ``X.weight`` of a linear layer is [out, in], and a bias ``X.bias`` [out] may stand beside
    it. ``qkv`` stacks queries, keys and values; norms of queries and keys have a value for each
    dimension of each head.
    """
    width, inner, vocab = blueprint.width, blueprint.inner, blueprint.vocab_size
    yield "embedding.weight", (vocab, width)
    if blueprint.positions:
        yield "positions.weight", (blueprint.positions + blueprint.position_offset, width)
    if blueprint.embedding_norm:
        yield "embedding_norm.weight", (width,)
    queries = blueprint.heads * blueprint.head_size
    keys = blueprint.kv_heads * blueprint.head_size
    before = blueprint.placement in ("before", "both")
    for index in range(len(blueprint.layers)):
        at = f"layers.{index}."
        if before:
            yield f"{at}attention_norm.weight", (width,)
            if not blueprint.shared_norm:
                yield f"{at}mlp_norm.weight", (width,)
        if blueprint.placement != "before":
            yield f"{at}attention_post_norm.weight", (width,)
            yield f"{at}mlp_post_norm.weight", (width,)
        yield f"{at}qkv.weight", (queries + 2 * keys, width)
        if blueprint.query_key_norm:
            yield f"{at}query_norm.weight", (queries,)
            yield f"{at}key_norm.weight", (keys,)
        yield f"{at}attention_out.weight", (width, queries)
        if blueprint.gated:
            yield f"{at}gate.weight", (inner, width)
        yield f"{at}up.weight", (inner, width)
        yield f"{at}down.weight", (width, inner)
    if blueprint.final_norm:
        yield "final_norm.weight", (width,)
    if not blueprint.tied:
        yield "head.weight", (vocab, width)
