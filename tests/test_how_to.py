"""The how-tos: each adds something to the package from outside, in fewer than 30 lines, and that works."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import quick_jit
from test_images import some, write_idx

from simulator import attacks, bounds, cli, defences, images, losses, networks, store, studies, threats, train

FOLDER = Path(__file__).parent.parent / "docs" / "how_to"
FILES = sorted(FOLDER.glob("*.py"))
TABLES = (defences.TABLE, bounds.METHODS, bounds.LOWER_SLOPES, images.SETS)


@pytest.fixture
def load(monkeypatch):
    """Import a how-to by its name; what it adds to the tables is taken out again."""
    for table in TABLES:
        for name in table:
            monkeypatch.setitem(table, name, table[name])
    before = [set(table) for table in TABLES]

    def call(name):
        spec = importlib.util.spec_from_file_location(f"how_to_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield call
    for table, names in zip(TABLES, before, strict=True):
        for name in set(table) - names:
            del table[name]


def code_lines(path):
    return [line for line in path.read_text().splitlines() if line.strip()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_shorter_than_30_lines(path):
    assert len(code_lines(path)) < 30


def test_every_file_is_on_the_page():
    page = (FOLDER.parent / "how_to.md").read_text()
    assert [path.name for path in FILES if f"{{literalinclude}} how_to/{path.name}" not in page] == []
    assert {path.stem for path in FILES} == {"bound", "data_set", "defence", "study", "task", "threat"}


@pytest.fixture(scope="module")
def example():
    """A network with one hidden layer, an example and its label."""
    return networks.mlp(jr.key(0), dim=6, widths=(8,)), jr.normal(jr.key(1), (6,)), jnp.array(1)


def test_a_defence(load, example):
    smoke = studies.STUDIES["budget"].scales["smoke"]
    with pytest.raises(studies.SettingsError, match="defence is 'half-way', but must be one of standard, adversarial"):
        studies.override(smoke, {"defence": "half-way"})
    module = load("defence")
    assert studies.override(smoke, {"defence": "half-way"}).defence == ("half-way",)
    assert "half-way" in module.STUDY.scales["paper"].defence
    network, x, y = example
    parts = (losses.attacked(attacks.fgsm), losses.certified("coap"), defences.loss_of("half-way", attacks.fgsm))
    attacked, certified, both = quick_jit(lambda: [loss(network, threats.L2(0.3), x, y) for loss in parts])()
    assert certified > attacked
    # Exact but for the rounding of a mean.
    np.testing.assert_allclose(both, (attacked + certified) / 2, rtol=4e-7)


def examined(network, threat, x, y, *methods):
    """The margin at x, the perturbation of FGSM and the margin there, and a lower bound by each method."""

    def values(threat):
        lower = [bounds.margin(network, threat, x, y, name).lower[0] for name in methods]
        attack = attacks.fgsm(network, threat, x, y)
        return networks.margins(network, x, y)[0], attack.delta, attack.margin, lower

    return jax.tree.map(np.asarray, quick_jit(values)(threat))


def test_a_threat(load, example):
    scale, w = np.array([0, 0.5, 1, 1.5, 2, 3], np.float32), np.array([1, -2, 3, 4, -5, 0.5], np.float32)
    threat = load("threat").Scaled(0.3, jnp.asarray(scale))
    worst = threat.worst(jnp.asarray(w))
    # Maximised coordinate by coordinate.
    np.testing.assert_allclose(threat.support(jnp.asarray(w)), 0.3 * np.sum(scale * np.abs(w)), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(worst) @ w, 0.3 * np.sum(scale * np.abs(w)), rtol=1e-6)
    np.testing.assert_array_equal(threat.project(3.0 * worst), worst)
    clean, delta, attacked, (coap,) = examined(example[0], threat, *example[1:], "coap")
    assert coap <= attacked < clean
    assert np.all(np.abs(delta) <= 0.3 * scale * (1 + 1e-6))


def test_a_bound(load, example):
    load("bound")
    names = ("crown-half", "crown", "coap")
    _, _, attacked, (half, *others) = examined(example[0], threats.LInf(0.3), *example[1:], *names)
    assert half <= attacked
    assert all(abs(half - other) > 1e-4 for other in others)
    relaxations = studies.STUDIES["relaxations"].scales["smoke"]
    assert "crown-half" in studies.override(relaxations, {"defence": "adversarial,crown-half"}).defence


def test_a_data_set(load, tmp_path):
    load("data_set")
    write_idx(tmp_path / "kmnist")
    found = images.load("kmnist", tmp_path)
    np.testing.assert_array_equal(found.x_train[:, 0], some(len(found.x_train), 28, 28, seed=0))
    assert found.classes[1] == "ki"
    assert studies.override(studies.STUDIES["images-mnist"].scales["smoke"], {"images": "kmnist"}).images == ("kmnist",)
    (tmp_path / "kmnist" / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(images.ImageDataError, match=r"put train-images-idx3-ubyte.gz, .* into kmnist/ of the folder"):
        images.load("kmnist", tmp_path)


def test_a_task(load):
    task = load("task").Slab(dim=4, width=jnp.array(2.0))
    x, y = task.sample(jr.key(0), 200)
    assert set(np.unique(y)) == {-1, 1}
    # Half a width along the signal every example is on the boundary, and its label is what the truth says.
    at_boundary = np.asarray(x + 0.5 * task.width * jax.vmap(task.signal)(x, y))
    np.testing.assert_allclose(np.abs(at_boundary[:, 0]), 2, rtol=1e-6)
    np.testing.assert_array_equal(np.where(np.abs(x[:, 0]) < 2, 1, -1), y)
    start, recipe = networks.mlp(jr.key(1), dim=4, widths=(16,)), train.Recipe(0.1, momentum=0.9, epochs=100)
    fit = quick_jit(lambda: train.fit(jr.key(2), start, x, y, threats.L2(0.0), losses.standard, recipe))()
    fresh, truth = task.sample(jr.key(3), 200)
    predicted = np.argmax(np.asarray(jax.vmap(fit.network)(fresh)), axis=1)
    assert np.mean(predicted != (np.asarray(truth) > 0)) < 0.05
    with pytest.raises(ValueError, match="no folded form"):
        task.folded_to(task.axes())


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", ["defence", "study"])
def test_a_study_of_the_users_runs(load, tmp_path, monkeypatch, name):
    monkeypatch.setattr(studies, "cores", lambda: 2)
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    file = f"{FOLDER / name}.py:STUDY"
    assert cli.main(["reproduce", file, "--scale", "smoke", "--out", f"{tmp_path}", "--figures", f"{tmp_path}/g"]) == 0
    study = load(name).STUDY
    result = store.read(store.path_of(tmp_path, study.name))
    assert result.attrs["complete"] is True
    assert (result["status"] == "ok").all()
    assert (tmp_path / "g" / f"{study.name}.svg").exists()
    if name == "study":
        assert study.verdict(result).held
