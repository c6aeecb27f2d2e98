"""The size of activations: any regularizer divided by the batch, and mean squares of states and of their steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import numerics, sums
from jaxreg._core.regularizer import as_regularizer
from jaxreg._rules.identifiers import get
from jaxreg.activity import _batch


@_batch.of_batch
def penalty(
    regularizer: Any, h: ArrayLike, mask: ArrayLike | None = None, batch_axis: int = 0, axis_name: Any = None
) -> jax.Array:
    """Penalize an activation by any regularizer, divided by the batch, as `activity_regularizer` does in Keras.

        R(h) / B                                B = h.shape[batch_axis]

    A sum over the activations of one example, a mean over the examples. A scalar is not divided; a batch of 0 gives 0.
    The derivative is that of the regularizer: 0 at a kink.

    With a mask B is the number of members of the batch that have anything left, not of positions: a mask of ones
    changes nothing, and neither does one more time step of padding (Keras counts padding). What is masked out is set
    to 0, which leaves it out of every penalty that is a sum of terms that vanish at 0 (L1, L2, sums of norms).
    With `axis_name` R is added up over the devices, which is right for a penalty that is a sum over the batch.

    Args:
        regularizer: anything that `jaxreg.get` takes; `None` gives 0.
        h: any shape; the batch is one of its axes.
        mask: bool, or 0 and 1, over any of the leading axes of `h`.
        batch_axis: the axis of the batch; 1 for time-major states.
        axis_name: the mapped axes over which the batch is split.

    Raises:
        TypeError: `regularizer` or `h` is not what is said above.
        ValueError: the name of the regularizer is unknown, `h` has no such axis, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> from jaxreg import activity
        >>> h = jnp.array([[1.0, -2.0], [4.0, 0.0]])
        >>> float(activity.penalty(jaxreg.L1(1.0), h))
        3.5
        >>> float(activity.penalty(jaxreg.L1(1.0), h, mask=jnp.array([True, False])))
        3.0

    References:
        `keras.layers.Layer(activity_regularizer=...)`.
    """
    h = _batch.array("penalty", h)
    kept = _batch.mask("penalty", "h", mask, h.shape)
    over = _batch.axis("penalty(batch_axis=...)", batch_axis, h.ndim) if h.ndim else 0
    dtype = numerics.real_dtype(h)
    regularizer = get(regularizer)
    if regularizer is None or h.size == 0:
        return jnp.zeros((), dtype)
    members = None if kept is None else jnp.any(kept, axis=tuple(i for i in range(h.ndim) if i != over), keepdims=True)
    shape = tuple(n if i == over else 1 for i, n in enumerate(h.shape))
    n = _batch.count(shape, members, axis_name, dtype)
    value = as_regularizer(regularizer)(_batch.keep(h, kept))
    return _batch.total(value, axis_name) / jnp.maximum(n, 1)


@_batch.of_batch
def activation_l2(h: ArrayLike, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Keep activations small: AR, the first half of AWD-LSTM's regularization of hidden states.

        mean of |h|²

    A mean over all entries, without ½; smooth, with gradient 2h/n. AWD-LSTM applies it to the output after dropout.

    Args:
        h: any shape, real or complex.
        mask: bool, or 0 and 1, over any of the leading axes of `h`.
        axis_name: the mapped axes over which the batch is split.

    Raises:
        TypeError: `h` is not one numeric array.
        ValueError: the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> h = jnp.array([[1.0, 3.0], [2.0, jnp.nan]])
        >>> float(activity.activation_l2(h, mask=jnp.array([True, False])))
        5.0

    References:
        Merity, McCann, Socher, *Revisiting Activation Regularization for Language RNNs*, arXiv:1708.01009.
    """
    h = _batch.array("activation_l2", h)
    return _mean_square(h, _batch.mask("activation_l2", "h", mask, h.shape), axis_name)


@_batch.of_batch
def temporal_l2(h: ArrayLike, axis: int = 1, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Make states change slowly: TAR, the second half of AWD-LSTM's regularization of hidden states.

        mean of |h_t − h_{t−1}|²                          over all entries and the T − 1 steps along `axis`

    A mean, without ½; smooth. One time step has no difference and gives 0. With a mask a difference counts where both
    of its ends are real, so neither padding nor the way into it is penalized. AWD-LSTM applies it to the raw output,
    before dropout.

    Args:
        h: real or complex, at least one axis; (batch, time, features) by default.
        axis: the axis of time; 0 for time-major states.
        mask: bool, or 0 and 1, over any of the leading axes of `h`.
        axis_name: the mapped axes over which the batch is split. The axis of time must not be split.

    Raises:
        TypeError: `h` is not one numeric array, or `axis` no integer.
        ValueError: `h` has no such axis, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> h = jnp.array([[1.0, 2.0, 5.0], [0.0, 3.0, 7.0]])  # (batch, time)
        >>> float(activity.temporal_l2(h))
        8.75
        >>> float(activity.temporal_l2(h, mask=jnp.array([[1, 1, 1], [1, 0, 0]])))
        5.0

    References:
        Merity, McCann, Socher, *Revisiting Activation Regularization for Language RNNs*, arXiv:1708.01009.
    """
    h = _batch.array("temporal_l2", h)
    time = _batch.axis("temporal_l2(axis=...)", axis, h.ndim)
    kept = _batch.mask("temporal_l2", "h", mask, h.shape)
    if kept is not None and kept.shape[time] > 1:
        earlier, later = _neighbours(kept, time)
        pairs: jax.Array | None = earlier & later
    else:
        pairs = kept
    earlier, later = _neighbours(_batch.keep(h, kept), time)
    return _mean_square(later - earlier, pairs, axis_name)


def _neighbours(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    length = x.shape[axis]
    steps = max(length - 1, 0)
    earlier = jax.lax.slice_in_dim(x, 0, steps, axis=axis)
    return earlier, jax.lax.slice_in_dim(x, length - steps, length, axis=axis)


def _mean_square(x: jax.Array, mask: jax.Array | None, axis_name: Any) -> jax.Array:
    n = _batch.count(x.shape, mask, axis_name, numerics.real_dtype(x))
    return _batch.total(sums.scaled_l2(1 / jnp.maximum(n, 1), _batch.keep(x, mask)), axis_name)
