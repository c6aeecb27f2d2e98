"""Argument checks with one style of message: the call, the rule, the value received, the way out."""

import dataclasses
import math
import numbers
import reprlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write integers of more than 4300 digits."""
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"<int of {x.bit_length()} bits>"

    def repr_function(self, x: Any, level: int) -> str:
        """Without its address, which is another in every run."""
        return f"<function {x.__qualname__}>"

    def repr_instance(self, x: Any, level: int) -> str:
        """A tracer by its shape: its own repr tells of the inside of JAX."""
        if isinstance(x, jax.core.Tracer):
            return f"a traced value of shape {x.shape}"
        if isinstance(x, (jax.Array, np.ndarray)) and x.size > 8:
            return f"an array of shape {x.shape} and dtype {x.dtype}"
        if dataclasses.is_dataclass(x) and any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x)):
            inside = (
                f"{field.name}={self.repr1(getattr(x, field.name), level - 1)}" for field in dataclasses.fields(x)
            )
            return f"{type(x).__name__}({', '.join(inside)})"
        return super().repr_instance(x, level)


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 120, 120, 40
_MODES = (str, bool, tuple, list, dict)
_NOT_NUMBERS = (str, bytes, bool, np.bool_, complex, type(None), list, tuple, set, frozenset, Mapping)


def short(value: Any) -> str:
    """A repr of bounded length and depth, safe on hostile input."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def field_declaration(owner: str, field: dataclasses.Field[Any]) -> None:
    """Refuse a mode that is not declared static: as a leaf it would reach the compiler as a string or a tuple."""
    name = field.type if isinstance(field.type, str) else next((t.__name__ for t in _MODES if t is field.type), "")
    if name in {t.__name__ for t in _MODES} and not field.metadata.get("static"):
        raise TypeError(
            f"`{owner}.{field.name}: {name}` is a mode, not a number: declare it "
            f"`{field.name}: {name} = jaxreg.static(...)`."
        )


def class_attributes(cls: type[Any]) -> None:
    """Refuse a number in the body of a class that has no annotation: it looks like a field and is none."""
    for name, value in vars(cls).items():
        field = cls.__dataclass_fields__.get(name)
        is_number = isinstance(value, (int, float, np.generic, np.ndarray, jax.Array)) and not isinstance(value, bool)
        if is_number and name.islower() and not name.startswith("_") and (field is None or field.default is not value):
            raise TypeError(
                f"`{cls.__name__}.{name} = {short(value)}` has no annotation, so it is no field: write "
                f"`{name}: float = {short(value)}`, or for what all instances share "
                f"`{name}: typing.ClassVar = {short(value)}`."
            )


