"""ELECTRA (Clark 2020): a small generator fills the masks, and a discriminator says of every token whether it was replaced.

Both are BERTs. They share the embedder, of the discriminator's embedding size (section 3.2), and each brings it to its own width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import jax
from flax import nnx

from pretrainx.core.errors import InputError
from pretrainx.core.schema import Range
from pretrainx.models import bert
from pretrainx.models.attention import Visibility
from pretrainx.models.embedder import Batch, Embedder, key_for
from pretrainx.models.heads import ClassHead, ReplacedHead, TokenHead
from pretrainx.models.stack import Stack
from pretrainx.models.transformer import Outputs, Tower
from pretrainx.parallel.shard import Partitioner


@dataclass(frozen=True)
class Config(bert.Config):
    """Sizes are the discriminator's."""

    name: str = "electra"
    generator_size: Annotated[float, Range(gt=0, le=1)] = 0.25  # width, heads and mlp of the generator as a share of these

    possible_heads: ClassVar[tuple[str, ...]] = ("replaced", "classes")  # it has the first one always

    @property
    def generator(self) -> bert.Config:
        """The generator's sizes: as many layers, narrower."""

        def share(size: int) -> int:
            return max(1, round(size * self.generator_size))

        return replace(
            self, d_model=share(self.d_model), num_heads=share(self.num_heads), num_kv_heads=share(self.kv_heads),
            mlp_dim=share(self.mlp_dim), embedding_size=self.embed_size, generator_size=1.0,
        )  # fmt: skip

    @property
    def towers(self) -> tuple[Tower, ...]:
        return Tower(self.generator), Tower(self, predicts=False)

    @property
    def present_heads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("replaced", *self.heads)))

    def check(self) -> None:
        super().check()
        if self.generator_size == 1:
            return
        try:
            self.generator.check()
        except InputError as error:
            raise InputError(f"model.generator_size {self.generator_size} gives a generator that cannot be: {error}") from None


class Model(nnx.Module):
    """`model(batch) -> Outputs` of the generator; the head "replaced" runs the discriminator on the tokens it is given."""

    def __init__(self, config: Config, partitioner: Partitioner, *, rngs: nnx.Rngs):
        config.check()
        self.config, self.partitioner = config, partitioner
        self.embedder = Embedder(config, partitioner, rngs=rngs)
        self.generator = Stack(config.generator, partitioner, two_sided=True, rngs=rngs)
        self.discriminator = Stack(config, partitioner, two_sided=True, rngs=rngs)
        self.token_head = TokenHead(config.generator, partitioner, rngs=rngs)
        self.replaced_head = ReplacedHead(config, rngs=rngs)
        if "classes" in config.heads:
            self.class_head = ClassHead(config, rngs=rngs)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., the generator's D] -> float32 [..., V]."""
        return self.token_head(hidden, self.embedder.embedding[...])

    def __call__(self, batch: Batch) -> Outputs:
        sight = Visibility(batch.get("segment_ids"), causal=False)
        replaced = lambda tokens: self.replaced_head(self.encode(batch | {"tokens": tokens}))  # noqa: E731
        hidden, _ = self.generator(self.embedder(batch), batch["positions"], sight, key=key_for(batch, "generator"))
        heads: dict[str, Callable[..., jax.Array]] = {"replaced": replaced}
        if "classes" in self.config.heads:  # of the discriminator; where nothing reads the generator, it is not computed
            heads["classes"] = lambda: self.class_head(self.encode(batch), batch["segment_ids"] > 0)
        hidden, logits = self.token_head.reader(hidden, self.embedder.embedding[...])
        return Outputs.of(self.config, self.partitioner, hidden, logits, heads)

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, L, D] of the discriminator: what a head for another task reads."""
        sight = Visibility(batch.get("segment_ids"), causal=False)
        return self.discriminator(self.embedder(batch), batch["positions"], sight, key=key_for(batch, "discriminator"))[0]
