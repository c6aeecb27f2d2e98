"""Stacked: the penalty of every layer of a stack of parameters."""

import dataclasses
import math
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import static
from jaxreg._core.structure import Groups, Parts, Reach
from jaxreg.penalties import _axes


@final
class Stacked(Regularizer, promoted=False):
    """Penalize each layer of a stack by itself: what `nn.scan` and `nn.vmap` make of a parameter.

        R(x) = Σ_l P(x_l),   l over the stacked axes

    For an elementwise penalty this is the penalty of the whole array; for one of matrices, norms or groups it is not.
    The proximal operator is that of `penalty`, layer by layer.

    Args:
        penalty: the regularizer of one layer.
        axes: static; the positions of the stacked axes in the array, an int or a tuple.

    Raises:
        ValueError: an axis is named twice, or the array has no such axes.
        TypeError: `axes` is no int and no tuple of ints.

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
        axes = self.axes if isinstance(self.axes, tuple) else (self.axes,)
        if any(isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) for axis in axes):
            raise TypeError(f"`Stacked(axes=...)` must be an int or a tuple of ints, got {checks.short(self.axes)}.")
        if len(set(axes)) < len(axes):
            raise ValueError(f"`Stacked(axes=...)` must name different axes, got {checks.short(self.axes)}.")
        object.__setattr__(self, "axes", tuple(map(int, axes)))

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.rounded_value(numerics.promote(x), jnp.asarray(x))

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        layers, _ = self.layers(x)
        if not len(layers):
            return jnp.zeros((), numerics.real_dtype(x))
        return jnp.sum(jax.vmap(self.penalty.rounded_value)(layers, self.layers(held)[0]))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        layers, stack = self.layers(jnp.asarray(z))
        step = jnp.asarray(step)
        steps, in_axis = (step, None) if step.ndim == 0 else (self.layers(step)[0], 0)
        new = jax.vmap(self.penalty.prox, in_axes=(0, in_axis))(layers, steps) if len(layers) else layers
        return self._restacked(new, stack)

    @property
    def reach(self) -> Reach:
        return self.penalty.reach

    def parts(self) -> Parts:
        inside = self.penalty.parts()
        if inside.have_weights:
            return Parts(rest=(self,))
        intervals = tuple(Stacked(term, self.axes) for term in inside.intervals)
        rest = tuple(term if term.scalar() is not None else Stacked(term, self.axes) for term in inside.rest)
        return dataclasses.replace(inside, intervals=intervals, rest=rest)

    def by_groups(self, x: Any) -> Groups | None:
        stack = _axes.axes_of("Stacked", self.axes, x.ndim, "axes")
        kept = [axis for axis in range(x.ndim) if axis not in stack]
        layer = jax.ShapeDtypeStruct([x.shape[axis] for axis in kept], x.dtype)
        inside = self.penalty.by_groups(layer)
        if inside is None or not isinstance(inside.partition, tuple):
            return None
        weight = jnp.expand_dims(inside.weight, stack) if np.ndim(inside.weight) else inside.weight
        return dataclasses.replace(inside, weight=weight, partition=tuple(kept[axis] for axis in inside.partition))

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        (points, stack), (targets, _) = self.layers(p), self.layers(z)
        steps, _ = self.layers(jnp.broadcast_to(step, z.shape))
        if not len(targets):
            return z
        new = jax.vmap(lambda p, z, step: self.penalty.approximate_prox(p, z, step, count))(points, targets, steps)
        return self._restacked(new, stack)

    def layers(self, x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """Return the layers along one new first axis, and the shape of the stack."""
        if any(not -x.ndim <= axis < x.ndim for axis in self.axes):
            raise ValueError(f"`Stacked(axes={self.axes})` takes an array with these axes, got the shape {x.shape}.")
        axes = _axes.axes_of("Stacked", self.axes, x.ndim, "axes")
        moved = jnp.moveaxis(x, axes, tuple(range(len(axes))))
        stack, layer = moved.shape[: len(self.axes)], moved.shape[len(self.axes) :]
        return moved.reshape(math.prod(stack), *layer), stack

    def _restacked(self, layers: jax.Array, stack: tuple[int, ...]) -> jax.Array:
        return jnp.moveaxis(layers.reshape(*stack, *layers.shape[1:]), tuple(range(len(stack))), self.axes)
