"""Trained networks of images: which runs share one, and in which precision a cell works."""

import dataclasses

import jax
import jax.random as jr
import pytest

from simulator import sweep
from simulator.studies import STUDIES, image_data, image_fits, images
from simulator.threats import L2

SETTINGS = STUDIES["images-planted"].scales["smoke"]
KEY = jr.key(3)


def name_of(settings=SETTINGS, key=KEY, defence="coap", radius=0.3, count=200):
    data = image_data.data_of(settings, "planted-28x28x1", jr.key(0), count)
    recipe = image_fits._recipe(settings, data.name, defence)
    return image_fits._name(settings, key, data, defence, L2(radius), recipe)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": (0.1, 0.7)},
        {"attack_steps": 7},
        {"test": 70},
        {"certify": ("coap",)},
        {"trials": 9},
        {"reference": 0.1},
        {"defence": ("coap",)},
        {"products": "fast"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_decide_the_weights_leaves_the_name(change):
    assert name_of(dataclasses.replace(SETTINGS, **change)) == name_of()


def test_whatever_decides_the_weights_changes_the_name():
    names = [
        name_of(),
        name_of(key=jr.key(4)),
        name_of(defence="ibp"),
        name_of(radius=0.4),
        name_of(count=100),
        *(
            name_of(dataclasses.replace(SETTINGS, **change))
            for change in ({"coap_epochs": 16}, {"projections": 9}, {"network": "small-cnn"}, {"noise": 0.2})
        ),
        # Products in another format are those of trainings without bounds alone.
        name_of(defence="adversarial"),
        name_of(dataclasses.replace(SETTINGS, products="fast"), defence="adversarial"),
    ]
    assert len(set(names)) == len(names)


def test_cells_work_in_full_precision(monkeypatch):
    asked = []

    class Enough(Exception):
        pass

    def data_of(*arguments):
        asked.append(jax.config.jax_default_matmul_precision)
        raise Enough

    monkeypatch.setattr(images, "data_of", data_of)
    coords = {"images": "planted-28x28x1", "defence": "ibp", "epsilon": 0.3}
    with pytest.raises(Enough):
        images.run(SETTINGS, coords, KEY, sweep.Surroundings())
    assert asked == ["highest"]
    assert jax.config.jax_default_matmul_precision != "highest"
