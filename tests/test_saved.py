"""Saved things outlive a move of files: pickles, exported programs."""

import base64
import json
import pickle
import pickletools
import subprocess
import sys
from typing import Any

import cloudpickle
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from tests import constraint_cases
from tests.cases import ALL_CASES, CASES, Case

# Written by version 0.1.0, whose modules lay flat: `base64.b64encode(pickle.dumps(...))`.
OLD = {
    "sum": (
        "gASVlAAAAAAAAACME2pheHJlZy5fcmVndWxhcml6ZXKUjANTdW2Uk5QpgZR9lIwFdGVybXOUjBNqYXhyZWcucGVuYWx0aWVzLmwx"
        "lIwCTDGUk5QpgZR9lIwCbDGURz+5mZmZmZmac2KME2pheHJlZy5wZW5hbHRpZXMubDKUjAJMMpSTlCmBlH2UjAJsMpRHP8mZmZmZ"
        "mZpzYoaUc2Iu"
    ),
    "scaled": (
        "gASV2AAAAAAAAACME2pheHJlZy5fcmVndWxhcml6ZXKUjAZTY2FsZWSUk5QpgZR9lCiMBmZhY3RvcpRHQAAAAAAAAACMB3BlbmFs"
        "dHmUjBZqYXhyZWcucGVuYWx0aWVzLmdyb3VwlIwFR3JvdXCUk5QpgZR9lChoBowUamF4cmVnLnBlbmFsdGllcy5tY3CUjANNQ1CU"
        "k5QpgZR9lCiMCHN0cmVuZ3RolEc/4AAAAAAAAIwFZ2FtbWGUR0AIAAAAAAAAdWKMBGF4aXOUSwGMBndlaWdodJSMBG5vbmWUdWJ1"
        "Yi4="
    ),
    "tree": (
        "gASVvgAAAAAAAACMDGpheHJlZy5fdHJlZZSMD1RyZWVSZWd1bGFyaXplcpSTlCmBlH2UjAVydWxlc5SMDWpheHJlZy5fcnVsZXOU"
        "jARSdWxllJOUKYGUfZQojAdwYXR0ZXJulIwHKiovYmlhc5SMC3JlZ3VsYXJpemVylE51YmgIKYGUfZQoaAuMAioqlGgNjBNqYXhy"
        "ZWcucGVuYWx0aWVzLmwxlIwCTDGUk5QpgZR9lIwCbDGURz/gAAAAAAAAc2J1YoaUc2Iu"
    ),
    "states": (
        "gASVdAEAAAAAAACMEGpheHJlZy5fcHJveGltYWyUjA1Qcm94aW1hbFN0YXRllJOUjA9vcHRheC5fc3JjLmJhc2WUjApFbXB0eVN0"
        "YXRllJOUKYGUaAUpgZSGlIwWbnVtcHkuX2NvcmUubXVsdGlhcnJheZSMDF9yZWNvbnN0cnVjdJSTlIwFbnVtcHmUjAduZGFycmF5"
        "lJOUSwCFlEMBYpSHlFKUKEsBKWgMjAVkdHlwZZSTlIwCaTSUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYolDBAAAAACU"
        "dJRiToeUgZSMEWpheHJlZy5fdHJhbnNmb3JtlIwWQWRkUmVndWxhcml6YXRpb25TdGF0ZZSTlGgLaA5LAIWUaBCHlFKUKEsBKWgX"
        "iUMEAAAAAJR0lGJoC2gOSwCFlGgQh5RSlChLASloFIwCZjSUiYiHlFKUKEsDaBhOTk5K/////0r/////SwB0lGKJQwQAAAAAlHSU"
        "YoaUgZSGlC4="
    ),
    "box": (
        "gASVrAAAAAAAAACME2pheHJlZy5fcmVndWxhcml6ZXKUjANTdW2Uk5QpgZR9lIwFdGVybXOUjBRqYXhyZWcucGVuYWx0aWVzLmJv"
        "eJSMA0JveJSTlCmBlH2UKIwFbG93ZXKURwAAAAAAAAAAjAV1cHBlcpRHP/AAAAAAAAB1YowdamF4cmVnLnBlbmFsdGllcy5ub25f"
        "bmVnYXRpdmWUjAtOb25OZWdhdGl2ZZSTlCmBlIaUc2Iu"
    ),
}
STATES = (
    jaxreg.ProximalState((optax.EmptyState(), optax.EmptyState()), np.zeros((), np.int32), None),
    jaxreg.AddRegularizationState(np.zeros((), np.int32), np.zeros((), np.float32)),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sum", jaxreg.L1(0.1) + jaxreg.L2(0.2)),
        ("scaled", 2.0 * jaxreg.Group(jaxreg.MCP(0.5, 3.0), axis=1)),
        ("tree", jaxreg.TreeRegularizer({"**/bias": None, "**": jaxreg.L1(0.5)})),
        ("box", jaxreg.Box(0.0, 1.0) + jaxreg.NonNegative()),
    ],
)
def test_pickles_of_version_0_1_0_load(name: str, value: object) -> None:
    assert pickle.loads(base64.b64decode(OLD[name])) == value


