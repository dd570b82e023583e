"""The studies of image data sets: six of one form, each with the settings of the papers and what a processor can do."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from simulator.catalogue import CATALOGUE
from simulator.plots import figures
from simulator.studies.image_data import PLANTED, directions_of, files
from simulator.studies.image_values import CIFAR, MNIST, PUBLISHED, TINY
from simulator.studies.images import ImagesSettings, cell, grid, notes, verdict
from simulator.studies.study import SCALES, Study

PANELS = {
    "standard_error": "standard error",
    "robust_error": "robust error",
    "discrepancy": "accuracy discrepancy",
    "certified_error": "certified error",
}
SIGNALS = {"planted": "the planted pattern", "nearest": "another class"}
"""What perturbations are compared with, in the words of a figure."""
_IMAGES: dict[str, Any] = {
    "norm": "l2",
    "defence": ("standard", "adversarial", "coap", "crown-ibp", "ibp"),
    "network": "small-cnn",
    "train": 0,
    "coap_train": 0,
    "validation": 500,
    "test": 1000,
    "epochs": 0,
    "coap_epochs": 0,
    "projections": 50,
    "certify": ("ibp", "crown-ibp", "coap"),
    "attack_steps": 50,
    "attack_starts": 2,
    "checkpoint_minutes": 2.0,
    "products": "full",
    "margin": 0.6,
    "noise": 0.1,
    "trials": 1,
}
SMALL: dict[str, Any] = {"network": "tiny-cnn", "projections": 0, "checkpoint_minutes": 0.0, "attack_steps": 20}
"""Of networks so small that COAP's bound itself is affordable and a training is a matter of seconds."""
SHORT = {**SMALL, "epochs": 30, "coap_epochs": 30}
NO_COAP = ("standard", "adversarial", "crown-ibp")
"""The papers leave COAP out on Tiny ImageNet, where its bound would take too long."""
_SMOKE: dict[str, Any] = {
    "defence": ("adversarial", "ibp"),
    "network": "tiny-cnn",
    "train": 500,
    "validation": 50,
    "test": 50,
    "epochs": 15,
    "coap_epochs": 15,
    "projections": 0,
    "certify": ("ibp", "crown-ibp"),
    "attack_steps": 5,
    "attack_starts": 1,
    "checkpoint_minutes": 0.0,
}


@dataclass(frozen=True)
class Scene:
    """What distinguishes the studies."""

    name: str
    images: tuple[str, ...]
    title: str
    default: dict[str, Any]
    """What a processor can do in minutes, hours for the large sets."""
    paper: dict[str, Any]
    """The published settings, or ours at full length where there are none."""
    reference: float
    """The radius of the reference network."""


def _l2(*radii: float) -> dict[str, Any]:
    return {"epsilon": radii}


_QUICK = {
    "defence": ("adversarial", "coap", "ibp"),
    "validation": 300,
    "test": 0,
    "certify": ("ibp", "coap"),
}
_PAPER = {"test": 0, "attack_steps": 100, "attack_starts": 5}
_LARGE = {"defence": ("standard", "adversarial", "coap", "crown-ibp"), "certify": ("ibp", "crown-ibp")}
SCENES = (
    Scene(
        "images-digits",
        ("digits",),
        "handwritten digits of 8 × 8 pixels, l2 ball",
        {**_l2(0.25, 0.5, 1.0, 1.5), "validation": 300, "test": 0, **SHORT, "trials": 10},
        {**_l2(0.25, 0.5, 1.0, 1.5), "validation": 300, **SMALL, **_PAPER, "trials": 10},
        0.5,
    ),
    Scene(
        "images-quick",
        ("digits",),
        "handwritten digits of 8 × 8 pixels, l2 ball, in minutes",
        {**_l2(0.25, 0.5), **_QUICK, **SHORT, "epochs": 20, "coap_epochs": 20, "trials": 3},
        {**_l2(0.25, 0.5), **_QUICK, **SMALL, **_PAPER, "trials": 10},
        0.0,
    ),
    Scene(
        "images-planted",
        tuple(PLANTED),
        "noise with a planted pattern, l2 ball",
        {**_l2(0.15, 0.45), "train": 200, "test": 200, **SMALL, "projections": 50, "trials": 3},
        {**_l2(0.15, 0.3, 0.45, 0.55), "train": 200, **SMALL, **_PAPER, "trials": 15},
        0.3,
    ),
    Scene(
        "images-mnist",
        ("mnist",),
        "MNIST, small CNN, l2 ball",
        {**_l2(0.5, 1.0, 1.5, 2.0), "network": "small-cnn", "epochs": 30, "coap_epochs": 15},
        {**_l2(*MNIST), "network": "large-cnn", "certify": ("ibp", "crown-ibp"), **_PAPER},
        1.0,
    ),
    Scene(
        "images-fashion",
        ("fashion-mnist",),
        "Fashion-MNIST, small CNN, l2 ball",
        {**_l2(0.5, 1.0, 1.5), "network": "small-cnn", "coap_train": 10_000, "epochs": 15, "coap_epochs": 15},
        {**_l2(*MNIST), "network": "large-cnn", "certify": ("ibp", "crown-ibp"), **_PAPER},
        0.5,
    ),
    Scene(
        "images-cifar10",
        ("cifar10",),
        "CIFAR-10, l2 ball",
        {**_l2(*CIFAR[:3]), "network": "small-cnn", "train": 10_000, "epochs": 20, "coap_epochs": 15},
        {**_l2(*CIFAR), "network": "narrow-resnet", **_LARGE, **_PAPER},
        36 / 255,
    ),
    Scene(
        "images-tiny-imagenet",
        ("tiny-imagenet",),
        "Tiny ImageNet, l2 ball",
        {**_l2(*TINY[:2]), "network": "small-cnn", "train": 10_000, "epochs": 10, **_LARGE, "defence": NO_COAP},
        {**_l2(*TINY), "network": "wide-resnet", **_LARGE, **_PAPER, "defence": NO_COAP},
        50 / 255,
    ),
)


def _panels(scene: Scene) -> dict[str, str]:
    """The errors, and the cosines of perturbations with what stands for the signal."""
    (kind,) = directions_of(scene.images[0])
    angles = {
        f"alignment_attack_{kind}": f"attack: cosine with\n{SIGNALS[kind]}",
        f"alignment_dual_{kind}": f"dual vector: cosine with\n{SIGNALS[kind]}",
    }
    if scene.reference:
        angles["alignment_attack_reference"] = "attack: cosine with the\nreference network's"
    return {**PANELS, **angles}


def _study(scene: Scene) -> Study:
    common = {**_IMAGES, "reference": scene.reference}
    whole = {**common, **scene.default}
    smoke = {**whole, **_SMOKE, **_l2(*whole["epsilon"][:2]), "trials": min(whole["trials"], 2)}
    scales = (smoke, whole, {**common, **scene.paper})
    images = (scene.images[:1], scene.images, scene.images)
    return Study(
        name=scene.name,
        claim=CATALOGUE[scene.name].claim,
        shows=CATALOGUE[scene.name].shows,
        scales={
            name: ImagesSettings(**values, images=sets)
            for name, values, sets in zip(SCALES, scales, images, strict=True)
        },
        grid=grid,
        cell=cell,
        figure=partial(figures.errors, along="epsilon", rows=("images",), title=scene.title, panels=_panels(scene)),
        verdict=verdict,
        notes=notes,
        files=files,
        published=tuple(curve for name in scene.images for curve in PUBLISHED.get(name, ())),
        core=CATALOGUE[scene.name].core,
    )


STUDIES = tuple(map(_study, SCENES))
