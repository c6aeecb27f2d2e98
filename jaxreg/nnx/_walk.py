"""The walk over a model: paths as in `nnx.state(model, nnx.Param)`, each parameter once."""

from collections.abc import Iterator
from typing import Any

from flax import nnx


def join(*parts: Any) -> str:
    return "/".join(str(part) for part in parts)


def parameters(module: nnx.Module) -> Iterator[tuple[Any, Any]]:
    """Yield `(path, Variable)` of the parameters of a module and of those inside."""
    return ((path, v) for path, v in nnx.iter_graph(module) if isinstance(v, nnx.Param))
