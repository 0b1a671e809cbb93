"""A stack of equal layers: attention and MLP, each with a norm and a residual sum.

Legend: B batch, T query length, S key length, D embed, N heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from pretrainx.models import remat
from pretrainx.models.attention import Attention, KeysValues, LayerCache, Places, Visibility, attender, relative_buckets
from pretrainx.models.attention_kernels import balance
from pretrainx.models.layers import MLP, NORMS, Dense, dropout, normal, stack, weight
from pretrainx.parallel import pipeline
from pretrainx.parallel.shard import Partitioner

LAYER_IN = "layer_in"  # the name of what a pipeline's layers begin from, which they keep


def _all_but_weights(primitive: Any, *_: Any, **params: Any) -> bool:
    """Keeps what was computed. What only moves or renames numbers is done again: else the gathered weights of all layers would be kept."""
    if primitive.name == "name":
        return params["name"] != remat.WEIGHTS
    return primitive.name not in ("all_gather", "convert_element_type", "reshape", "transpose", "squeeze", "broadcast_in_dim", "slice")


def _in_a_pipeline(policy: Callable[..., Any] | None) -> Callable[..., Any]:
    """The policy of a visit to a stage: what its layers keep, and what each began from; without remat, all but the weights looked up."""

    def all_but_looked_up(primitive: Any, *args: Any, **params: Any) -> bool:
        return primitive.name not in ("dynamic_slice", "gather") and _all_but_weights(primitive, *args, **params)

    def keep(primitive: Any, *args: Any, **params: Any) -> Any:
        if primitive.name == "dot_general":  # all stages at once are a batch of products, which a policy should not take it for
            summed, (left, right) = params["dimension_numbers"]
            params |= {"dimension_numbers": (summed, (left[1:], right[1:]))}
        begun = primitive.name == "name" and params["name"] == LAYER_IN
        return True if begun else (policy or all_but_looked_up)(primitive, *args, **params)

    return keep


@dataclass(frozen=True)
class Memory:
    """What the layers of a decoder look up: an encoder's hidden states [B, S, D] (None: a cache has each layer's view of
    them), and the attention into them."""

    hidden: jax.Array | None
    attend: Callable[..., jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What a stack keeps of the tokens that it has read, so that the next need not read them again.

    own        keys and values, [layers, B, S, K, H] each; position p lies in slot p
    memory     the same of what an encoder gave, [layers, B, M, K, H], and `memory_ids` [B, M] is 1 where that is no padding
    """

    own: KeysValues
    memory: KeysValues | None = None
    memory_ids: jax.Array | None = None

    @classmethod
    def empty(cls, config: Any, partitioner: Partitioner, rows: int, length: int) -> "Cache":
        """Of no tokens yet, with room for `length`."""
        shape = (config.num_layers, rows, length, config.kv_heads, config.head_size)
        keys, values = (partitioner.constrain(jnp.zeros(shape, config.dtype), None, "batch", None, "kv", None) for _ in range(2))
        return cls((keys, values))

    @property
    def length(self) -> int:
        return self.own[0].shape[2]

    def rows(self, index: jax.Array) -> "Cache":
        """The cache of these rows, int[R]: rows may go on more than once, or not at all."""
        pick = lambda x: jnp.take(x, index, axis=1)  # noqa: E731
        memory = None if self.memory is None else jax.tree.map(pick, self.memory)
        ids = None if self.memory_ids is None else jnp.take(self.memory_ids, index, axis=0)
        return Cache(jax.tree.map(pick, self.own), memory, ids)


class Block(nnx.Module):
    """Attention, attention into a memory where `cross`, MLP; norms before each branch, or after each sum (`post_norm`)."""

    def __init__(self, config: Any, partitioner: Partitioner, *, cross: bool, rngs: nnx.Rngs):
        self.config, self.partitioner = config, partitioner
        num_writes = config.num_layers * (3 if cross else 2) if config.depth_scaled_init else 1

        def norm() -> Any:
            return NORMS[config.norm](config.d_model, dtype=config.param_dtype, rngs=rngs, eps=config.norm_eps)

        self.attention = Attention(config, partitioner, num_writes=num_writes, rngs=rngs)
        self.attention_norm = norm()
        self.mlp = MLP(config, partitioner, num_writes=num_writes, rngs=rngs)
        self.mlp_norm = norm()
        if cross:
            self.cross_attention = Attention(config, partitioner, num_writes=num_writes, rngs=rngs)
            self.cross_norm = norm()

    def __call__(
        self,
        x: jax.Array,
        places: Places,
        attend: Callable[..., Any],
        memory: Memory | None,
        cached: LayerCache | None = None,
        remembered: KeysValues | None = None,
        key: jax.Array | None = None,
        rows: jax.Array | None = None,
    ) -> tuple[jax.Array, KeysValues | None]:
        """`rows` are the places of x's rows in the batch, where x is a part of it."""
        keys = iter([None] * 3 if key is None else jax.random.split(key, 3))

        constrain, cuts = self.partitioner.constrain, self.partitioner.cuts_residual
        stream = ("batch", "residual", "embed")

        def read(x: jax.Array) -> jax.Array:
            return constrain(x, "batch", "length", "embed") if cuts else x

        def normed(norm: Any, x: jax.Array) -> jax.Array:
            # Done again in the backward pass: else its float32 copy of x, twice as large, would be kept in place of x.
            return (jax.checkpoint(norm) if self.partitioner.inside else norm)(x)

        def drop(branch: jax.Array) -> jax.Array:
            return dropout(constrain(branch, *stream) if cuts else branch, self.config.dropout, next(keys), rows)

        look_up = memory.hidden if memory is not None and remembered is None else remembered
        if self.config.post_norm:
            mixed, written = self.attention(read(x), places, attend, cached)
            x = self.attention_norm(x + drop(mixed))
            if memory is not None:
                x = self.cross_norm(x + drop(self.cross_attention(read(x), places, memory.attend, memory=look_up)[0]))
            x = self.mlp_norm(x + drop(self.mlp(read(x))))
        else:
            mixed, written = self.attention(read(normed(self.attention_norm, x)), places, attend, cached)
            x = constrain(x + drop(mixed), *stream)
            if memory is not None:
                x = x + drop(self.cross_attention(read(normed(self.cross_norm, x)), places, memory.attend, memory=look_up)[0])
            x = x + drop(self.mlp(read(normed(self.mlp_norm, x))))
        return constrain(x, *stream), written


