"""The layers of Flax NNX that have a kernel, a bias, a scale or an embedding, with regularizers."""

from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from jaxreg._flax.declared import ATTENTION
from jaxreg.nnx._flax_layers import LORA
from jaxreg.nnx._regularized import Regularized


class Linear(Regularized, nnx.Linear):
    """`flax.nnx.Linear` with `kernel_regularizer`, `bias_regularizer`, `activity_regularizer`.

    Example (the one of Keras' documentation):
        >>> from flax import nnx
        >>> import jax.numpy as jnp, jaxreg.nnx
        >>> model = jaxreg.nnx.Linear(
        ...     5,
        ...     5,
        ...     kernel_init=nnx.initializers.ones,
        ...     kernel_regularizer=jaxreg.L1(0.01),
        ...     activity_regularizer=jaxreg.L2(0.01),
        ...     rngs=nnx.Rngs(0),
        ... )
        >>> y, losses = jaxreg.nnx.with_losses(model)(2 * jnp.ones((5, 5)))
        >>> {path: round(float(loss), 4) for path, loss in losses.items()}
        {'activity': 5.0, 'kernel': 0.25}
    """


class LinearGeneral(Regularized, nnx.LinearGeneral):
    """`flax.nnx.LinearGeneral` with `kernel_`, `bias_` and `activity_regularizer`."""


class Einsum(Regularized, nnx.Einsum):
    """`flax.nnx.Einsum` with `kernel_`, `bias_` and `activity_regularizer`."""


class Conv(Regularized, nnx.Conv):
    """`flax.nnx.Conv` with `kernel_`, `bias_` and `activity_regularizer`."""


class ConvTranspose(Regularized, nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose` with `kernel_`, `bias_` and `activity_regularizer`."""


class Embed(Regularized, nnx.Embed):
    """`flax.nnx.Embed` with `embedding_regularizer` (of the whole table) and `activity_regularizer`.

    `attend` uses the same table: its penalty counts once, and the output of `attend` is not penalized.
    """

    embedding_regularizer: Any = None


class BatchNorm(Regularized, nnx.BatchNorm):
    """`flax.nnx.BatchNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = None


class LayerNorm(Regularized, nnx.LayerNorm):
    """`flax.nnx.LayerNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = None


class GroupNorm(Regularized, nnx.GroupNorm):
    """`flax.nnx.GroupNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = None


class InstanceNorm(Regularized, nnx.InstanceNorm):
    """`flax.nnx.InstanceNorm` with `scale_`, `bias_` and `activity_regularizer`."""

    scale_regularizer: Any = None


class RMSNorm(Regularized, nnx.RMSNorm):
    """`flax.nnx.RMSNorm` with `scale_` and `activity_regularizer`."""

    scale_regularizer: Any = None


class PReLU(Regularized, nnx.PReLU):
    """`flax.nnx.PReLU` with `negative_slope_` and `activity_regularizer`."""

    negative_slope_regularizer: Any = None


class LoRA(Regularized, nnx.LoRA):
    """`flax.nnx.LoRA` with `lora_a_`, `lora_b_` and `activity_regularizer`."""

    lora_a_regularizer: Any = None
    lora_b_regularizer: Any = None


class LoRALinear(Regularized, nnx.LoRALinear):
    """`flax.nnx.LoRALinear` with `kernel_`, `bias_`, `lora_a_`, `lora_b_` and `activity_regularizer`."""

    lora_a_regularizer: Any = None
    lora_b_regularizer: Any = None

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = LORA


class MultiHeadAttention(Regularized, nnx.MultiHeadAttention):
    """`flax.nnx.MultiHeadAttention` with regularizers.

    `kernel_` and `bias_regularizer` are of the four projections, `scale_regularizer` of the norms of `normalize_qk`.
    `activity_regularizer` is of the attention's output, once (Keras 3 penalizes the projections instead).
    """

    scale_regularizer: Any = None

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = ATTENTION
