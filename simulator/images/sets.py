"""The image data sets by name: what is known of each before a file of it is read, and where it is published."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from jaxtyping import Int32, UInt8

from simulator.images.dataset import Images
from simulator.images.errors import ImageDataError

VARIABLE = "SIMULATOR_DATA"
"""The environment variable that may name the folder of data sets."""


@dataclass(frozen=True)
class Download:
    """A published file."""

    file: str
    """Its official name."""
    size: int
    """Its length in bytes."""
    sha256: str
    """SHA-256 of its content, in hexadecimal digits."""
    urls: tuple[str, ...]
    """Where it is published; they are tried in turn."""


@dataclass(frozen=True)
class ImageSet:
    """A data set that `load` and `fetch` know."""

    name: str
    about: str
    """One line for a list: what it shows and who published it."""
    shape: tuple[int, int, int]
    """(channels, height, width) of an image."""
    classes: tuple[str, ...]
    """Names of its classes; empty if the files name them."""
    levels: int = 255
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    folder: str = ""
    """The folder of its files in a folder of data sets; empty for what ships with the package."""
    files: tuple[str, ...] = ()
    """What must be in that folder, for the advice of an error."""
    downloads: tuple[Download, ...] = ()
    """Its files, or the one archive they come in."""
    archive: str = ""
    """The folder in the archive that becomes `folder`; empty if the downloads are the files themselves."""
    unpacked: int = 0
    """How many bytes the archive may hold at most."""

    def advice(self) -> str:
        """Where to get it, as the end of a sentence."""
        if not self.folder:
            return "install the package again, which it ships with"
        if not self.downloads:
            return f"put {', '.join(self.files)} into {self.folder}/ of the folder you name"
        source = self.downloads[0].urls[0].rpartition("/")[0]
        return (
            f"get it by simulator images fetch {self.name}, or put {', '.join(self.files)} from {source} "
            f"into {self.folder}/ of the folder you name"
        )

    def images(
        self,
        x_train: UInt8[np.ndarray, "n channels height width"],
        y_train: Int32[np.ndarray, " n"],
        x_test: UInt8[np.ndarray, "m channels height width"],
        y_test: Int32[np.ndarray, " m"],
        classes: tuple[str, ...] = (),
    ) -> Images:
        """The set with these arrays; `classes` replaces the names known beforehand."""
        names = classes or self.classes
        return Images(self.name, x_train, y_train, x_test, y_test, names, self.levels, self.mean, self.deviation)


def _idx_files(urls: tuple[str, ...], *known: tuple[int, str]) -> tuple[Download, ...]:
    names = (f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    return tuple(
        Download(name, size, sha256, tuple(f"{url}/{name}" for url in urls))
        for name, (size, sha256) in zip(names, known, strict=True)
    )


_MNIST = _idx_files(
    ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)
_FASHION_MNIST = _idx_files(
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    ),
    (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)
_CIFAR10 = Download(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)
_TINY_IMAGENET = Download(
    "tiny-imagenet-200.zip",
    248_100_043,
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    (
        "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
)

SETS = {
    one.name: one
    for one in (
        ImageSet(
            "digits",
            "8 x 8 digits of scikit-learn; ships with the package",
            (1, 8, 8),
            tuple("0123456789"),
            levels=16,
        ),
        ImageSet(
            "mnist",
            "28 x 28 digits of LeCun, Cortes and Burges",
            (1, 28, 28),
            tuple("0123456789"),
            folder="mnist",
            files=tuple(one.file for one in _MNIST),
            downloads=_MNIST,
        ),
        ImageSet(
            "fashion-mnist",
            "28 x 28 clothes of Xiao, Rasul and Vollgraf (arXiv 1708.07747)",
            (1, 28, 28),
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            folder="fashion-mnist",
            files=tuple(one.file for one in _FASHION_MNIST),
            downloads=_FASHION_MNIST,
        ),
        ImageSet(
            "cifar10",
            "32 x 32 colour images of Krizhevsky (2009), binary version",
            (3, 32, 32),
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            mean=(0.4914, 0.4822, 0.4465),
            deviation=(0.2023, 0.1994, 0.2010),
            folder="cifar10",
            files=(*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"),
            downloads=(_CIFAR10,),
            archive="cifar-10-batches-bin",
            unpacked=200_000_000,
        ),
        ImageSet(
            "tiny-imagenet",
            "64 x 64 colour images in 200 classes of the CS231N course, Stanford; tested on its validation part",
            (3, 64, 64),
            (),
            mean=(0.4802, 0.4481, 0.3975),
            deviation=(0.2302, 0.2265, 0.2262),
            folder="tiny-imagenet-200",
            files=("wnids.txt", "train/", "val/"),
            downloads=(_TINY_IMAGENET,),
            archive="tiny-imagenet-200",
            unpacked=1_000_000_000,
        ),
    )
}
"""The data sets by name.

`mean` and `deviation` are those of an evaluation script that comes with the authors' networks of adversarial training;
each deviation is the mean over images of the deviation within one.  COAP's own code trains its networks for CIFAR-10
with (0.485, 0.456, 0.406) and 0.225 in all channels, those for MNIST without.
"""


def find(name: str) -> ImageSet:
    """The data set of that name; raises `ImageDataError` if there is none."""
    if name in SETS:
        return SETS[name]
    close = difflib.get_close_matches(name, SETS, 1)
    hint = f"did you mean {close[0]}?" if close else f"the sets are {', '.join(SETS)}"
    raise ImageDataError(f"there is no image data set {name!r}; {hint}")


def data_folder() -> Path:
    """Where `fetch` stores data sets and `load` looks for them, unless told otherwise.

    The folder that the environment variable SIMULATOR_DATA names, else the user's data folder.
    """
    named = os.environ.get(VARIABLE)
    return Path(named) if named else platformdirs.user_data_path("simulator") / "images"


def use(folder: Path) -> None:
    """Make a folder the `data_folder` of this process and of those it starts."""
    os.environ[VARIABLE] = str(folder)


def cache_folder() -> Path:
    """Where decoded images are kept, unless told otherwise: the user's cache folder."""
    return platformdirs.user_cache_path("simulator") / "images"
