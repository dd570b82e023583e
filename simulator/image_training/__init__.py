"""Training networks of images: recipes, augmentation, checkpoints, and one long training at a time.

`train.fit` is one pure program for grids of small networks; here a single training takes minutes to days, so that it
speaks, keeps checkpoints and can be killed.
"""

from simulator.image_training.augment import augmented, centred
from simulator.image_training.checkpoints import Checkpoints
from simulator.image_training.fit import ImageFit, Interrupted, Labelled, MakeLoss, Progress, fit
from simulator.image_training.gradient import mean_gradient, mean_loss
from simulator.image_training.memory import compiled, needed_bytes
from simulator.image_training.placement import spread
from simulator.image_training.preset import DEFENCES, RECIPES, Preset, preset

__all__ = [
    "DEFENCES",
    "RECIPES",
    "Checkpoints",
    "ImageFit",
    "Interrupted",
    "Labelled",
    "MakeLoss",
    "Preset",
    "Progress",
    "augmented",
    "centred",
    "compiled",
    "fit",
    "mean_gradient",
    "mean_loss",
    "needed_bytes",
    "preset",
    "spread",
]
