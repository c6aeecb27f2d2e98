"""Stacked: the penalty of every layer of a stack of parameters."""

import math
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import static
from jaxreg._core.structure import Reach


@final
class Stacked(Regularizer):
    """Penalize each layer of a stack by itself: what `nn.scan` and `nn.vmap` make of a parameter.

        R(x) = Σ_l P(x_l),   l over the stacked axes

    For an elementwise penalty this is the penalty of the whole array; for one of matrices, norms or groups it is not.
    The proximal operator is that of `penalty`, layer by layer.

    Args:
        penalty: the regularizer of one layer.
        axes: static; the positions of the stacked axes in the array, an int or a tuple.

    Raises:
        ValueError: the array has no such axes.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Stacked(jaxreg.OrthogonalRegularizer(1.0), axes=(0,))
        >>> float(reg(jnp.ones((3, 2, 2))).round(4))
        3.0
    """

    penalty: Regularizer
    axes: tuple[int, ...] = static((0,))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))
        object.__setattr__(self, "axes", (self.axes,) if isinstance(self.axes, int) else self.axes)

    def __call__(self, x: ArrayLike) -> jax.Array:
        layers, _ = self._layers(jnp.asarray(x))
        return jnp.sum(jax.vmap(self.penalty)(layers)) if len(layers) else jnp.zeros((), jnp.finfo(layers.dtype).dtype)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        layers, stack = self._layers(jnp.asarray(z))
        step = jnp.asarray(step)
        steps, in_axis = (step, None) if step.ndim == 0 else (self._layers(step)[0], 0)
        new = jax.vmap(self.penalty.prox, in_axes=(0, in_axis))(layers, steps) if len(layers) else layers
        return jnp.moveaxis(new.reshape(*stack, *layers.shape[1:]), tuple(range(len(stack))), self.axes)

    @property
    def reach(self) -> Reach:
        return self.penalty.reach

    def _layers(self, x: Any) -> tuple[jax.Array, tuple[int, ...]]:
        if any(not -x.ndim <= axis < x.ndim for axis in self.axes):
            raise ValueError(f"`Stacked(axes={self.axes})` takes an array with these axes, got the shape {x.shape}.")
        moved = jnp.moveaxis(x, self.axes, tuple(range(len(self.axes))))
        stack, layer = moved.shape[: len(self.axes)], moved.shape[len(self.axes) :]
        return moved.reshape(math.prod(stack), *layer), stack
