"""The recurrent cells of Flax NNX with regularizers, named as Keras names them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from jaxreg.nnx._flax_layers import RECURRENT
from jaxreg.nnx._regularized import Regularized


class _Cell(Regularized):
    """`kernel_` of the input kernels, `recurrent_` of the hidden-to-hidden kernels, `bias_` of all biases.

    `activity_regularizer` is of the output of each step, not of the carry; the penalties of the steps add up, also
    inside `nnx.RNN`; with its `seq_lengths`, where cells run on padding too, they raise.
    """

    recurrent_regularizer: Any = None

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = RECURRENT


class LSTMCell(_Cell, nnx.LSTMCell):
    """`flax.nnx.LSTMCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`.

    Example:
        >>> from flax import nnx
        >>> import jax.numpy as jnp, jaxreg.nnx
        >>> cell = jaxreg.nnx.LSTMCell(3, 2, recurrent_regularizer="l2", rngs=nnx.Rngs(0))
        >>> y, losses = jaxreg.nnx.with_losses(nnx.RNN(cell))(jnp.ones((4, 5, 3)))
        >>> sorted(losses)
        ['cell/hf/kernel', 'cell/hg/kernel', 'cell/hi/kernel', 'cell/ho/kernel']
    """


class OptimizedLSTMCell(_Cell, nnx.OptimizedLSTMCell):
    """`flax.nnx.OptimizedLSTMCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""


class GRUCell(_Cell, nnx.GRUCell):
    """`flax.nnx.GRUCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""


class SimpleCell(_Cell, nnx.SimpleCell):
    """`flax.nnx.SimpleCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""
