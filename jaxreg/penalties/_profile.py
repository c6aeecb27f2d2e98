"""The penalties whose profile ρ can act on norms of groups and on singular values."""

from typing import Any

from jaxreg._core.regularizer import Regularizer, as_regularizer


def as_elementwise(call: str, penalty: Any) -> Regularizer:
    """Return an elementwise penalty, the kind that can act on norms and singular values."""
    penalty = as_regularizer(penalty)
    if penalty.scalar() is None:
        raise TypeError(
            f"`{call}(penalty=...)` takes an elementwise penalty such as L1, MCP or L0, or a sum or multiple of such, "
            f"got {type(penalty).__name__}."
        )
    return penalty
