"""What the layers of Flax do not say themselves: where inside them parameters live, and the shapes in one layer."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxreg._flax.declared import ATTENTION, Known

Globs = Mapping[str, tuple[str, ...]]

RECURRENT: Globs = {
    "kernel": ("i*/kernel", "dense_i/kernel"),  # ii, if_, ig, io
    "recurrent": ("h*/kernel", "dense_h/kernel"),
    "bias": ("*/bias",),
}
LORA: Globs = {"lora_a": ("lora/lora_a",), "lora_b": ("lora/lora_b",)}

_GLOBS: tuple[tuple[Any, Globs], ...] = (
    (nnx.MultiHeadAttention, ATTENTION),
    ((nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell), RECURRENT),
    (nnx.LoRALinear, LORA),
)


def globs_of(module: Any) -> Globs:
    """Where a module keeps parameters in modules of its own: by its `parameter_globs`, else by Flax's layer."""
    own: Globs = getattr(module, "parameter_globs", {})
    return own or next((globs for cls, globs in _GLOBS if isinstance(module, cls)), {})


def shapes_of(module: Any) -> dict[str, Known]:
    """The shapes in one layer by the fields of the layers of Flax, whose construction notes none."""
    if isinstance(module, nnx.Linear):
        return {"kernel": (module.in_features, module.out_features), "bias": (module.out_features,)}
    if isinstance(module, nnx.LinearGeneral):
        batch, out = tuple(module.batch_axis.values()), tuple(module.out_features)
        return {"kernel": (*batch, *module.in_features, *out), "bias": (*batch, *out)}
    if isinstance(module, (nnx.Conv, nnx.ConvTranspose)):
        return {"kernel": tuple(module.kernel_shape), "bias": (module.out_features,)}
    if isinstance(module, nnx.Einsum):
        return {"kernel": tuple(module.kernel_shape), "bias": tuple(module.bias_shape or ())}
    if isinstance(module, nnx.LoRA):  # it does not keep its rank
        return {"lora_a": (module.in_features, None), "lora_b": (None, module.out_features)}
    if isinstance(module, nnx.Embed):
        return {"embedding": (module.num_embeddings, module.features)}
    if isinstance(module, (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm)):
        return {"scale": (module.num_features,), "bias": (module.num_features,)}
    if isinstance(module, nnx.GroupNorm):
        features = module.num_groups * module.group_size
        return {"scale": (features,), "bias": (features,)}
    if isinstance(module, nnx.PReLU):
        return {"negative_slope": ()}
    return {}
