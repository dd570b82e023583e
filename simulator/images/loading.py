"""Loading an image data set by its name."""

from pathlib import Path

from simulator.images import cifar, idx, samples, tiny_imagenet
from simulator.images.dataset import Images
from simulator.images.errors import ImageDataError
from simulator.images.sets import cache_folder, data_folder, find


def load(name: str = "digits", data_dir: str | Path | None = None, cache: str | Path | None = None) -> Images:
    """A data set from files under their official names; it never downloads anything.

    `data_dir` holds mnist/, fashion-mnist/ (IDX files, compressed or not), cifar10/ (the .bin files) or
    tiny-imagenet-200/ (the official tree); by default it is `data_folder()`, where `fetch` puts them.  A set may be a
    part of the published one: the files say how many images there are.  `digits` ships with the package.  Decoded
    images of Tiny ImageNet are kept in `cache`, by default `cache_folder()`.

    Raises `ImageDataError`, in one sentence, if there is no such set or anything of it is missing or damaged.
    """
    known = find(name)
    if not known.folder:
        return samples.digits(known)
    folder = (data_folder() if data_dir is None else Path(data_dir)) / known.folder
    try:
        if name == "tiny-imagenet":
            return tiny_imagenet.read(folder, known, cache_folder() if cache is None else Path(cache))
        return (cifar if name == "cifar10" else idx).read(folder, known)
    except ImageDataError as error:
        raise ImageDataError(f"{error}; {known.advice()}") from error
