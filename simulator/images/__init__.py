"""Image data sets: MNIST, Fashion-MNIST, CIFAR-10 and Tiny ImageNet from their official files, and small samples.

`load(name)` reads a set, `fetch(name)` downloads it first; the table of sets is `SETS`.  `planted` draws images whose
signal direction is known.
"""

from simulator.images.dataset import Images
from simulator.images.directions import pattern, planted, towards_other_classes
from simulator.images.errors import ImageDataError
from simulator.images.fetching import fetch
from simulator.images.loading import load
from simulator.images.samples import IMAGE_SHAPE, threes_and_eights
from simulator.images.sets import SETS, Download, ImageSet, cache_folder, data_folder, use

__all__ = [
    "IMAGE_SHAPE",
    "SETS",
    "Download",
    "ImageDataError",
    "ImageSet",
    "Images",
    "cache_folder",
    "data_folder",
    "fetch",
    "load",
    "pattern",
    "planted",
    "threes_and_eights",
    "towards_other_classes",
    "use",
]