def test_optimizer_states_of_version_0_1_0_load() -> None:
    loaded = pickle.loads(base64.b64decode(OLD["states"]))
    assert jax.tree.structure(loaded) == jax.tree.structure(STATES)
    assert [type(state) for state in loaded] == [type(state) for state in STATES]


def _addresses(value: object) -> set[str]:
    """The modules that a pickle names."""
    strings = [str(argument) for code, argument, _ in pickletools.genops(pickle.dumps(value)) if "UNICODE" in code.name]
    return {text for text in strings if text.startswith("jaxreg")}


@pytest.mark.parametrize(
    "value", [*(case.regularizer for case in CASES), *STATES], ids=lambda value: type(value).__name__
)
def test_pickles_name_the_package_and_no_file(value: object) -> None:
    assert _addresses(value) == {"jaxreg"}
    assert type(value).__module__ == "jaxreg" and getattr(jaxreg, type(value).__name__) is type(value)


def test_pickles_of_trees_and_paths_name_the_package_and_no_file() -> None:
    result = jaxreg.path(lambda reg, key: (jnp.ones(2), 0.0, 0.0), jaxreg.L1(1.0), [1.0])
    for value in (jaxreg.TreeRegularizer({"**": jaxreg.L1(1.0)}), result):
        assert _addresses(value) == {"jaxreg"}


def test_exported_programs_name_the_package_and_no_file() -> None:
    reg = 2 * (jaxreg.L1(0.5) + jaxreg.Group(jaxreg.MCP(0.5)))
    exported = jax.export.export(jax.jit(lambda reg, x: reg(x)))(reg, jnp.ones((2, 2)))
    data = bytes(exported.serialize())
    assert b"jaxreg.Scaled" in data and b"jaxreg.Sum" in data and b"jaxreg.MCP" in data
    assert b"jaxreg._core" not in data and b"jaxreg.penalties" not in data


def test_a_class_of_a_user_keeps_its_own_address() -> None:
    class Mine(jaxreg.Regularizer):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.sum(x)

    assert Mine.__module__ == __name__


# What a notebook defines, is in no file: cloudpickle (Ray, Dask, joblib) takes such classes along by value.
NOTEBOOK = """
import jax
import jax.numpy as jnp
from flax import nnx

import jaxreg
import jaxreg.nnx

class Power(jaxreg.Regularizer):
    strength: float = 0.1
    order: int = jaxreg.static(4)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.strength * jnp.sum(jnp.abs(x) ** self.order)

class Half(jaxreg.Elementwise):
    strength: float = 0.1

    def profile(self, a):
        return self.strength * a**2 / 2

    def slope(self, a):
        return self.strength * a

    def scalar_prox(self, a, step):
        return a / (1 + step * self.strength)

class Between(jaxreg.Constraint):
    limit: float = 1.0

    def prox(self, z, step=1.0):
        return jnp.clip(z, -self.limit, self.limit)

class Layer(jaxreg.nnx.Regularized, nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jnp.full((2, 2), 2.0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel

tree = jaxreg.TreeRegularizer({"**": 2.0 * Power(0.5, order=3) + Half(3.0)})
layer = Layer(nnx.Rngs(0), kernel_regularizer=Half(0.5), activity_regularizer=jaxreg.L1(1.0))
tree({"a": jnp.ones(2)}), layer(jnp.ones((1, 2)))  # used before
"""
ELSEWHERE = """
import json, pickle, sys
import jax, jax.numpy as jnp
import jaxreg, jaxreg.nnx
from flax import nnx

power, half, between, tree, layer, Layer = pickle.loads(sys.stdin.buffer.read())
x = jnp.array([1.0, -2.0])
_, losses = jaxreg.nnx.with_losses(layer)(jnp.ones((1, 2)))
new = Layer(None, kernel_regularizer=half)
print(json.dumps({
    "value": float(power(x)), "gradient": jax.jit(jax.grad(power))(x).tolist(), "leaves": jax.tree.leaves(power),
    "coefficient": float(jax.grad(lambda reg: reg(x))(power).strength), "config": power.get_config(),
    "prox": half.prox(x).tolist(), "group": float(jaxreg.Group(half)(x)), "set": between.prox(x).tolist(),
    "equal": power == jax.tree.map(lambda c: c, power) == type(power)(0.5, order=3), "repr": repr(power),
    "tree": float(tree({"a": x})), "losses": {path: float(loss) for path, loss in losses.items()},
    "new": float(jaxreg.nnx.regularizer(new)(nnx.state(new))),
}))
"""


