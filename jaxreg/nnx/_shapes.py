"""The shape that one layer's parameters have, and what of a parameter is a stack of layers."""

import itertools

from flax import nnx

from jaxreg.nnx._walk import join, parameters

SHAPES = "_parameter_shapes"  # the attribute that notes them at construction

Shape = tuple[int, ...]


def stacked_axes(shape: Shape, own: Shape) -> list[Shape]:
    """The sets of axes without which `shape` is `own`."""
    candidates = itertools.combinations(range(len(shape)), max(len(shape) - len(own), 0))
    return [axes for axes in candidates if tuple(n for i, n in enumerate(shape) if i not in axes) == own]


def stack_sizes(module: nnx.Module, shapes: dict[int, Shape]) -> Shape:
    """How many layers a module is a stack of: () if it is one layer, or if nothing tells."""
    noted = dict(vars(module).get(SHAPES, ()))
    for path, variable in parameters(module):
        own = noted.get(join(*path), shapes.get(id(variable)))
        value = variable.get_raw_value()
        if own is not None and hasattr(value, "shape"):
            stacks = stacked_axes(value.shape, own)
            return tuple(value.shape[axis] for axis in stacks[0]) if stacks else ()
    return ()


def own_shapes(model: nnx.Module) -> dict[int, Shape]:
    """Return `{id(variable): shape}` as one layer has it: noted at construction, or known from the layer of Flax.

    Inner modules come first, and what they say holds: to the module around it a stack is one parameter.
    """
    shapes: dict[int, Shape] = {}
    for _, module in nnx.iter_modules(model):
        for name, shape in _shapes_of_flax(module).items():
            variable = getattr(module, name, None)
            if isinstance(variable, nnx.Variable):
                shapes.setdefault(id(variable), shape)
        noted = dict(vars(module).get(SHAPES, ()))
        for path, variable in parameters(module) if noted else ():
            if join(*path) in noted:
                shapes.setdefault(id(variable), noted[join(*path)])
    return shapes


def _shapes_of_flax(module: nnx.Module) -> dict[str, Shape]:
    if isinstance(module, nnx.Linear):
        return {"kernel": (module.in_features, module.out_features), "bias": (module.out_features,)}
    if isinstance(module, nnx.LinearGeneral):
        batch, out = tuple(module.batch_axis.values()), tuple(module.out_features)
        return {"kernel": (*batch, *module.in_features, *out), "bias": (*batch, *out)}
    if isinstance(module, (nnx.Conv, nnx.ConvTranspose, nnx.Einsum)):
        return {"kernel": tuple(module.kernel_shape)}
    if isinstance(module, nnx.Embed):
        return {"embedding": (module.num_embeddings, module.features)}
    if isinstance(module, (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm)):
        return {"scale": (module.num_features,), "bias": (module.num_features,)}
    return {}
