"""Animations: what is shown of a training is that training, and what is written is a film of it."""

from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from PIL import Image

from simulator import cli, plots, store, studies
from simulator.plots import figures
from simulator.plots import film as files
from simulator.plots.figures import picture_frames as drawing
from simulator.studies import picture_film

DATA = Path(__file__).parent.parent / "figures" / "data"


def toy_frames(task="circles", epochs=(0, 5, 20)):
    """What the film of `picture` is drawn from, with regions that grow along the epochs."""
    side = np.linspace(-3, 3, 9)
    u, v = np.meshgrid(side, side)
    size = np.array([1.0, 2.0])[:, None, None, None] + np.arange(len(epochs))[None, :, None, None] / 3
    angles = np.arange(10.0)
    radius = np.where(angles % 2, 1.0, 3.0)
    exhibits = {
        f"{task}_x": (("point", "xy"), (radius * np.stack([np.cos(angles), np.sin(angles)])).T),
        f"{task}_y": (("point",), np.where(angles % 2, 1, -1)),
        f"{task}_sample": (("xy",), [3.0, 0.0]),
        f"{task}_signal": (("xy",), [-1.0, 0.0]),
    }
    return xr.Dataset(
        {
            "margin_map": (("defence", "epoch", "v", "u"), size - np.hypot(u, v)),
            "robust_error": (("defence", "epoch"), np.linspace(0.6, 0.1, 2 * len(epochs)).reshape(2, -1)),
            "sample_attack": (("defence", "xy"), [[-0.9, 0.0], [-0.8, 0.3]]),
            "sample_dual": (("defence", "xy"), [[-0.9, 0.0], [-0.9, 0.1]]),
            **exhibits,
        },
        {"defence": ["adversarial", "coap"], "epoch": list(epochs), "u": side, "v": side},
        {"task": task, "epsilon": 0.9},
    )


@pytest.mark.parametrize("epochs", [1, 7, 40, 50, 251, 1000, 1500])
def test_epochs_shown_begin_before_training_and_end_with_it(epochs):
    shown = picture_film.shown_epochs(epochs)
    assert (shown[0], shown[-1]) == (0, epochs)
    assert len(shown) <= picture_film.SEEN + 1
    steps = np.diff(shown)
    assert (steps > 0).all()
    # As evenly growing as whole records allow.
    every = int(np.gcd.reduce(shown))
    assert (np.diff(steps) >= -every).all()


@pytest.mark.parametrize("task", ["circles", "lines"])
def test_every_frame_says_what_it_adds(task):
    film = figures.picture_film(toy_frames(task))
    captions = []
    for frame in range(film.frames):
        film.draw(frame)
        (caption,) = [text.get_text() for text in film.figure.texts]
        captions.append(caption)
    different = list(dict.fromkeys(captions))
    assert len(different) == len(drawing.STAGES) + 3 + len(drawing.ENDINGS)
    assert "ε = 0.9" in different[2]
    assert [caption.rpartition("Epoch ")[2] for caption in different[4:7]] == ["0", "5", "20"]
    assert different[7].endswith("AT 0.40, COAP 0.10")
    # Long enough to be read.
    assert all(captions.count(one) >= film.rate for one in (*different[:4], *different[7:]))
    titles = [axes.get_title() for axes in film.figure.axes]
    assert titles == ["AT: robust error 0.40", "COAP: robust error 0.10"]


def test_a_film_is_written_as_a_small_gif_that_starts_over(tmp_path):
    film = figures.picture_film(toy_frames())
    plots.save_film(film, tmp_path / "new" / "toy.gif", dpi=50)
    with Image.open(tmp_path / "new" / "toy.gif") as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0
        pictures, seconds = [], 0.0
        for frame in range(image.n_frames):
            image.seek(frame)
            pictures.append(np.asarray(image.convert("RGB"), float))
            seconds += image.info["duration"] / 1000
    # Frames that are alike are kept as one, shown for as long.
    assert len(pictures) == len(drawing.STAGES) + 3 + len(drawing.ENDINGS)
    assert seconds == pytest.approx(film.frames / film.rate, rel=0.02)
    # The region of y = +1 grows along the training.
    inner = 255 * (0.3 * np.array(to_rgb(plots.INNER)) + 0.7)
    shares = [(np.abs(picture - inner).max(axis=2) < 12).mean() for picture in pictures[4:7]]
    assert 0.01 < shares[0] < shares[1] < shares[2]
    assert (tmp_path / "new" / "toy.gif").stat().st_size < files.LARGEST


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """The folder of the study at its smallest scale, in double precision."""
    out = tmp_path_factory.mktemp("picture")
    study = studies.STUDIES["picture"]
    with jax.enable_x64(True):
        studies.run(study, study.scales["smoke"], scale="smoke", seed=3, out=out)
    return out


@pytest.mark.slow
@pytest.mark.ci
def test_the_film_is_of_the_training_the_study_ran(run_once):
    result = store.read(store.path_of(run_once, "picture"))
    shown = picture_film.frames(result)
    kept = result.isel(task=0, n=0, dim=0, epsilon=-1, trial=0).sel(defence=shown["defence"].values)
    last = shown.isel(epoch=-1)
    # The same steps in another program: rounding alone, amplified by 50 epochs of attacks (in single precision, whose
    # unit is 5e8 times larger, to 5e-3 of the reach).
    reach = float(np.abs(kept["margin_map"]).max())
    np.testing.assert_allclose(last["margin_map"], kept["margin_map"], rtol=0, atol=1e-8 * reach)
    np.testing.assert_array_equal(last["robust_error"], kept["robust_error"])
    assert float(np.abs(shown["margin_map"].isel(epoch=0) - last["margin_map"]).max()) > 0.1 * reach
    # Before training both have the same weights.
    first = shown["margin_map"].isel(epoch=0)
    np.testing.assert_allclose(first[0], first[1], atol=1e-6 * reach)


@pytest.mark.slow
@pytest.mark.ci
def test_the_command_writes_the_film(run_once, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_prepare", lambda arguments: None)
    assert cli.main(["plot", "picture", "--animate", "--out", str(run_once), "--figures", str(tmp_path)]) == 0
    path = tmp_path / "picture.gif"
    assert capsys.readouterr().out == f"{path}\n"
    assert path.stat().st_size < files.LARGEST
    with Image.open(path) as image:
        assert image.n_frames > 30


def test_a_result_it_cannot_be_of_is_refused(tmp_path):
    result = store.read(store.archive_of(DATA, "picture"))
    with pytest.raises(studies.SettingsError, match="needs the defences adversarial and coap"):
        picture_film.frames(result.sel(defence=["adversarial"]))
    with pytest.raises(studies.SettingsError, match="which is not ok"):
        picture_film.frames(result.assign(status=result["status"].where(False, "diverged")))
    store.archive(result.assign_attrs(numbers=1), store.archive_of(tmp_path, "picture"))
    with pytest.raises(studies.SettingsError, match="older version of picture"):
        studies.animate(studies.STUDIES["picture"], tmp_path, tmp_path)