def test_what_a_notebook_defines_works_in_another_process() -> None:
    notebook: dict[str, Any] = {"__name__": "__main__"}
    exec(NOTEBOOK, notebook)
    power, half, between = notebook["Power"](0.5, order=3), notebook["Half"](1.0), notebook["Between"](1.5)
    sent = cloudpickle.dumps((power, half, between, notebook["tree"], notebook["layer"], notebook["Layer"]))
    child = subprocess.run([sys.executable, "-c", ELSEWHERE], input=sent, capture_output=True, timeout=300)
    assert child.returncode == 0, child.stderr.decode()
    assert json.loads(child.stdout) == {
        "value": 4.5,  # ½(1 + 8)
        "gradient": [1.5, -6.0],
        "leaves": [0.5],
        "coefficient": 9.0,
        "config": {"strength": 0.5, "order": 3},
        "prox": [0.5, -1.0],
        "group": 2.5,
        "set": [1.0, -1.5],
        "equal": True,
        "repr": "Power(strength=0.5, order=3)",
        "tree": 16.5,  # 2·4.5 + 3·5/2
        "losses": {"kernel": 4.0, "activity": 8.0},
        "new": 8.0,
    }


def with_symbolic_sizes(function: Any, x: Any, least: int = 1) -> Any:
    """What a program that was exported for arrays of any size makes of `x`."""
    sizes = jax.export.symbolic_shape(",".join("abcd"[: x.ndim]), constraints=[f"a >= {least}"])
    return jax.export.export(jax.jit(function))(jax.ShapeDtypeStruct(sizes, x.dtype)).call(x)


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
@pytest.mark.filterwarnings("ignore:The gradient of")
def test_penalties_are_exported_for_arrays_of_any_size(case: Case) -> None:
    x = np.random.default_rng(0).normal(size=case.shapes[0]).astype(np.float32)
    is_difference = isinstance(case.regularizer, jaxreg.Difference)
    least = case.regularizer.order if is_difference else 1  # fewer entries have no differences
    value, gradient = with_symbolic_sizes(jax.value_and_grad(lambda x: case.regularizer(x)), x, least)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(value, case.value(wide), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, case.subgradient(wide), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", constraint_cases.CASES, ids=str)
def test_sets_are_exported_for_arrays_of_any_size(case: constraint_cases.Case) -> None:
    x = 2 * np.random.default_rng(0).normal(size=case.shapes[0]).astype(np.float32)
    if isinstance(case.constraint, jaxreg.Monotone):
        with pytest.raises(NotImplementedError, match=r"need a known length, got the symbolic one"):
            with_symbolic_sizes(lambda x: case.constraint.prox(x), x)
        return
    projected = with_symbolic_sizes(lambda x: case.constraint.prox(x), x)
    np.testing.assert_allclose(projected, case.project(x.astype(np.float64)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (4, 1)])
def test_what_depends_on_the_longer_side_is_exported(shape: tuple[int, int]) -> None:
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wide = w.astype(np.float64)
    gram, rows = wide.T @ wide - np.eye(shape[1]), wide / np.linalg.norm(wide, axis=1, keepdims=True)
    pairs = shape[0] * (shape[0] - 1)
    expected = {
        jaxreg.SoftOrthogonal(1.0): np.sum(gram**2),
        jaxreg.Spectral(jaxreg.L1(1.0), method="polar"): np.linalg.svd(wide)[1].sum(),
        jaxreg.OrthogonalRegularizer(1.0): np.abs((rows @ rows.T)[~np.eye(shape[0], dtype=bool)]).sum() / max(pairs, 1),
    }
    for regularizer, value in expected.items():
        np.testing.assert_allclose(with_symbolic_sizes(regularizer, w), value, rtol=1e-4, err_msg=str(regularizer))
