"""The commands `inspect` and `convert`: every format against what was saved, wrong files, and Keras itself."""

import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile

import flax.serialization
import h5py
import jax
import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.flax
from flax import nnx

import jaxreg
from jaxreg._commands.main import main

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KERNEL = np.array([[3.0, 0.0, -1.0], [0.0, 4.0, 0.0]], np.float32)
BIAS = np.array([0.5, 0.0, 0.25], ml_dtypes.bfloat16)
PARAMS = {"Dense_0": {"kernel": jnp.asarray(KERNEL), "bias": jnp.asarray(BIAS)}}
RULES = {"rules": [["**/bias", None], ["**/kernel", {"class_name": "L1", "config": {"l1": 0.5}}]]}

L = keras.layers


def save_npz(path):
    np.savez(path, **{"Dense_0/kernel": KERNEL, "Dense_0.bias": BIAS.astype(np.float32)})


def save_safetensors(path):
    flat = {"Dense_0.kernel": PARAMS["Dense_0"]["kernel"], "Dense_0.bias": PARAMS["Dense_0"]["bias"]}
    safetensors.flax.save_file(flat, path)


def save_msgpack(path):
    path.write_bytes(flax.serialization.to_bytes(PARAMS))


def save_orbax(path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), PARAMS)


def save_orbax_steps(path):
    with ocp.CheckpointManager(path.absolute()) as manager:
        manager.save(2, args=ocp.args.StandardSave(jax.tree.map(jnp.zeros_like, PARAMS)))
        manager.save(10, args=ocp.args.StandardSave(PARAMS))
        manager.wait_until_finished()


def save_nnx(path):
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0), bias_init=nnx.initializers.ones)
    model.kernel[...], model.bias[...] = KERNEL, BIAS.astype(np.float32)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), {"Dense_0": nnx.state(model)})


SAVE = {
    "npz": save_npz,
    "safetensors": save_safetensors,
    "msgpack": save_msgpack,
    "orbax": save_orbax,
    "orbax steps": save_orbax_steps,
    "orbax nnx": save_nnx,
}


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(RULES))
    return path


@pytest.mark.parametrize("kind", SAVE)
def test_every_format_gives_what_was_saved(kind, tmp_path, rules, capsys):
    path = tmp_path / "checkpoint"  # no suffix: what is inside decides
    SAVE[kind](path)
    path = path if path.exists() else path.with_suffix(".npz")
    assert main(["inspect", str(path), "--rules", str(rules), "--json"]) == 0
    captured = capsys.readouterr()
    read = json.loads(captured.out)
    leaves = {leaf["path"]: leaf for leaf in read["leaves"]}
    assert set(leaves) == {"Dense_0/kernel", "Dense_0/bias"}
    kernel, bias = leaves["Dense_0/kernel"], leaves["Dense_0/bias"]
    assert (kernel["shape"], kernel["dtype"], kernel["zeros"], kernel["penalty"]) == ([2, 3], "f32", 3, 4.0)
    assert (bias["shape"], bias["zeros"], bias["penalty"]) == ([3], 1, None)
    assert bias["dtype"] == ("f32" if kind in {"npz", "orbax nnx"} else "bf16")
    assert read["total"]["penalty"] == 4.0
    assert captured.err == ""


