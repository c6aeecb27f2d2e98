"""The training of smaller networks: what it counts, ranks and removes, and that its page has what it measured."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from tests.benchmarks.pruning import digits, training
from tests.benchmarks.pruning.comparison import DENSE, METHODS, PROXIMAL, Comparison, Row, Setting
from tests.benchmarks.pruning.methods import multiply_adds, norms, pruned, without

pytestmark = pytest.mark.wide  # trainings

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "tests" / "benchmarks" / "results" / "pruning_training"
FILES = sorted(RESULTS.glob("*.json"))
IMAGE = np.zeros((1, 8, 8, 1), np.float32)


def convolutions(a: int, b: int, c: int) -> int:
    """Positions × entries of a kernel × channels."""
    return 64 * 9 * a + 16 * 9 * a * b + 4 * 9 * b * c + 10 * c


def residual(stream: int, *hidden: int) -> int:
    return 64 * stream + sum(2 * stream * n for n in hidden) + 10 * stream


SMALL = {
    "convolutions": (digits.ConvNet((3, 4, 5)), convolutions),
    "residual MLP": (digits.ResidualMLP(5, (4, 3)), residual),
}


@pytest.mark.parametrize("name", digits.NETWORKS)
def test_multiply_adds_are_those_on_paper_and_widths_those_of_the_variables(name: str) -> None:
    module, on_paper = SMALL[name]
    variables = module.init(jax.random.key(0), IMAGE, train=False)
    network = digits.NETWORKS[name]
    assert network.like(variables) == module
    apply = digits.forward(network)
    for images in (IMAGE, np.repeat(IMAGE, 3, axis=0)):
        assert multiply_adds(apply, variables, images) == on_paper(*module.sizes)
        assert multiply_adds(jax.jit(apply), variables, images) == on_paper(*module.sizes)


def test_the_norm_of_a_unit_is_that_of_its_penalty() -> None:
    """Σ ‖w_u‖ is the value of the group lasso; of one unit by itself it is that of the tree without the others."""
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 4))), "b": jnp.asarray(rng.normal(size=(5, 2)))}
    group = jaxreg.JointGroup(jaxreg.L1(1.0), {"a": (1, [1, -1, 0, -1]), "b": 1})
    found = norms(group, params)
    np.testing.assert_allclose(found.sum(), group(params), rtol=1e-6)
    alone = without(group, params, np.array([True, False]))
    np.testing.assert_allclose(group(alone), found[1], rtol=1e-6)
    a, b = np.asarray(params["a"]).copy(), np.asarray(params["b"]).copy()
    a[:, 2] = b[:, 0] = 0
    np.testing.assert_array_equal(alone["a"], a)
    np.testing.assert_array_equal(alone["b"], b)


def test_magnitude_removes_the_units_that_are_small_for_their_family() -> None:
    """Channels are made small on purpose, in a family of large norms and one of small ones; the norm counts beside the
    mean of the family. One of each family stays, whatever the target."""
    module, _ = SMALL["convolutions"]
    variables = jax.tree.map(np.array, module.init(jax.random.key(0), IMAGE, train=False))
    params, small = variables["params"], {0: [1], 1: [0, 3], 2: [2, 3, 4]}
    for i, channels in small.items():
        for leaf in (params[f"Conv_{i}"]["kernel"], params[f"BatchNorm_{i}"]["scale"]):
            leaf[:] = 10.0 ** (i - 1) * (1 + 0.01 * np.arange(leaf.shape[-1]))
            leaf[..., channels] *= 0.1
    apply = digits.forward(digits.ConvNet)
    groups = jaxreg.units(apply, variables, IMAGE).joint_groups(jaxreg.L1(1.0)).terms
    smaller = pruned(digits.ConvNet, variables, groups, IMAGE, convolutions(2, 2, 2))
    assert digits.ConvNet.like(smaller).widths == (2, 2, 2)
    for i, channels in small.items():
        kept = np.delete(params[f"Conv_{i}"]["kernel"], channels, axis=-1)
        kept = kept if i == 0 else np.delete(kept, small[i - 1], axis=2)
        np.testing.assert_array_equal(smaller["params"][f"Conv_{i}"]["kernel"], kept)
    least = pruned(digits.ConvNet, variables, groups, IMAGE, 0)
    assert digits.ConvNet.like(least).widths == (1, 1, 1)
    most = pruned(digits.ConvNet, variables, groups, IMAGE, convolutions(3, 4, 5))
    assert digits.ConvNet.like(most).widths == (3, 4, 5)


def test_images_move_by_at_most_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise each is one of the nine windows of the image with a border of zeros, and all nine come up."""
    monkeypatch.setattr(digits, "NOISE", 0.0)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 8, 1)).astype(np.float32)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[r : r + 8, c : c + 8].tobytes() for r, c in itertools.product(range(3), range(3))}
    assert {x.tobytes() for x in digits.disturbed(np.repeat(image[None], 200, axis=0), rng)} == windows


