"""The peers: each is measured if it is installed; a line says which are not."""

import importlib
import os
import warnings
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")


def _optional(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # jaxopt says that it is no longer maintained
            return importlib.import_module(name)
    except ImportError:
        return None


keras: Any = _optional("keras")
jaxopt: Any = _optional("jaxopt")
torch: Any = _optional("torch")
celer: Any = _optional("celer")
skglm: Any = _optional("skglm")
sklearn: Any = _optional("sklearn.linear_model")
if keras is not None and keras.backend.backend() != "jax":
    keras = None

PEERS = {
    "Keras on JAX": keras,
    "jaxopt": jaxopt,
    "PyTorch": torch,
    "celer": celer,
    "skglm": skglm,
    "scikit-learn": sklearn,
}
MISSING = [name for name, module in PEERS.items() if module is None]


def torch_tensors(arrays: list[Any], requires_grad: bool = False) -> list[Any]:
    """The same numbers as PyTorch tensors, on the GPU if JAX uses one."""
    import jax
    import numpy as np

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    tensors = [torch.from_numpy(np.array(array)).to(device) for array in arrays]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def torch_wait(tensor: Any) -> Any:
    """Return when the work is done."""
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return None
