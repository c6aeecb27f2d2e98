"""OrthogonalRegularizer: the mean |cosine| between the rows or the columns of a matrix."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, euclidean, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import coefficient, static


@final
class OrthogonalRegularizer(Regularizer):
    """Push the rows (or columns) of a matrix towards orthogonality, whatever their lengths.

        R(x) = factor · mean over pairs i < j of |⟨x_i, x_j⟩| / (‖x_i‖ ‖x_j‖)

    Between 0 and `factor`. A zero row has cosine 0 with every other and subgradient 0 (Keras: NaN); a matrix of one
    row, or of none, has value 0 and gradient 0 (Keras: NaN). Where a cosine is 0 its subgradient is 0. The value does
    not depend on the scale of a row, also below Keras' floor of 1e-7 for its norm. There is no proximal operator.

    Cost: the Gram matrix of the rows (columns), n²·m operations and n² numbers: mind the rows of an embedding. Of a
    sharded (n, m) matrix in float32 every device gathers at most 4·n·m bytes; where m is sharded, an all-reduce of at
    most 4·n² bytes sums the Gram matrix.

    For an array of rank 2. Kernels of a higher rank: `Matrix(OrthogonalRegularizer(...), outputs)`; stacks of matrices
    (`nn.scan`, `vmap`): `Stacked(OrthogonalRegularizer(...), axes)`.

    Args:
        factor: leaf; real, finite, non-negative.
        mode: static; "rows" or "columns".

    Raises:
        ValueError: the rank is not 2, or `factor` or `mode` is not such a value.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.OrthogonalRegularizer(factor=1.0)
        >>> reg(jnp.array([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]])).round(4)
        Array(0.4714, dtype=float32)
        >>> float(reg(jnp.eye(3)))
        0.0

    References:
        `keras.regularizers.OrthogonalRegularizer`.
    """

    factor: ArrayLike = coefficient(0.01)
    mode: str = static("rows", choices=("rows", "columns"))

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        keras_words = f"Inputs to OrthogonalRegularizer must have rank 2. Received: inputs.shape={x.shape}."
        x = checks.matrix("OrthogonalRegularizer", x, keras_words)
        rows = x if self.mode == "rows" else x.T
        n = rows.shape[0]
        factor = jnp.asarray(self.factor, numerics.real_dtype(x))
        if isinstance(n, int) and n < 2:
            return jnp.zeros_like(factor)
        count = numerics.number_of(n)
        pairs = count * (count - 1) if isinstance(n, int) else jnp.maximum(count * (count - 1), 1)
        units = euclidean.directions(rows, (1,))
        cosines = numerics.gram(units)
        off_diagonal = jnp.where(jnp.eye(n, dtype=bool), 0, numerics.absolute(cosines))
        return factor * (jnp.sum(off_diagonal) / pairs)