def row(count: int) -> Row:
    return Row("residual MLP", PROXIMAL, 0.0, 0, Setting(1.0), [], count, None, 0.0, 0.0, 0.0)


def test_a_share_is_a_band_a_factor_of_two_wide() -> None:
    """Of an empty one the network is taken that is nearest."""
    comparison = Comparison("residual MLP", training.FULL)
    rows = [row(int(comparison.dense * share)) for share in (1.0, 0.6, 0.4, 0.2)]
    marked = [comparison._in_band(r) for r in rows]
    assert [r.share for r in marked] == [0, 1 / 2, 1 / 2, 1 / 4]
    assert comparison._near(1 / 2, marked) == marked[1:3]
    assert comparison._near(1 / 16, marked) == marked[3:]


@pytest.mark.slow
def test_the_quick_run_has_every_method_and_its_table(tmp_path: Path) -> None:
    file = tmp_path / "new" / "quick.json"
    training.measure(training.QUICK, file)
    result, rows = training.read(file)
    assert [r.method for r in rows if r.chosen] == [DENSE, *METHODS]
    table = training.markdown(file)
    assert all(f"| {method} |" in table for method in (DENSE, *METHODS)) and result["budget"]["first"] == 20
    training.picture(file, tmp_path / "quick.png")
    assert (tmp_path / "quick.png").stat().st_size > 1000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_page_has_what_the_long_run_measured(file: Path) -> None:
    """`python -m tests.benchmarks.pruning.training --table FILE` prints the table."""
    page = (RESULTS.parent.parent / "README.md").read_text()
    assert training.markdown(file) in page, f"paste what `--table {file.name}` prints"
    assert f"results/pruning_training/{file.stem}.png" in page and file.with_suffix(".png").exists()
    result, rows = training.read(file)
    assert result["budget"] == json.loads(json.dumps(dataclasses.asdict(training.FULL)))
    for name, seed in itertools.product(digits.NETWORKS, training.FULL.seeds):
        own = [r for r in rows if (r.network, r.seed, r.chosen) == (name, seed, True)]
        wanted = [(DENSE, 0.0), *itertools.product(METHODS, training.FULL.shares)]
        assert sorted((r.method, r.share) for r in own) == sorted(wanted)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_methods_had_the_same_multiply_adds_and_the_settings_that_were_best(file: Path) -> None:
    """To within a unit of the proximal method's; with the first seed no other setting had a better validation."""
    _, rows = training.read(file)
    for chosen in (r for r in rows if r.chosen):
        on_paper = SMALL[chosen.network][1]
        assert chosen.multiply_adds == on_paper(*chosen.sizes)
        if chosen.method not in (DENSE, PROXIMAL):
            (goal,) = (
                r.multiply_adds
                for r in rows
                if r.chosen
                and (r.network, r.seed, r.share, r.method) == (chosen.network, chosen.seed, chosen.share, PROXIMAL)
            )
            sizes = [[n + (i == k) for i, n in enumerate(chosen.sizes)] for k in range(len(chosen.sizes))]
            unit = max(on_paper(*larger) - chosen.multiply_adds for larger in sizes)
            assert abs(chosen.multiply_adds - goal) <= unit
        if chosen.seed == 0:
            tried = [
                r.validation
                for r in rows
                if not r.chosen and (r.network, r.method, r.share) == (chosen.network, chosen.method, chosen.share)
            ]
            assert chosen.validation == max(tried)