def instead(value: Any) -> str:
    """What to write in place of a value that is no regularizer, with a space before it; "" if that is unknown."""
    if isinstance(value, type):
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        needed = [f for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        return f" Write an instance, `{value.__name__}({', '.join(f'{f.name}=...' for f in needed)})`."
    if isinstance(value, str):
        return f" A name is read by `jaxreg.get({short(value)})`."
    if isinstance(value, Mapping):
        return " A config is read by `jaxreg.deserialize(config)`, rules by `jaxreg.TreeRegularizer(rules)`."
    if isinstance(value, (int, float, np.number)):
        return f" Write a regularizer of that strength, for example `jaxreg.L2({value!s:.40})`."
    if isinstance(value, (list, tuple)):
        return " A sum is written `a + b`, and of many `sum(regularizers)`."
    if dataclasses.is_dataclass(value) and callable(value):
        return (
            " Penalties of trees are added to each other, `a + b`, and go into the loss, `loss + tree(params)`, or "
            "into `jaxreg.add_regularization(tree)`."
        )
    return ""


def field_value(owner: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value that the field stores: floats for numbers, tuples for static lists."""
    if field.metadata.get("static"):
        return _static_value(f"{owner}({field.name}=...)", value, field.metadata["choices"])
    if field.metadata.get("coefficient"):
        return number(f"{owner}({field.name}=...)", value, above=field.metadata["above"])
    if field.type in (float, "float"):
        return number(f"{owner}({field.name}=...)", value, above=-math.inf)
    return value


def _static_value(call: str, value: Any, choices: tuple[Any, ...]) -> Any:
    value = as_tuple(value)
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"`{call}` is static and must hash, got {short(value)}. Write a tuple: "
            "`tuple(d.items())`, `tuple(x.tolist())`."
        ) from None
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"`{call}` is static and must equal itself, got nan.")
    if choices and value not in choices:
        raise ValueError(
            f"Invalid value for argument `{call}`. Expected one of {set(choices)}. Received: {short(value)}."
        )
    return value


def as_tuple(value: Any) -> Any:
    """Lists become tuples, at every depth."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


def is_variable(value: Any) -> bool:
    """Whether it holds an array that may change: a variable of NNX or Keras, a `jax.Ref`."""
    return isinstance(value, jax.Ref) or (hasattr(value, "__jax_array__") and not isinstance(value, type))


def number(call: str, value: Any, *, above: float | None) -> Any:
    """Return `value` as a float if it is a number, as it is if it is an array, a tracer or a placeholder.

    It must be greater than `above`; None stands for non-negative.
    """
    bound = " greater than {above}" if above is not None and above > -math.inf else ""
    rule = (
        "a real, finite, non-negative number" if above is None else f"a real, finite number{bound.format(above=above)}"
    )
    if isinstance(value, jax.core.Tracer):
        return real(f"`{call}` must be {rule}", value)
    if isinstance(value, (np.ndarray, jax.Array)):
        return _array(call, value, rule, above)
    if is_variable(value):
        raise TypeError(
            f"`{call}` must be {rule}, got a variable, a {type(value).__name__}, whose later values it would not see. "
            "Give the value: `variable.get_value()` in NNX, `variable.value` in Keras, `ref[...]` of a `jax.Ref`."
        )
    if isinstance(value, _NOT_NUMBERS) and type(value).__module__.partition(".")[0] != "jax":
        got = f"{short(value)} of type {type(value).__name__}"
        raise TypeError(f"`{call}` must be {rule}, got {got}.{_number_instead(call, value)}")
    if not isinstance(value, numbers.Real):
        if callable(value):
            raise TypeError(f"`{call}` must be {rule}, got {short(value)}.{_number_instead(call, value)}")
        return value  # a pytree placeholder: object(), ShapeDtypeStruct, PartitionSpec
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or not (result >= 0 if above is None else result > above):
        raise ValueError(f"`{call}` must be {rule}, got {short(value)}.")
    return result


def _number_instead(call: str, value: Any) -> str:
    """What to write in place of a value that is no number, with a space before it; "" if that is unknown."""
    if isinstance(value, str):
        try:
            return f" Write the number, {float(value)!r}."
        except ValueError:
            return ""
    if isinstance(value, (list, tuple)):
        return (
            f" Several numbers are an array, `jnp.asarray({short(value)})`: see `jax.vmap` for a strength each, "
            "`jaxreg.Weighted(penalty, weights)` for one of each entry or group. A setting of a class of your own is "
            "declared `name: tuple = jaxreg.static(...)`."
        )
    if isinstance(value, Mapping):
        return (
            " A config is read by `jaxreg.deserialize(config)`; strengths of several leaves are rules, "
            "`jaxreg.TreeRegularizer({'**/kernel': jaxreg.L2(0.1)})`."
        )
    if dataclasses.is_dataclass(value):
        return " Penalties are added, `a + b`, and multiplied by numbers, `0.1 * a`."
    if callable(value) and call.endswith("=...)"):
        return (
            f" A strength that changes with the step is a function: give `lambda step: {call[:-4]}schedule(step))` to "
            "`jaxreg.add_regularization` or `jaxreg.proximal` in place of the regularizer."
        )
    return " To have no penalty, put None in the place of the regularizer." if value is None else ""


def _array(call: str, value: Any, rule: str, above: float | None) -> Any:
    real(f"`{call}` must be {rule}", value, strictly=True)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value
    numbers_ = np.asarray(value, dtype=np.float64)
    if not np.isfinite(numbers_).all() or not (numbers_ >= 0 if above is None else numbers_ > above).all():
        raise ValueError(f"`{call}` must be {rule}, got {short(value)}.")
    return float(numbers_) if isinstance(value, np.ndarray) and value.ndim == 0 else value


def real(rule: str, value: Any, strictly: bool = False) -> Any:
    """Return an array that is not complex, and, `strictly`, of numbers; `rule` is how the error begins."""
    dtype = value.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{rule}, got an array of dtype {dtype}. `optax.inject_hyperparams` holds numbers in the dtype of the "
            "parameters: write `optax.inject_hyperparams(factory, hyperparam_dtype=jnp.float32)`. Elsewhere take "
            "`jnp.real(value)`."
        )
    if strictly and not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{rule}, got an array of dtype {dtype}.")
    return value


def unstacked(call: str, owner: Any) -> None:
    """Raise if a coefficient of a regularizer, or of one inside it, is an array: the penalty would broadcast."""
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if field.metadata.get("coefficient") and np.shape(value):
            raise ValueError(
                f"`{call}` has a coefficient `{field.name}` of shape {np.shape(value)}. Give a strength for each entry "
                "or group by `jaxreg.Weighted(penalty, weights)`, or map over stacked regularizers: "
                "`jax.vmap(lambda reg: reg(x))(regs)`."
            )
        for inner in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(inner):
                unstacked(call, inner)


def array(call: str, x: Any, way_out: str = "") -> Any:
    """Return `x` as something that `jax.jit` takes as one numeric array; unwrap Keras and NNX variables."""
    if not isinstance(x, (jax.Array, np.ndarray, np.generic, float, int, complex)):
        unwrap = getattr(x, "__jax_array__", None)
        if unwrap is None or isinstance(x, type):
            if isinstance(x, (list, tuple)) and x and all(isinstance(entry, numbers.Real) for entry in x):
                way_out = f" Write `jnp.asarray({short(x)})`.{way_out}"
            raise TypeError(f"`{call}` takes one array, got {short(x)} of type {type(x).__name__}.{way_out}")
        x = unwrap()
    dtype = getattr(x, "dtype", None)
    if dtype is not None and not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(f"`{call}` takes an array of numbers, got dtype {dtype}.")
    return x


def matrix(call: str, x: jax.Array, problem: str = "") -> jax.Array:
    """Return `x` if it has rank 2; `problem` is another first sentence of the error."""
    if x.ndim == 2:
        return x
    problem = problem or f"`{call}` takes a matrix, got shape {x.shape}."
    if x.ndim < 2:
        raise ValueError(f"{problem} In a tree leave biases out: `jaxreg.TreeRegularizer.for_weights(reg)`.")
    name, layers = call.partition(".")[0], tuple(range(x.ndim - 2))
    raise ValueError(
        f"{problem} For one matrix, as of a convolution or of attention, write "
        f"`jaxreg.Matrix(jaxreg.{name}(...), outputs=-1)`, where `outputs` are the axes that become its columns. For a "
        f"stack of matrices write `jaxreg.Stacked(jaxreg.{name}(...), axes={layers})`, where `axes` count them."
    )


def step(call: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return a step that is a non-negative number or an array of shape () or `shape`."""
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.shape not in ((), shape):
            raise ValueError(
                f"`{call}` takes a scalar step or one of the shape {shape} of `z`, got shape {value.shape}."
            )
        real(f"`{call}` takes a real step", value, strictly=not isinstance(value, jax.core.Tracer))
        if isinstance(value, jax.core.Tracer):
            return value
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            return value
        if value.ndim == 0:
            value = value.item()
        elif not (np.asarray(value, np.float64) >= 0).all():
            raise ValueError(f"`{call}` takes a non-negative step, got {short(value)}.")
    elif isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{call}` takes a number or an array as step, got {short(value)}.")
    if isinstance(value, numbers.Real) and not float(value) >= 0:
        raise ValueError(f"`{call}` takes a non-negative step, got {short(value)}.")
    return float(value) if isinstance(value, numbers.Real) else value


def real_only(owner: str, x: jax.Array) -> None:
    """Raise for an array of a dtype that has no order."""
    if jnp.iscomplexobj(x):
        raise TypeError(f"`{owner}` takes real numbers, got dtype {x.dtype}. Give it the parts, `x.real` and `x.imag`.")


def scalar_step(owner: str, step: jax.Array, way_out: str) -> None:
    """Raise for a step of the shape of `z`, where only a scalar one has a closed form."""
    if step.ndim:
        raise NotImplementedError(
            f"`{owner}.prox` with an array step (a diagonal metric) has no closed form. {way_out}"
        )