def test_a_part_of_a_checkpoint(tmp_path, rules, capsys):
    path = tmp_path / "state.msgpack"
    state = {"params": PARAMS, "opt_state": {"0": {"mu": PARAMS}}, "step": 3}
    path.write_bytes(flax.serialization.to_bytes(state))
    assert main(["inspect", str(path), "--rules", str(rules), "--under", "params", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["penalty"] == 4.0
    assert main(["inspect", str(path), "--under", "weights"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"python -m jaxreg inspect: --under weights: nothing is below it in {path}; at the top are opt_state, params\n"
    )


def test_the_table_has_80_columns_and_shows_an_idle_rule(tmp_path, capsys):
    save_npz(tmp_path / "a.npz")
    path = tmp_path / "rules.json"
    path.write_text('{"rules": [["**/kernle", "l2"]]}')
    assert main(["inspect", str(tmp_path / "a.npz"), "--rules", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "rule '**/kernle', L2(l2=0.01): NO LEAF MATCHES" in lines


def test_nan_is_valid_json(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", w=np.array([np.nan, 1.0]))
    path = tmp_path / "rules.json"
    path.write_text('{"rules": [["**", "l2"]]}')
    assert main(["inspect", str(tmp_path / "a.npz"), "--rules", str(path), "--json"]) == 0

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["total"]["penalty"] == "nan"


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    np.savez(tmp_path / "a.npz", **{"x" * i: np.ones(i) for i in range(1, 300)})
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "jaxreg", "inspect", str(tmp_path / "a.npz")]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


# ------------------------------------------------------------------------------------------------------- wrong files


MARK = os.path.join(tempfile.gettempdir(), "jaxreg-was-run")


class Trap:
    def __reduce__(self):
        return (os.mkdir, (MARK,))


def torch_like(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))


def h5_with(fill):
    def write(path):
        with h5py.File(path, "w") as file:
            fill(file)

    return write


def objects(path):
    with path.open("wb") as file:
        np.savez(file, w=np.array([Trap()]))


def truncated(save, keep):
    def write(path):
        save(path)
        saved = path if path.exists() else path.with_suffix(".npz")
        data = saved.read_bytes()[:keep]
        saved.unlink()
        path.write_bytes(data)

    return write


WRONG = {
    "missing": (lambda path: None, "cannot read it (No such file or directory)"),
    "empty": (lambda path: path.touch(), "none of .npz, .safetensors"),
    "text": (lambda path: path.write_text("hello world, hello"), "none of .npz, .safetensors"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Trap())), "a pickle, which can run code"),
    "torch": (torch_like, "a pickle, which can run code"),
    "object array": (objects, "damaged, or not what it seems"),
    "cut npz": (truncated(save_npz, 100), "damaged, or not what it seems"),
    "cut safetensors": (truncated(save_safetensors, 150), "damaged, or not what it seems"),
    "cut msgpack": (truncated(save_msgpack, 60), "damaged, or not what it seems"),
    "cut h5": (truncated(h5_with(lambda f: f.create_dataset("vars/0", data=KERNEL)), 200), "cannot read it"),
    "no arrays": (lambda path: path.write_bytes(flax.serialization.msgpack_serialize({"a": "b"})), "holds no arrays"),
    "directory": (lambda path: path.mkdir(), "no Orbax checkpoint"),
    "damaged orbax": (lambda path: (path.mkdir(), (path / "_METADATA").write_text("{")), "damaged"),
    "external link": (
        h5_with(lambda f: f.__setitem__("layers", h5py.ExternalLink("/etc/passwd", "/"))),
        "is a link to elsewhere",
    ),
    "external model": (
        h5_with(lambda f: f.__setitem__("model_weights", h5py.ExternalLink("/etc/passwd", "/"))),
        "is a link to elsewhere",
    ),
    "external data": (
        h5_with(lambda f: f.create_dataset("vars/0", (64,), "u1", external=[("/etc/passwd", 0, 64)])),
        "is not stored in the file",
    ),
    "huge claim": (
        h5_with(lambda f: f.create_dataset("vars/0", (10**12,), "f4", chunks=(1000,))),
        "is not stored in the file",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_end_in_one_line(kind, tmp_path, capsys):
    make, message = WRONG[kind]
    path = tmp_path / "file"
    made = make(path)
    del made
    assert main(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"python -m jaxreg inspect: {path}: ")
    assert message in captured.err
    assert not os.path.exists(MARK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("[1]", "a rule is a pair"),
        ('"l1"', "rules are an object or a list of pairs, got 'l1'"),
        ("null", "rules are an object or a list of pairs, got None"),
        ('{"class_name": "L1", "config": {"l1": 0.1}}', "rules are an object or a list of pairs, got {'class_name'"),
        ('{"**/kernel": "l1", "**/kernel": "l2"}', "the key '**/kernel' stands there twice"),
        ('{"rules": [["**", {"class_name": "L1", "class_name": "L2"}]]}', "the key 'class_name' stands there twice"),
        ('{"rules": [["**/kernel", "lasso"]]}', "Could not interpret regularizer identifier: 'lasso'"),
        ('{"rules": [["**/kernel", {"class_name": "L1", "config": {"l1": -1}}]]}', "-1"),
        ('{"rules": [["**/kernel"]]}', "a rule is a pair"),
        ('{"rules": [[{"re": "(a*)*", "flags": 0}, "l1"]]}', "cannot backtrack"),
        (None, "cannot read it (No such file or directory)"),
    ],
)
def test_wrong_rules_end_in_one_line(text, message, tmp_path, capsys):
    save_npz(tmp_path / "a.npz")
    path = tmp_path / "rules.json"
    if text is not None:
        path.write_text(text)
    assert main(["inspect", str(tmp_path / "a.npz"), "--rules", str(path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error and f"--rules {path}" in error


TWO_RULES = '["**/bias", null], ["**", {"class_name": "L2", "config": {"l2": 0.5}}]'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"rules": [{TWO_RULES}]}}',
        f"[{TWO_RULES}]",
        '{"**/bias": null, "**": {"class_name": "L2", "config": {"l2": 0.5}}}',
        '{"rules": {"**/bias": null, "**": {"class_name": "L2", "config": {"l2": 0.5}}}}',
    ],
    ids=["get_config", "pairs", "object", "rules as an object"],
)
def test_rules_may_be_written_as_one_would_write_them(text, tmp_path, capsys):
    """The first rule that matches decides, so their order is that of the file."""
    np.savez(tmp_path / "a.npz", **{"a/bias": np.ones(3, np.float32), "a/kernel": np.ones((2, 3), np.float32)})
    (tmp_path / "rules.json").write_text(text)
    assert main(["inspect", str(tmp_path / "a.npz"), "--rules", str(tmp_path / "rules.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {leaf["path"]: leaf["penalty"] for leaf in found["leaves"]} == {"a/bias": None, "a/kernel": 3.0}


def test_the_way_out_of_rules_that_are_one_regularizer(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", kernel=np.ones(3, np.float32))
    rules, call = tmp_path / "rules.json", ["inspect", str(tmp_path / "a.npz"), "--rules", str(tmp_path / "rules.json")]
    rules.write_text('"l1"')
    assert main(call) == 2
    rules.write_text(capsys.readouterr().err.rstrip(".\n").partition("for example ")[2])
    assert main(call) == 0 and "L1(0.01)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "save", "package"), [("safetensors", save_safetensors, "safetensors"), ("flax", save_msgpack, "flax")]
)
def test_a_missing_library_tells_what_to_install(module, save, package, tmp_path, monkeypatch, capsys):
    save(tmp_path / "file")
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["inspect", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f'python -m jaxreg inspect: needs {package}: pip install "jaxreg[inspect]"\n'


# ------------------------------------------------------------------------------------------------------------- Keras


def model_with_everything():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((6,)), L.Dense(3, name="dense", bias_regularizer="l1")], name="inner")
    frozen = L.Dense(6, kernel_regularizer="l1", name="frozen", trainable=False)
    x = inputs = keras.Input((8, 4))
    x = L.LSTM(5, return_sequences=True, kernel_regularizer="l2", recurrent_regularizer=keras.regularizers.L1(0.02))(x)
    x = L.Bidirectional(L.GRU(3, return_sequences=True, recurrent_regularizer="l1"))(x)
    x = L.RNN(L.StackedRNNCells([L.LSTMCell(3, kernel_regularizer="l1"), L.GRUCell(6)]), return_sequences=True)(x)
    x = L.MultiHeadAttention(2, 3, kernel_regularizer="l2", bias_regularizer="l1")(x, x)
    x = L.SeparableConv1D(4, 3, depthwise_regularizer="l1", pointwise_regularizer="l2")(x)
    x = L.DepthwiseConv1D(3, depthwise_regularizer="l1", use_bias=False, bias_regularizer="l1")(x)
    x = L.BatchNormalization(scale=False, beta_regularizer="l2")(x)
    x = L.LayerNormalization(gamma_regularizer="l1")(x)
    x = L.TimeDistributed(L.Dense(2, kernel_regularizer="l2", name="[td]"))(x)
    x = L.PReLU(alpha_regularizer="l2")(x)
    x = L.Flatten()(x)
    x = L.Dense(6, name="dense", kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2), activity_regularizer="l2")(x)
    x = frozen(x)
    model = keras.Model(inputs, inner(x))
    for variable in model.trainable_variables:  # no biases of 0, or a wrong rule for one would not be seen
        variable.assign(np.random.default_rng(len(variable.path)).normal(size=variable.shape))
    return model


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory):
    out = tmp_path_factory.mktemp("keras")
    model = model_with_everything()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(out / "model.keras")
    model.save_weights(out / "model.weights.h5")
    (out / "model.json").write_text(model.to_json())
    model.save(out / "model.h5")
    return out, model


def weight_losses(model):
    """The penalties of weights as Keras counts them, each variable with its own regularizer."""
    return {v.path: float(v.regularizer(v)) for v in model.trainable_variables if v.regularizer is not None}


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_keras_model_is_read_as_keras_names_it_with_its_own_penalties(name, keras_files, capsys):
    out, model = keras_files
    assert main(["inspect", str(out / name), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    leaves = {leaf["path"]: leaf for leaf in read["leaves"] if "seed_generator" not in leaf["path"]}
    variables = {v.path: v for v in model.variables if "seed_generator" not in v.path}
    assert {path: leaf["shape"] for path, leaf in leaves.items()} == {p: list(v.shape) for p, v in variables.items()}
    penalties = {path: leaf["penalty"] for path, leaf in leaves.items() if leaf["penalty"] is not None}
    assert penalties == pytest.approx(weight_losses(model), rel=1e-5)
    assert len(penalties) == 22
    assert read["unmatched"] == []


@pytest.mark.parametrize("text", [str, str.encode])
def test_an_h5_file_of_keras_2_is_read(text, tmp_path, capsys):
    """Keras 2 wrote the short form of regularizers, as bytes or, later, as a string."""
    dense = {"name": "dense", "units": 2, "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.5}}}
    config = {"name": "sequential", "layers": [{"class_name": "Dense", "config": dense}]}
    kernel = 2 * np.ones((3, 2), np.float32)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["model_config"] = text(json.dumps({"class_name": "Sequential", "config": config}))
        file["model_weights/dense/dense/kernel:0"] = kernel
        file["model_weights/inner/hidden/kernel:0"] = kernel  # of a model in the model it wrote no full path
        file["optimizer_weights/Adam/iter:0"] = 3
        file["model_weights"].attrs["layer_names"] = [b"dense", b"inner"]
    assert main(["inspect", str(tmp_path / "old.h5"), "--json"]) == 0
    leaves = {leaf["path"]: leaf["penalty"] for leaf in json.loads(capsys.readouterr().out)["leaves"]}
    assert leaves == {"dense/kernel": 0.5 * 4 * 6, "inner/hidden/kernel": None}
    assert main(["convert", str(tmp_path / "old.h5")]) == 0
    rules = jaxreg.TreeRegularizer.from_config(json.loads(capsys.readouterr().out))
    assert float(rules({"dense": {"kernel": 2 * np.ones((3, 2)), "bias": np.ones(2)}})) == 0.5 * 4 * 6


def test_an_h5_file_of_weights_alone_names_the_way_out(keras_files, capsys):
    out, _ = keras_files
    assert main(["convert", str(out / "model.weights.h5")]) != 0
    assert "holds weights alone, no model_config; give the JSON of model.to_json()" in capsys.readouterr().err
    assert main(["convert", str(out / "model.json")]) == 0


@pytest.mark.parametrize("name", ["model.keras", "model.json", "model.h5"])
def test_converted_rules_give_the_penalty_of_keras(name, keras_files, capsys):
    out, model = keras_files
    assert main(["convert", str(out / name)]) == 0
    captured = capsys.readouterr()
    rules = jaxreg.TreeRegularizer.from_config(json.loads(captured.out))
    params = {v.path: np.asarray(v) for v in model.trainable_variables}
    assert float(rules(params)) == pytest.approx(sum(weight_losses(model).values()), rel=1e-5)
    assert {p: reg.get_config() for p, reg in rules.assignment(params).items()} == {
        v.path: v.regularizer.get_config() for v in model.trainable_variables if v.regularizer is not None
    }
    notes = captured.err.splitlines()
    assert notes == [
        "left out: activity_regularizer of dense, L2(l2=0.01); it is no penalty of weights",
        "left out: kernel_regularizer of frozen, L1(l1=0.009999999776482582); the layer is frozen",
    ]


def test_constraints_are_named_as_left_out(tmp_path, capsys):
    layers = [keras.Input((2,)), L.Dense(1, name="d", kernel_regularizer="l2", kernel_constraint="non_neg")]
    (tmp_path / "model.json").write_text(keras.Sequential(layers).to_json())
    assert main(["convert", str(tmp_path / "model.json")]) == 0
    assert "left out: kernel_constraint of d; a projection is for `jaxreg.proximal`\n" == capsys.readouterr().err


def test_weights_without_a_config_are_numbered(keras_files, capsys):
    out, model = keras_files
    assert main(["inspect", str(out / "model.weights.h5"), "--json"]) == 0
    leaves = {leaf["path"]: leaf for leaf in json.loads(capsys.readouterr().out)["leaves"]}
    assert leaves["inner/dense/0"]["shape"] == [6, 3]
    assert leaves["dense/0"]["shape"] == [8, 6]
    entries = sum(leaf["size"] for leaf in leaves.values() if leaf["zeros"] is not None)
    assert entries == sum(int(np.prod(v.shape)) for v in model.variables if "seed" not in v.path)
    assert not any(path.startswith("optimizer") for path in leaves)


def test_a_sequential_model_that_was_built_late(tmp_path, capsys):
    model = keras.Sequential([L.Dense(3, kernel_regularizer="l2"), L.Embedding(4, 2, embeddings_regularizer="l1")])
    (tmp_path / "a.json").write_text(keras.Sequential(model.layers[:1]).to_json())
    model = keras.Sequential([keras.Input((2,)), L.Embedding(4, 2, embeddings_regularizer="l1")])
    model.save(tmp_path / "b.keras")
    assert main(["convert", str(tmp_path / "a.json")]) == 0
    assert json.loads(capsys.readouterr().out)["rules"][0][1]["config"] == {"l2": 0.01}
    assert main(["inspect", str(tmp_path / "b.keras"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unmatched"] == []


@keras.saving.register_keras_serializable()
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = L.Dense(3, name="first", kernel_regularizer="l2")

    def call(self, x):
        return self.first(x)


def test_a_subclassed_model_is_shown_without_its_class(tmp_path, capsys):
    model = Subclassed()
    model(np.ones((1, 2)))
    model.save(tmp_path / "model.keras")
    assert main(["inspect", str(tmp_path / "model.keras"), "--json"]) == 0
    leaves = {leaf["path"]: leaf["shape"] for leaf in json.loads(capsys.readouterr().out)["leaves"]}
    assert leaves == {"first/0": [2, 3], "first/1": [3]}
    assert main(["convert", str(tmp_path / "model.keras")]) == 2
    assert "a subclassed one has its layers in its code" in capsys.readouterr().err


def test_a_regularizer_that_is_not_known_asks_for_rules(keras_files, tmp_path, rules, capsys):
    out, _ = keras_files
    with zipfile.ZipFile(out / "model.keras") as old, zipfile.ZipFile(tmp_path / "new.keras", "w") as new:
        config = old.read("config.json").replace(b'"L1L2"', b'"Mine"')
        new.writestr("config.json", config)
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    assert main(["inspect", str(tmp_path / "new.keras")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "layer dense, kernel_regularizer: " in error and "Or give the rules by --rules." in error
    assert main(["inspect", str(tmp_path / "new.keras"), "--rules", str(rules), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["penalty"] > 0


def keras_zip(config):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    return stream.getvalue()


UNKNOWN = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"name": "d"}}]}}
UNKNOWN["config"]["layers"][0]["config"]["kernel_regularizer"] = {"module": "os", "class_name": "system", "config": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "neither a .keras archive nor JSON"),
        (b"[1]", "no layers in the config"),
        (b'{"class_name": "Mine", "config": {}}', "a subclassed one has its layers in its code"),
        (keras_zip({}), "no layers in the config"),
        (json.dumps(UNKNOWN).encode(), "layer d, kernel_regularizer: "),
        (b"PK\x03\x04 cut", "neither a .keras archive nor JSON"),
        (b"[" * 100_000, ""),
    ],
    ids=["text", "list", "subclassed", "empty config", "unknown regularizer", "cut zip", "deep"],
)
def test_models_that_cannot_be_converted_end_in_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert main(["convert", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1 and message in captured.err


def test_neither_command_imports_keras_and_help_needs_no_extra(keras_files):
    out, _ = keras_files
    code = f"""
import sys
for name in ("keras", "tensorflow", "rich", "matplotlib"):
    sys.modules[name] = None
from jaxreg._commands.main import main
assert main(["inspect", {str(out / "model.keras")!r}]) == 0
for name in ("h5py", "safetensors", "orbax", "flax"):
    sys.modules[name] = None
assert main(["convert", {str(out / "model.keras")!r}]) == 0
for command in ("inspect", "convert"):
    try:
        main([command, "--help"])
    except SystemExit as exit_:
        assert exit_.code == 0
"""
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
