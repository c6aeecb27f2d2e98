"""The pictures: what is drawn against the numbers, light and dark, colours that colour-blind readers tell apart."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt

import jaxreg
import jaxreg.plot
from jaxreg.plot import _style

RNG = np.random.default_rng(0)
STYLES = ("default", "dark_background")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def result(n=6, entries=4):
    coefficients = np.geomspace(1.0, 1e-3, n)
    w = RNG.normal(size=entries)
    params = np.sign(w) * np.maximum(np.abs(w) - coefficients[:, None], 0)
    return types.SimpleNamespace(
        coefficients=coefficients,
        losses=coefficients,
        scores=1 - coefficients,
        standard_errors=np.full(n, 0.1),
        zeros=(params == 0).mean(axis=1),
        params={"a": params[:, : entries // 2], "b": params[:, entries // 2 :]},
        best=4,
        best_1se=2,
    )


def network():
    params = {"first": {"kernel": RNG.normal(size=(6, 5)), "bias": np.zeros(5)}, "conv": RNG.normal(size=(3, 3, 2, 4))}
    params["first"]["kernel"][:, 3] = 0
    params["first"]["kernel"][[0, 2]] = 0
    return params


def draw_all():
    params = network()
    yield jaxreg.plot.path(result())
    yield jaxreg.plot.sparsity(params)
    yield jaxreg.plot.spectrum(params)
    yield jaxreg.plot.weights(params, jax.tree.map(np.zeros_like, params))
    yield jaxreg.plot.curves({"train": [3.0, 2.0], "test": [3.0, 2.5]}, {"L1": [1.0, 0.5]})


@pytest.mark.parametrize("style", STYLES)
def test_every_picture_is_drawn_in_light_and_dark(style, tmp_path):
    with plt.style.context(style):
        for i, axes in enumerate(draw_all()):
            figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
            figure.savefig(tmp_path / f"{i}.png")
            image = plt.imread(tmp_path / f"{i}.png")[..., :3]
            assert (image[0, 0].mean() < 0.5) == (style == "dark_background")
            assert len(np.unique((10 * image).round() @ [1, 11, 121])) > 5  # colours, to a tenth


def test_the_path_has_the_numbers_of_the_result():
    found = result()
    scores, zeros, weights = jaxreg.plot.path(found)
    curve = next(line for line in scores.lines if len(line.get_xdata()) == 6)
    np.testing.assert_array_equal(curve.get_xdata(), found.coefficients[::-1])
    np.testing.assert_array_equal(curve.get_ydata(), found.scores[::-1])
    np.testing.assert_allclose(zeros.lines[0].get_ydata(), 100 * found.zeros[::-1])
    drawn = np.array([line.get_ydata() for line in weights.lines[:4]]).T
    np.testing.assert_array_equal(drawn, np.hstack([found.params["a"], found.params["b"]])[::-1])
    marks = [line.get_xdata()[0] for line in scores.lines if len(line.get_xdata()) == 2]
    assert marks == [found.coefficients[4], found.coefficients[2]]
    assert scores.get_xscale() == "log"


def test_a_path_that_ends_at_0_and_one_of_many_weights():
    found = result(entries=100)
    found.coefficients[-1] = 0.0
    axes = jaxreg.plot.path(found)
    assert len(axes) == 2
    assert axes[0].get_xscale() == "symlog"
    axes[0].figure.canvas.draw()


def test_the_bars_are_the_shares():
    params = network()
    axes = jaxreg.plot.sparsity(params)
    entries, inputs, outputs = ([bar.get_width() for bar in container] for container in axes.containers)
    kernel = params["first"]["kernel"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["conv", "first/bias", "first/kernel"]
    np.testing.assert_allclose(entries, [0, 100, 100 * np.mean(kernel == 0)])
    np.testing.assert_allclose(inputs, [0, 100 * 2 / 6])
    np.testing.assert_allclose(outputs, [0, 100 * 1 / 5])
    same = jaxreg.plot.sparsity(jaxreg.sparsity(params))
    assert [bar.get_width() for bar in same.containers[0]] == entries


def test_many_leaves_share_bars():
    axes = jaxreg.plot.sparsity({f"layer_{i}": np.eye(2) for i in range(1000)})
    assert [text.get_text() for text in axes.get_yticklabels()] == ["layer_{0..999} ×1000"]
    assert [bar.get_width() for bar in axes.containers[0]] == [50.0]


def test_the_spectrum_is_that_of_the_matrix_and_tells_its_rank():
    left, _ = np.linalg.qr(RNG.normal(size=(8, 4)))
    right, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    kernel = (left[:, :3] * [4.0, 2.0, 1.0]) @ right[:3]
    axes = jaxreg.plot.spectrum({"w": kernel, "conv": kernel.reshape(2, 2, 2, 5)})
    for line in axes.lines:
        np.testing.assert_allclose(line.get_ydata()[:3], [4, 2, 1], rtol=1e-12)
        assert np.isnan(line.get_ydata()[3:]).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["conv, rank 3 of 5", "w, rank 3 of 5"]


@pytest.mark.parametrize("style", STYLES)
def test_exact_zeros_have_a_colour_of_their_own(style):
    with plt.style.context(style):
        before = np.array([[1.0, -1e-9], [0.5, -1.0]])
        axes = jaxreg.plot.weights(jnp.asarray(before, jnp.bfloat16), np.where(np.abs(before) < 0.6, 0, before))
        images = [one.images[0].get_array() / 255 for one in axes[0]]
        zero = np.asarray(_style.zero_colour())
        assert [(np.abs(image - zero).max(axis=-1) < 0.02).sum() for image in images] == [0, 2]
        assert [one.get_title() for one in axes[0]] == ["before: none exactly 0", "after: 50.0% exactly 0"]


def test_curves_keep_data_and_penalties_apart():
    axes = jaxreg.plot.curves([3.0, 2.0, 1.0], {"a": [0.5, 0.1, 0.0], "b": [1, 1, 1]}, steps=[0, 5, 10])
    assert [len(one.lines) for one in axes] == [1, 2]
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), [0, 5, 10])
    assert [one.get_yscale() for one in axes] == ["log", "symlog"]
    assert jaxreg.plot.curves([-1.0, 2.0], {})[0].get_yscale() == "linear"


def test_given_axes_are_drawn_into():
    figure, axes = plt.subplots(1, 3)
    assert jaxreg.plot.path(result(), axes=axes)[2] is axes[2]
    one = figure.add_subplot()
    assert jaxreg.plot.sparsity(network(), axes=one) is one
    assert jaxreg.plot.spectrum(network(), axes=one) is one
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxreg.plot.curves({"a": [1, 2]}, [1, 2], steps=[1]), r"`jaxreg\.plot\.curves\(losses=.*'a'.*\(2,\)"),
        (lambda: jaxreg.plot.curves([[1, 2]], [1, 2]), r"shape \(1, 2\)"),
        (lambda: jaxreg.plot.curves([1], [1], axes=[None]), r"takes 2 matplotlib axes here, got 1"),
        (lambda: jaxreg.plot.spectrum({"bias": np.ones(3)}), r"no leaf has two axes or more; paths are \['bias'\]"),
        (lambda: jaxreg.plot.spectrum(np.full((2, 2), np.nan)), "not finite"),
        (lambda: jaxreg.plot.weights({"a": np.eye(2)}, {"b": np.eye(2)}), r"same paths.*'a'.*'b'"),
        (lambda: jaxreg.plot.weights(np.ones(3), np.ones(3)), "got {} and {}"),
    ],
    ids=["steps", "rank", "axes", "no matrix", "nan", "paths", "vectors"],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# What a reader without one kind of cone sees (Viénot, Brettel, Mollon 1999; Machado et al. 2009 for tritanopia), on
# linear RGB.
BLIND = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(rgb):
    """CIELAB of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(np.maximum(to_xyz @ rgb / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear(colour):
    s = np.array(colors.to_rgb(colour))
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("palette", [_style.LIGHT, _style.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("blindness", BLIND)
def test_the_first_colours_are_told_apart_without_a_cone(palette, blindness):
    seen = [lab(np.clip(np.array(BLIND[blindness]) @ linear(colour), 0, 1)) for colour in palette[:3]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


@pytest.mark.parametrize(("palette", "background"), [(_style.LIGHT, 1.0), (_style.DARK, 0.0)], ids=["light", "dark"])
def test_lines_stand_out_from_the_background(palette, background):
    for colour in palette:
        luminance = np.array([0.2126, 0.7152, 0.0722]) @ linear(colour)
        contrast = (max(luminance, background) + 0.05) / (min(luminance, background) + 0.05)
        assert contrast >= 2.7, colour


def test_names_of_leaves_are_no_formulas():
    name = r"_$\frac{a}$ $b$"
    tree = {name: jnp.eye(3), "b": jnp.eye(3)}
    drawn = jaxreg.plot.spectrum(tree)
    jaxreg.plot.sparsity(tree)
    jaxreg.plot.weights(tree, tree)
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # a formula that is none raises here
    assert len(drawn.get_legend().get_texts()) == 2
    text = drawn.get_legend().get_texts()[0]
    assert text._preprocess_math(text.get_text()) == (f" {name}, rank 3 of 3", False)