class Stack(nnx.Module):
    """`stack(x, positions, sight) -> (hidden [B, T, D], cache)`: `num_layers` blocks, and a last norm where norms come before.

    x is [B, T, D], or of the embedding's own smaller size, which a projection brings to D (Lan 2020, section 3.1; ELECTRA).
    With `positions` "relative", a bias on the scores of each head by distance, which all layers share (Raffel 2020, section 2.1);
    `two_sided` has buckets for later keys too. With a key, `config.dropout` of what each branch adds is dropped.
    """

    def __init__(self, config: Any, partitioner: Partitioner, *, two_sided: bool, cross: bool = False, rngs: nnx.Rngs):
        D, dtype = config.d_model, config.param_dtype
        self.config, self.partitioner, self.two_sided = config, partitioner, two_sided
        self.blocks = stack(lambda r: Block(config, partitioner.of_stage, cross=cross, rngs=r), config.num_layers, rngs)
        if not config.post_norm:
            self.final_norm = NORMS[config.norm](D, dtype=dtype, rngs=rngs, eps=config.norm_eps)
        if config.embed_size != D:
            self.projection = Dense((config.embed_size, D), ("embedding", "embed"), std=config.init_std, dtype=dtype, rngs=rngs)
        if config.positions == "relative":
            shape = (config.relative_buckets, config.num_heads)
            self.relative_bias = weight(rngs, shape, ("buckets", "heads"), normal(D**-0.5), dtype)

    def __call__(
        self, x: jax.Array, positions: jax.Array, sight: Visibility, memory: Memory | None = None, cache: Cache | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:  # fmt: skip
        length = x.shape[1]
        key_length = length if cache is None else cache.length
        # Within a segment, distances are those in the row, and nothing is seen beyond it.
        queries = jnp.arange(length)[None] if cache is None else positions
        bias = self.bias(queries, key_length) if self.config.positions == "relative" else None
        by_row = bias is not None or memory is not None or key is not None  # these, and what dropout drops, lie in the row's order
        order = None if by_row or self.config.attention_window else balance.order_for(self.partitioner, sight, length)
        if order is not None:
            positions, sight = balance.reorder(order, positions, sight)
        pipelined = memory is None and cache is None and self.partitioner.pipelines(x.shape[0])

        def attends(sight: Visibility) -> Callable[..., Any]:
            return attender(self.config, self.partitioner.of_stage, sight, length, key_length, bias)

        if self.config.embed_size != self.config.d_model:
            x = self.partitioner.constrain(self.projection(x), "batch", "length", "embed")
        if order is not None:
            x = balance.exchange(x, self.partitioner)
        if pipelined:
            x = self.run_stages(x, positions, sight, attends, key)
        else:
            x, cache = self.run(x, Places.of(self.config, positions), attends(sight), memory, cache, key)
        if order is not None:
            x = balance.exchange(x, self.partitioner, back=True)
        x = x if self.config.post_norm else self.final_norm(x)
        return (self.partitioner.constrain(x, "batch", "length", "embed") if self.partitioner.cuts_residual else x), cache

    def run(
        self, x: jax.Array, places: Places, attend: Callable[..., Any], memory: Memory | None, cache: Cache | None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:  # fmt: skip
        """All layers in turn. One compiled layer serves all (scan), and rematerialisation goes by layer."""
        graph, weights = nnx.split(self.blocks)
        remembered = None if cache is None else cache.memory
        layer = self.layer(graph, places, attend, memory, keeps=cache is None)
        numbers = np.arange(self.config.num_layers)
        keys = None if key is None else jax.random.split(key, len(numbers))
        own = None if cache is None else cache.own
        x, own = self.in_turn(layer, (x, own), numbers, (numbers, weights, remembered, keys))
        return x, None if cache is None else replace(cache, own=own)

    def layer(
        self, graph: Any, places: Places, attend: Callable[..., Any], memory: Memory | None = None, *, keeps: bool = True,
        rows: jax.Array | None = None,
    ) -> Callable[..., Any]:  # fmt: skip
        """One layer as a step of a scan, `((x, keys and values), (number, weights, memory, key)) -> (carry, None)`, with the config's
        remat where it `keeps` something for a backward pass.
        """

        def layer(carry: tuple[jax.Array, Any], inputs: tuple[Any, Any, Any, Any]) -> tuple[tuple[jax.Array, Any], None]:
            (x, own), (number, layer_weights, layer_memory, layer_key) = carry, inputs
            cached = None if own is None else LayerCache(own, number)
            layer_weights = self.whole(layer_weights)
            return nnx.merge(graph, layer_weights)(x, places, attend, memory, cached, layer_memory, layer_key, rows), None

        policy = remat.policy(self.config.remat)
        if self.partitioner.inside and policy is None:
            policy = _all_but_weights
        if policy is None or not keeps:
            return layer
        return jax.checkpoint(layer, policy=policy, prevent_cse=not self.config.scan_layers)

    def in_turn(self, layer: Callable[..., Any], carry: Any, order: Any, inputs: Any) -> Any:
        """The carry after these layers: a scan over their stacked inputs, or one after the other where the config unrolls them."""
        if self.config.scan_layers:
            return jax.lax.scan(layer, carry, inputs)[0]
        for i in range(len(order)):
            carry, _ = layer(carry, jax.tree.map(lambda a: a[i], inputs))  # noqa: B023 - used at once
        return carry

    def run_stages(
        self, x: jax.Array, positions: jax.Array, sight: Visibility, attends: Callable[[Visibility], Any], key: jax.Array | None
    ) -> jax.Array:
        """All layers as a pipeline over the mesh's stages. What the layers read of each row goes by microbatch, and so do the masks."""
        schedule, mesh, inner = self.partitioner.schedule, self.partitioner.mesh, self.partitioner.of_stage
        assert schedule is not None
        graph, weights = nnx.split(self.blocks)
        weights = pipeline.by_stage(weights, schedule, mesh)
        keys = None if key is None else jax.random.split(key, self.config.num_layers)
        by_row = {"positions": positions, "segment_ids": sight.segment_ids, "bidirectional": sight.bidirectional}
        by_row["rows"] = None if key is None else jnp.arange(x.shape[0])

        def stage(x: jax.Array, weights: Any, numbers: jax.Array, own: dict[str, Any]) -> jax.Array:
            seen = replace(sight, segment_ids=own["segment_ids"], bidirectional=own["bidirectional"])
            layer = self.layer(graph, Places.of(self.config, own["positions"]), attends(seen), rows=own["rows"])

            def begun(carry: tuple[jax.Array, Any], inputs: Any) -> Any:
                return layer((checkpoint_name(carry[0], LAYER_IN), carry[1]), inputs)

            return self.in_turn(begun, (x, None), numbers, (numbers, weights, None, None if keys is None else keys[numbers]))[0]

        stream, keep = ("batch", "residual", "embed"), _in_a_pipeline(remat.policy(self.config.remat))
        x = pipeline.run(stage, x, weights, by_row, schedule, mesh, inner.constrain, stream, keep)
        return self.partitioner.constrain(x, *stream)

    def whole(self, weights: nnx.State) -> nnx.State:
        """One layer's weights as its products want them, where devices gather by themselves; else the compiler sees to it."""
        if not self.partitioner.inside:
            return weights

        def one(variable: Any) -> Any:
            whole = self.partitioner.whole(variable[...], variable.get_metadata("dims")[1:], self.config.dtype)
            return variable.replace(checkpoint_name(whole, remat.WEIGHTS))

        return jax.tree.map(one, weights, is_leaf=lambda x: isinstance(x, nnx.Variable))

    def remember(self, hidden: jax.Array) -> KeysValues:
        """Keys and values [layers, B, M, K, H] of an encoder's hidden states, as each layer will look them up."""
        graph, weights = nnx.split(self.blocks)
        return jax.lax.map(lambda layer: nnx.merge(graph, layer).cross_attention.keys_values(hidden), weights)

    def bias(self, queries: jax.Array, key_length: int) -> jax.Array:
        """float32 [1 or B, N, T, S], of queries that stand at these places [1 or B, T] and keys at 0 to S - 1."""
        config = self.config
        distance = jnp.arange(key_length)[None, None, :] - queries[:, :, None]
        furthest = config.relative_max_distance
        buckets = relative_buckets(config.relative_buckets, furthest, self.two_sided)
        by_distance = self.relative_bias[...].astype(jnp.float32)[buckets]
        bias_BTSN = by_distance[jnp.clip(distance, -furthest, furthest) + furthest]
        return self.partitioner.constrain(jnp.moveaxis(bias_BTSN, -1, 1), None, "heads", None, None)
