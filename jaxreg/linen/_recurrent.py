"""The recurrent cells of Flax Linen with regularizers, named as Keras names them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn

from jaxreg.linen._regularized import Regularized, regularizer_field


class _Cell(Regularized):
    """`kernel_` of the input kernels, `recurrent_` of the hidden-to-hidden kernels, `bias_` of all biases.

    `activity_regularizer` is of the output of each step, not of the carry; inside `nn.RNN` give
    `variable_axes={"losses": 0}`, or `with_losses` says so. The penalties of the steps add up, and
    with `seq_lengths`, where cells run on padding too, they raise.
    """

    recurrent_regularizer: Any = regularizer_field()

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "kernel": ("i*/kernel",),  # ii, if, ig, io, ir, iz, in; i; ih
        "recurrent": ("h*/kernel",),
        "bias": ("*/bias",),
    }


class LSTMCell(_Cell, nn.LSTMCell):
    """`flax.linen.LSTMCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg.linen
        >>> cell = jaxreg.linen.LSTMCell(2, recurrent_regularizer="l2")
        >>> x = jnp.ones((4, 3))
        >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
        >>> variables = cell.init(jax.random.key(0), carry, x)
        >>> (carry, y), losses = jaxreg.linen.with_losses(cell)(variables, carry, x)
        >>> sorted(losses)
        ['hf/kernel', 'hg/kernel', 'hi/kernel', 'ho/kernel']
    """


class OptimizedLSTMCell(_Cell, nn.OptimizedLSTMCell):
    """`flax.linen.OptimizedLSTMCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""


class GRUCell(_Cell, nn.GRUCell):
    """`flax.linen.GRUCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""


class SimpleCell(_Cell, nn.SimpleCell):
    """`flax.linen.SimpleCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""


class MGUCell(_Cell, nn.MGUCell):
    """`flax.linen.MGUCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""


class ConvLSTMCell(_Cell, nn.ConvLSTMCell):
    """`flax.linen.ConvLSTMCell` with `kernel_`, `recurrent_`, `bias_` and `activity_regularizer`."""
