"""Matrix: an array of any rank as the matrix of a linear map."""

import dataclasses
import math
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, compiler, numerics
from jaxreg._core.constraint import Constraint
from jaxreg._core.entry import TREES
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import static
from jaxreg._core.structure import Groups, Parts, Reach, Scalar
from jaxreg.penalties import _axes


@final
class Matrix(Regularizer, promoted=False):
    """Penalize a kernel as a matrix, its inputs by its outputs: convolutions, attention.

        R(x) = P(M(x)),   the columns of the matrix M are the axes `outputs` of x, its rows all others

    The axes `outputs` are flattened in the order in which they are given, the others in their own order. Entries only
    change places, so gradient and proximal operator are those of the matrix, moved back; an array step is moved like
    `z`. An elementwise penalty has the same value for the array and the matrix, and ignores `outputs`. With all axes as
    `outputs` the matrix has one row; with none, `()`, one column.

        Dense                                            (inputs, units)          nothing, it is a matrix
        Conv                                             (height, width, in, out) Matrix(P)
        query, key, value of attention                   (inputs, heads, size)    Matrix(P, outputs=(-2, -1))
            each head by itself                                                   Stacked(P, axes=(1,))
        out of attention                                 (heads, size, outputs)   Matrix(P)
            each head by itself                                                   Stacked(P, axes=(0,))
        query, key and value packed                      (inputs, 3, heads, size) Matrix(P, outputs=(1, 2, 3))
            each of the three by itself                          Stacked(Matrix(P, outputs=(-2, -1)), axes=(1,))
        a stack of kernels (`nn.scan`)                   one axis more            Stacked(Matrix(...), axes=(0,))

    σ₁ of the matrix of a convolution is not the gain of the convolution, which with zero padding is at most
    √(height·width)·σ₁, because an entry of the input is in up to height·width patches.

    Args:
        penalty: the regularizer of the matrix, such as `Spectral`, `SpectralNorm`, `SpectralBall`, `Rank`,
            `SoftOrthogonal`, `OrthogonalRegularizer`, `Group`; its axes and arrays are those of the matrix.
        outputs: static; an axis of the array or a tuple of axes; negative ones count from the end.

    Raises:
        TypeError: `outputs` is no int and no tuple of ints.
        ValueError: the array has no such axes, or one is named twice.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Matrix(jaxreg.SpectralNorm(1.0))
        >>> reg(jnp.ones((3, 3, 4, 8))).round(2)                         # √(36·8), of a (36, 8) matrix
        Array(16.97, dtype=float32)
        >>> query = jaxreg.Matrix(jaxreg.SoftOrthogonal(0.1), outputs=(-2, -1))
        >>> query.matrix(jnp.ones((16, 2, 4))).shape
        (16, 8)
        >>> query.prox(jnp.ones((16, 2, 4))).shape
        (16, 2, 4)
    """

    penalty: Regularizer
    outputs: int | tuple[int, ...] = static(-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))
        given = self.outputs if isinstance(self.outputs, tuple) else (self.outputs,)
        if not all(isinstance(axis, (int, np.integer)) and not isinstance(axis, bool) for axis in given):
            raise TypeError(
                f"`Matrix(outputs=...)` must be an int or a tuple of ints, got {checks.short(self.outputs)}."
            )
        object.__setattr__(self, "outputs", tuple(int(axis) for axis in given))

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.rounded_value(numerics.promote(x), jnp.asarray(x))

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        return self.penalty.rounded_value(self.matrix(compiler.gradient_placed_like_itself(x)), self.matrix(held))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        moved = self.penalty.prox(self.matrix(z), self.matrix(step) if step.ndim else step)
        return compiler.placed_like(z, self._array(moved, z.shape))

    def matrix(self, x: ArrayLike) -> jax.Array:
        """Return the matrix of `x`, for a look at its spectrum; with an elementwise penalty `x` itself."""
        x = jnp.asarray(x)
        if self.scalar() is not None:
            return x
        order, outputs = self._order(x.ndim)
        columns = math.prod(x.shape[axis] for axis in outputs)
        rows = math.prod(x.shape[axis] for axis in order[: x.ndim - len(outputs)])
        return jnp.transpose(x, order).reshape(rows, columns)

    def violation(self, x: ArrayLike) -> jax.Array:
        """Return the Euclidean distance of `x` to the set, if the penalty is a constraint.

        Raises:
            TypeError: the penalty is no constraint.
        """
        x = jnp.asarray(checks.array("Matrix.violation", x, TREES))
        if not isinstance(self.penalty, Constraint):
            raise TypeError(f"`Matrix.violation` is for constraints, got {checks.short(self.penalty)}.")
        return compiler.automatic(lambda reg, x: reg.penalty.violation(reg.matrix(x)), x, replicated=True)(self, x)

    @property
    def reach(self) -> Reach:
        return self.penalty.reach

    def parts(self) -> Parts:
        inside = self.penalty.parts()
        if inside.have_weights:
            return Parts(rest=(self,))
        intervals = tuple(Matrix(term, self.outputs) for term in inside.intervals)
        rest = tuple(term if term.scalar() is not None else Matrix(term, self.outputs) for term in inside.rest)
        return dataclasses.replace(inside, intervals=intervals, rest=rest)

    def scalar(self) -> Scalar | None:
        return self.penalty.scalar()

    def by_groups(self, x: Any) -> Groups | None:
        order, outputs = self._order(x.ndim)
        sides = order[: x.ndim - len(outputs)], outputs
        matrix = jax.ShapeDtypeStruct([math.prod(x.shape[axis] for axis in side) for side in sides], x.dtype)
        inside = self.penalty.by_groups(matrix)
        if inside is None or not isinstance(inside.partition, tuple):
            return None
        axes = tuple(i for axis in inside.partition for i in sides[axis])
        of_norms = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
        weight = self._array(inside.weight, of_norms) if np.ndim(inside.weight) else inside.weight
        return dataclasses.replace(inside, weight=weight, partition=axes)

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        def approximate(reg: Matrix, p: jax.Array, z: jax.Array, step: jax.Array) -> jax.Array:
            point, target = reg.matrix(p), reg.matrix(z)
            moved = reg.penalty.approximate_prox(point, target, reg.matrix(jnp.broadcast_to(step, z.shape)), count)
            return compiler.placed_like(z, reg._array(moved, z.shape))

        return compiler.automatic(approximate, z, replicated=False)(self, p, z, step)

    def _order(self, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """All axes, those of the rows first, and those of the columns."""
        outputs = _axes.axes_of("Matrix", self.outputs, ndim, "outputs")
        return (*(axis for axis in range(ndim) if axis not in outputs), *outputs), outputs

    def _array(self, matrix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The array of this shape whose matrix is given."""
        if self.scalar() is not None:
            return matrix
        order, _ = self._order(len(shape))
        moved = matrix.reshape(tuple(shape[axis] for axis in order))
        return jnp.transpose(moved, tuple(np.argsort(order).tolist()))
