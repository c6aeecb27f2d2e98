"""The layers of Flax Linen that have a kernel, a bias, a scale or an embedding, with regularizers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxreg._flax.declared import ATTENTION
from jaxreg.linen._regularized import Regularized, declare, regularizer_field


class Dense(Regularized, nn.Dense):
    """`flax.linen.Dense` with `kernel_regularizer`, `bias_regularizer`, `activity_regularizer`.

    Example (the one of Keras' documentation):
        >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxreg.linen
        >>> model = jaxreg.linen.Dense(
        ...     5,
        ...     kernel_init=nn.initializers.ones,
        ...     kernel_regularizer=jaxreg.L1(0.01),
        ...     activity_regularizer=jaxreg.L2(0.01),
        ... )
        >>> x = 2 * jnp.ones((5, 5))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, losses = jaxreg.linen.with_losses(model)(variables, x)
        >>> {path: round(float(loss), 4) for path, loss in losses.items()}
        {'activity': 5.0, 'kernel': 0.25}
    """


class DenseGeneral(Regularized, nn.DenseGeneral):
    """`flax.linen.DenseGeneral` with `kernel_`, `bias_` and `activity_regularizer`."""


class Einsum(Regularized, nn.Einsum):
    """`flax.linen.Einsum` with `kernel_`, `bias_` and `activity_regularizer`."""


class Conv(Regularized, nn.Conv):
    """`flax.linen.Conv` with `kernel_`, `bias_` and `activity_regularizer`."""


class ConvLocal(Regularized, nn.ConvLocal):
    """`flax.linen.ConvLocal` with `kernel_`, `bias_` and `activity_regularizer`."""


class ConvTranspose(Regularized, nn.ConvTranspose):
    """`flax.linen.ConvTranspose` with `kernel_`, `bias_` and `activity_regularizer`."""


class Embed(Regularized, nn.Embed):
    """`flax.linen.Embed` with `embedding_regularizer` (of the whole table) and `activity_regularizer`.

    `attend` uses the same table: its penalty counts once, and the output of `attend` is not penalized.
    """

    embedding_regularizer: Any = regularizer_field()

    def attend(self, query: jax.Array) -> jax.Array:
        logits = super().attend(query)
        declare(self)
        return logits


class BatchNorm(Regularized, nn.BatchNorm):
    """`flax.linen.BatchNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = regularizer_field()


class LayerNorm(Regularized, nn.LayerNorm):
    """`flax.linen.LayerNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = regularizer_field()


class GroupNorm(Regularized, nn.GroupNorm):
    """`flax.linen.GroupNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = regularizer_field()


class InstanceNorm(Regularized, nn.InstanceNorm):
    """`flax.linen.InstanceNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = regularizer_field()


class RMSNorm(Regularized, nn.RMSNorm):
    """`flax.linen.RMSNorm` with `scale_` and `activity_regularizer`."""

    scale_regularizer: Any = regularizer_field()


class WeightNorm(Regularized, nn.WeightNorm):
    """`flax.linen.WeightNorm` with `scale_regularizer`, of the lengths that it learns, and `activity_regularizer`.

    Give a kernel regularizer to the layer inside: `with_losses` applies it to the kernel before normalization.
    """

    scale_regularizer: Any = regularizer_field()

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = {"scale": ("*/scale",)}


class PReLU(Regularized, nn.PReLU):
    """`flax.linen.PReLU` with `negative_slope_` and `activity_regularizer`."""

    negative_slope_regularizer: Any = regularizer_field()


class MultiHeadDotProductAttention(Regularized, nn.MultiHeadDotProductAttention):
    """`flax.linen.MultiHeadDotProductAttention` with regularizers.

    `kernel_` and `bias_regularizer` are of the four projections, `scale_regularizer` of the norms of `normalize_qk`.
    `activity_regularizer` is of the attention's output, once (Keras 3 penalizes the projections instead).
    """

    scale_regularizer: Any = regularizer_field()

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = ATTENTION


class MultiHeadAttention(Regularized, nn.MultiHeadAttention):
    """`flax.linen.MultiHeadAttention` with the regularizers of `MultiHeadDotProductAttention`."""

    scale_regularizer: Any = regularizer_field()

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = ATTENTION


class SelfAttention(Regularized, nn.SelfAttention):
    """`flax.linen.SelfAttention` with the regularizers of `MultiHeadDotProductAttention`."""

    scale_regularizer: Any = regularizer_field()

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = ATTENTION
