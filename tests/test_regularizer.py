"""A regularizer as an object: pytree, value semantics, arguments, algebra, compilation, persistence."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from jax.sharding import PartitionSpec

import jaxreg
import jaxreg.linen  # with it Flax's serialization learns of our classes
from tests.cases import ALL_CASES, CASES, Case, Quartic, label, log_cosh, sample

each_case = pytest.mark.parametrize("case", ALL_CASES, ids=str)
TREE = jaxreg.TreeRegularizer({"**/bias": None, "**/kernel": jaxreg.L1(0.1) + jaxreg.L2(0.2)})
OBJECTS = (*(case.regularizer for case in ALL_CASES), TREE)
each_object = pytest.mark.parametrize("reg", OBJECTS, ids=repr)


# ------------------------------------------------------------------------------------------------------------- pytree


@each_object
def test_is_a_pytree_of_its_numbers(reg: Any) -> None:
    leaves, treedef = jax.tree.flatten(reg)
    assert leaves and all(type(leaf) is float for leaf in leaves)
    assert treedef.unflatten(leaves) == reg
    assert jax.tree.structure(jax.tree.map(lambda c: 2 * c, reg)) == treedef
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(reg)[0]]
    assert len(set(paths)) == len(leaves)


@each_object
@pytest.mark.parametrize(
    "placeholder",
    [None, object(), "label", PartitionSpec("x"), jax.ShapeDtypeStruct((), jnp.float32), -1, jnp.nan],
    ids=label,
)
def test_placeholders_pass_through_unflatten(reg: Any, placeholder: object) -> None:
    leaves, treedef = jax.tree.flatten(reg)
    rebuilt = treedef.unflatten([placeholder] * len(leaves))
    assert type(rebuilt) is type(reg)
    assert repr(rebuilt)
    assert all(x is placeholder for x in jax.tree.leaves(rebuilt, is_leaf=lambda x: x is placeholder))


def test_keys_are_the_field_names() -> None:
    ((path, _),) = jax.tree_util.tree_flatten_with_path(jaxreg.L2(0.5))[0]
    assert jax.tree_util.keystr(path) == ".l2"


def test_eval_shape_and_abstract_values() -> None:
    abstract = jax.eval_shape(lambda reg, x: reg(x), jaxreg.L1(0.1), jax.ShapeDtypeStruct((3,), jnp.bfloat16))
    assert abstract.shape == () and abstract.dtype == jnp.float32
    assert jax.eval_shape(lambda: jaxreg.L1(0.1)).l1.shape == ()


def test_vmap_returns_and_takes_regularizers() -> None:
    stacked = jax.vmap(lambda c: jaxreg.L1L2(c, 2 * c))(jnp.arange(3.0))
    assert stacked.l2.shape == (3,)
    values = jax.vmap(lambda reg: reg(jnp.ones(2)), in_axes=(jax.tree.map(lambda _: 0, stacked),))(stacked)
    np.testing.assert_allclose(values, [0.0, 6.0, 12.0])


# ----------------------------------------------------------------------------------------------------- value semantics


@each_object
def test_equality_hash_repr_copy_pickle(reg: Any) -> None:
    rebuilt = jax.tree.map(lambda c: c, reg)
    assert rebuilt == reg and hash(rebuilt) == hash(reg) and rebuilt is not reg
    for same in (copy.copy(reg), copy.deepcopy(reg), pickle.loads(pickle.dumps(reg))):
        assert same == reg and hash(same) == hash(reg)
    names = {**vars(jaxreg), "Quartic": Quartic, "log_cosh": log_cosh}
    if "lambda" not in repr(reg):
        assert eval(repr(reg), names) == reg
    assert jax.tree.map(lambda c: c + 1, reg) != reg
    assert reg != "L1" and reg is not None


def test_equality_by_value_of_arrays_and_modes() -> None:
    assert jaxreg.L1(jnp.float32(0.5)) == jaxreg.L1(0.5)
    assert hash(jaxreg.L1(jnp.float32(0.5))) == hash(jaxreg.L1(0.5))
    assert jaxreg.L1(jnp.arange(3.0)) == jaxreg.L1(np.arange(3.0))
    assert jaxreg.L1(jnp.arange(3.0)) != jaxreg.L1(0.5)
    assert jaxreg.OrthogonalRegularizer(0.1) != jaxreg.OrthogonalRegularizer(0.1, "columns")
    assert jaxreg.L1(0.1) != jaxreg.L2(0.1)
    with pytest.raises(TypeError, match=r"L1\(l1=\.\.\.\).*cannot be hashed"):
        hash(jaxreg.L1(jnp.arange(3.0)))


def test_frozen() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        jaxreg.L1(0.1).l1 = 0.2  # type: ignore[misc]


# ----------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "value", [1, 1.0, np.float32(1), np.float64(1), np.int8(1), np.array(1.0), np.array(1)], ids=repr
)
def test_numbers_become_python_floats(value: Any) -> None:
    assert type(jaxreg.L2(value).l2) is float and jaxreg.L2(value).l2 == 1.0


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (-1e-9, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (10**400, ValueError),
        (np.float32("nan"), ValueError),
        (jnp.float32(-1), ValueError),
        (jnp.array([0.1, -1]), ValueError),
        (np.array([np.inf]), ValueError),
        (True, TypeError),
        (np.True_, TypeError),
        ("0.1", TypeError),
        (b"1", TypeError),
        ([0.1], TypeError),
        ((0.1,), TypeError),
        ({"l1": 1}, TypeError),
        (None, TypeError),
        (1j, TypeError),
        (jnp.array(1j), TypeError),
        (jnp.array(True), TypeError),
        (abs, TypeError),
        (jaxreg.L1(), TypeError),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_wrong_coefficients(value: Any, error: type[Exception]) -> None:
    constructors: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        (r"L1\(l1=", jaxreg.L1),
        (r"L2\(l2=", jaxreg.L2),
        (r"L1L2\(l2=", lambda v: jaxreg.L1L2(0.1, v)),
        (r"OrthogonalRegularizer\(factor=", jaxreg.OrthogonalRegularizer),
        (r"Scaled\(factor=", lambda v: jaxreg.Scaled(v, jaxreg.L1())),
    )
    for call, constructor in constructors:
        with pytest.raises(error, match=call) as caught:
            constructor(value)
        assert len(str(caught.value)) < 400


def test_tracers_and_stacks_pass() -> None:
    assert jax.jit(lambda c: jaxreg.L1(c)(jnp.ones(3)))(0.5) == 1.5
    assert jaxreg.L1(jnp.arange(3.0)).l1.shape == (3,)
    with pytest.raises(ValueError, match=r"`L1` has a coefficient `l1` of shape \(3,\).*vmap"):
        jaxreg.L1(jnp.arange(3.0))(jnp.ones(3))
    with pytest.raises(ValueError, match=r"`L1\.prox` has a coefficient `l1` of shape \(3,\).*vmap"):
        jaxreg.L1(jnp.arange(3.0)).prox(jnp.ones(3))


@pytest.mark.parametrize(
    "x",
    [[1.0, 2.0], {"w": jnp.ones(2)}, "x", None, object(), (jnp.ones(2),), np.array(["a"]), jnp.ndarray],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_array_is_refused(x: Any) -> None:
    for call in (jaxreg.L1(), jaxreg.L1().prox, Quartic()):
        with pytest.raises(TypeError, match=r"takes (one array|an array of numbers), got"):
            call(x)


def test_keys_are_no_numbers() -> None:
    with pytest.raises(TypeError, match="takes an array of numbers, got dtype key"):
        jaxreg.L2()(jax.random.key(0))


def test_mode_is_checked() -> None:
    for mode in ("diag", None, 3, ["rows"]):
        with pytest.raises(ValueError, match=r"Invalid value for argument `OrthogonalRegularizer\(mode"):
            jaxreg.OrthogonalRegularizer(0.1, mode)
    with pytest.raises(TypeError, match="static and must hash"):
        jaxreg.OrthogonalRegularizer(0.1, {})


def test_from_weight_decay_is_half() -> None:
    assert jaxreg.L2.from_weight_decay(0.1) == jaxreg.L2(0.05)
    x = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(jax.grad(jaxreg.L2.from_weight_decay(0.1))(x), 0.1 * x)
    assert jax.jit(lambda wd: jaxreg.L2.from_weight_decay(wd))(0.1).l2 == jnp.float32(0.05)
    with pytest.raises(ValueError, match="non-negative"):
        jaxreg.L2.from_weight_decay(-1)


# ------------------------------------------------------------------------------------------------------- own subclasses


def test_subclassing_is_enough() -> None:
    class Mine(jaxreg.Regularizer):
        strength: float = 0.1
        power: int = jaxreg.static(2)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * jnp.sum(jnp.abs(x) ** self.power)

    reg = Mine(2, power=3)
    assert type(reg.strength) is float and jax.tree.leaves(reg) == [2.0]
    assert float(reg(jnp.array([1.0, -2.0]))) == 18.0
    assert reg(jnp.ones(70000, jnp.float16)).dtype == jnp.float32
    assert Mine.from_config(reg.get_config()) == reg == eval(repr(reg), {"Mine": Mine})
    assert float((reg + jaxreg.L1(1.0))(jnp.ones(2))) == 6.0
    np.testing.assert_allclose(jax.vmap(lambda r: r(jnp.ones(2)))(Mine(jnp.arange(3.0))), [0, 2, 4])
    assert Mine(-1.0).strength == -1.0  # only fields declared by `jaxreg.coefficient` must be non-negative
    with pytest.raises(TypeError, match="got 'a'"):
        Mine("a")  # type: ignore[arg-type]


def test_a_call_is_compiled_once_for_all_values() -> None:
    traces = []

    class Counted(jaxreg.Regularizer):
        strength: float = jaxreg.coefficient(0.1)

        def __call__(self, x: jax.Array) -> jax.Array:
            traces.append(x.shape)
            return self.strength * jnp.sum(x)

        def prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
            traces.append("prox")
            return z - step * self.strength

    x = jnp.ones(3)
    for value in (0.1, 2, np.float32(0.3), np.int64(7), np.array(0.5), True + 0.0):
        Counted(value)(x)
        Counted(value).prox(x, value)
        Counted(value).prox(x, np.float32(value))
    assert traces == [(3,), "prox"]


def test_mistakes_in_subclasses_are_seen_early() -> None:
    with pytest.raises(TypeError, match="`A` defines `__init__`; declare fields"):

        class A(jaxreg.Regularizer):
            def __init__(self) -> None: ...

    with pytest.raises(TypeError, match=r"`B\.mode: str` is a mode, not a number: declare it"):

        class B(jaxreg.Regularizer):
            mode: str = "rows"

    class C(jaxreg.Regularizer):
        strength: float = 1.0

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * x

    with pytest.raises(ValueError, match=r"`C\.__call__` must return a scalar, got shape \(3,\)"):
        C()(jnp.ones(3))

    class D(jaxreg.Regularizer):
        strength: float = 1.0

    with pytest.raises(TypeError, match="abstract"):
        D()  # type: ignore[abstract]


def test_an_overridden_call_does_not_keep_the_parents_prox() -> None:
    class Parent(jaxreg.Regularizer):
        strength: float = 1.0

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * jnp.sum(x)

        def prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
            return z - step * self.strength

    class Child(Parent):
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * jnp.sum(x**4)

    assert float(Parent().prox(2.0)) == 1.0
    with pytest.raises(NotImplementedError, match="no proximal operator"):
        Child().prox(2.0)


# ------------------------------------------------------------------------------------------------------------- algebra


def test_sums_and_multiples_flatten() -> None:
    a, b, c = jaxreg.L1(0.1), jaxreg.L2(0.2), jaxreg.OrthogonalRegularizer()
    assert a + b + c == a + (b + c) == jaxreg.Sum((a, b, c)) == sum([a, b, c])
    assert 2 * a == a * 2.0 == jaxreg.Scaled(2.0, a) == np.float64(2) * a == np.int64(2) * a
    assert isinstance(jnp.float32(2) * a, jaxreg.Scaled)
    x = jnp.asarray(sample((3, 4)), jnp.float32)
    np.testing.assert_allclose((2 * (a + 3 * b))(x), 2 * a(x) + 6 * b(x), rtol=1e-6)
    assert jaxreg.Sum()(x) == 0.0


def test_functions_join_sums() -> None:
    for reg in (jaxreg.L1(1.0) + jnp.max, jnp.max + jaxreg.L1(1.0)):
        assert float(reg(jnp.array([1.0, -3.0]))) == 5.0
    assert len(jax.tree.leaves(jaxreg.L1(1.0) + jnp.max)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: a + 1,
        lambda a: a + "l1",
        lambda a: a * a,
        lambda a: a * "2",
        lambda a: a + jaxreg.L1,
        lambda a: None + a,
        lambda a: jaxreg.Sum((1, a)),
        lambda a: jaxreg.Sum("ab"),
        lambda a: jaxreg.Scaled(2.0, 3.0),
        lambda a: jaxreg.Function(3),
    ],
)
def test_what_does_not_add_or_multiply(wrong: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        wrong(jaxreg.L1())
    with pytest.raises(ValueError, match="non-negative"):
        -1 * jaxreg.L1()


# --------------------------------------------------------------------------------------------------------- persistence


@each_object
def test_flax_serialization(reg: Any) -> None:
    target = jax.tree.map(lambda _: 0.0, reg)
    assert serialization.from_bytes(target, serialization.to_bytes(reg)) == reg


@each_object
def test_orbax_checkpoint(reg: Any, tmp_path: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "reg", reg)
        checkpointer.wait_until_finished()
        assert checkpointer.restore(tmp_path / "reg", jax.tree.map(lambda _: 0.0, reg)) == reg


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exported_programs_take_regularizers(case: Case) -> None:
    x = jnp.asarray(sample((3, 4)), jnp.float32)
    exported = jax.export.export(jax.jit(lambda reg, x: reg(x)), platforms=["cpu", "cuda", "tpu"])(case.regularizer, x)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(again.call(case.regularizer, x), case.value(np.asarray(x, np.float64)), rtol=2e-6)
