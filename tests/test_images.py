"""Image data sets from files in their official formats, which the tests write: whole ones, and damaged in many ways."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from simulator import images
from simulator.images import ImageDataError, Images, tiny_imagenet

IDX_SETS = ("mnist", "fashion-mnist")
SIZES = {"mnist": (6, 4), "fashion-mnist": (6, 4), "cifar10": (10, 3), "tiny-imagenet": (6, 4)}
WNIDS = ("n02124075", "n01443537")


def idx(array, code=8, rank=None, shape=None, magic=b"\0\0"):
    """The content of an IDX file."""
    shape = array.shape if shape is None else shape
    header = magic + bytes([code, len(shape) if rank is None else rank])
    return header + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def some(*shape, seed=0, levels=256):
    return np.random.default_rng(seed).integers(0, levels, shape, np.uint8)


def write_idx(folder):
    folder.mkdir()
    for seed, (part, n) in enumerate((("train", 6), ("t10k", 4))):
        content = idx(some(n, 28, 28, seed=seed))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        labels = np.arange(n, dtype=np.uint8) + 6 * seed
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def cifar_records(n, seed=0, labels=None):
    labels = np.arange(n, dtype=np.uint8) if labels is None else np.asarray(labels, np.uint8)
    return np.concatenate([labels[:, None], some(n, 3072, seed=seed)], axis=1).tobytes()


def write_cifar(folder):
    folder.mkdir()
    for k in range(1, 6):
        (folder / f"data_batch_{k}.bin").write_bytes(cifar_records(2, seed=k))
    (folder / "test_batch.bin").write_bytes(cifar_records(3, seed=6))


def write_tiny(folder):
    """Two classes with three and three images for training, four for validation; one of each is grey."""
    for wnid in WNIDS:
        inside = folder / "train" / wnid / "images"
        inside.mkdir(parents=True)
        for k in range(3):
            save(inside / f"{wnid}_{k}.JPEG", grey=k == 2, seed=k)
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for k in range(4):
        save(folder / "val" / "images" / f"val_{k}.JPEG", grey=k == 1, seed=10 + k)
        lines.append(f"val_{k}.JPEG\t{WNIDS[(k + 1) % 2]}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn1\tother\n")


def save(path, grey=False, seed=0, size=(64, 64), mode=None, format="JPEG"):
    shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
    image = Image.fromarray(some(*shape, seed=seed))
    (image.convert(mode) if mode else image).save(path, format)


def pixels(path):
    """What Pillow decodes, as [3, height, width]."""
    with Image.open(path) as image:
        array = np.asarray(image)
    return np.stack([array] * 3) if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a small set of each kind; tests only read it."""
    root = tmp_path_factory.mktemp("whole")
    for name in IDX_SETS:
        write_idx(root / name)
    write_cifar(root / "cifar10")
    write_tiny(root / "tiny-imagenet-200")
    return root


@pytest.fixture
def root(whole, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def folder_of(root, name):
    return root / images.SETS[name].folder


# ---- what is read ----


@pytest.mark.parametrize("name", SIZES)
def test_a_set_is_read_with_the_counts_of_its_files(whole, tmp_path, name):
    found, known = images.load(name, whole, tmp_path), images.SETS[name]
    assert (len(found.x_train), len(found.x_test)) == SIZES[name]
    assert found.shape == known.shape
    assert found.dim == np.prod(known.shape)
    assert (found.x_train.dtype, found.y_train.dtype) == (np.uint8, np.int32)
    assert (found.levels, found.mean, found.deviation) == (255, known.mean, known.deviation)
    assert len(found.mean) == len(found.deviation) == found.shape[0]


@pytest.mark.parametrize("name", IDX_SETS)
def test_idx_gives_the_bytes_in_their_places(whole, name):
    found = images.load(name, str(whole))
    for seed, x, y in ((0, found.x_train, found.y_train), (1, found.x_test, found.y_test)):
        np.testing.assert_array_equal(x[:, 0], some(len(x), 28, 28, seed=seed))
        np.testing.assert_array_equal(y, np.arange(len(x)) + 6 * seed)
    assert len(found.classes) == 10


def test_idx_may_be_plain(root):
    compressed = images.load("mnist", root)
    for file in (root / "mnist").glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(images.load("mnist", root).x_train, compressed.x_train)


def test_cifar_gives_the_planes_in_the_order_of_the_files(whole):
    found = images.load("cifar10", whole)
    planes = [some(2, 3072, seed=k).reshape(2, 3, 32, 32) for k in range(1, 6)]
    np.testing.assert_array_equal(found.x_train, np.concatenate(planes))
    np.testing.assert_array_equal(found.y_train, [0, 1] * 5)
    np.testing.assert_array_equal(found.y_test, [0, 1, 2])
    assert found.classes[3] == "cat"


def test_cifar_takes_names_from_its_text(root):
    names = tuple("abcdefghij")
    (root / "cifar10" / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert images.load("cifar10", root).classes == names


def test_tiny_imagenet_gives_what_pillow_decodes(whole, tmp_path):
    found, tree = images.load("tiny-imagenet", whole, tmp_path), whole / "tiny-imagenet-200"
    files = [tree / "train" / wnid / "images" / f"{wnid}_{k}.JPEG" for wnid in WNIDS for k in range(3)]
    np.testing.assert_array_equal(found.x_train, [pixels(file) for file in files])
    np.testing.assert_array_equal(found.y_train, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.x_test, [pixels(tree / "val/images" / f"val_{k}.JPEG") for k in range(4)])
    np.testing.assert_array_equal(found.y_test, [1, 0, 1, 0])
    assert found.classes == ("Egyptian cat", "goldfish, Carassius auratus")
    # Grey images have three equal planes, the others do not.
    grey = [np.array_equal(x[0], x[1]) and np.array_equal(x[0], x[2]) for x in found.x_train]
    assert grey == [False, False, True] * 2


def test_tiny_imagenet_without_words_names_classes_by_number(root, tmp_path):
    (root / "tiny-imagenet-200" / "words.txt").unlink()
    assert images.load("tiny-imagenet", root, tmp_path / "cache").classes == WNIDS


def test_tiny_imagenet_is_decoded_once(root, tmp_path, monkeypatch):
    first = images.load("tiny-imagenet", root, tmp_path / "cache")
    decoded = []
    decode = tiny_imagenet._decode
    monkeypatch.setattr(tiny_imagenet, "_decode", lambda files, shape: decoded.append(files) or decode(files, shape))
    again = images.load("tiny-imagenet", root, tmp_path / "cache")
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert not decoded
    # A tree that has changed, or a cache that was cut short, is decoded again.
    changed = root / "tiny-imagenet-200/val/images/val_0.JPEG"
    save(changed, seed=99)
    found = images.load("tiny-imagenet", root, tmp_path / "cache")
    np.testing.assert_array_equal(found.x_test[0], pixels(changed))
    assert len(decoded) == 1
    before = np.array(found.x_test)
    del first, again, found  # they map the files that are cut now
    for kept in (tmp_path / "cache").iterdir():
        kept.write_bytes(kept.read_bytes()[:-1])
    np.testing.assert_array_equal(images.load("tiny-imagenet", root, tmp_path / "cache").x_test, before)
    assert len(decoded) == 2


def test_interrupted_decoding_leaves_nothing_behind(root, tmp_path, monkeypatch):
    decode = tiny_imagenet._decode

    def interrupted(files, shape):
        yield from list(decode(files, shape))[:5]
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny_imagenet, "_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images.load("tiny-imagenet", root, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# ---- what ships with the package ----


def test_digits_are_those_of_scikit_learn():
    published = load_digits()
    found = images.load()
    assert (found.name, found.levels, found.shape) == ("digits", 16, (1, 8, 8))
    # Every fifth image of a class, counted one by one.
    seen, test = dict.fromkeys(range(10), 0), []
    for label in published.target:
        seen[label] += 1
        test.append(seen[label] % 5 == 0)
    test = np.array(test)
    np.testing.assert_array_equal(found.x_train[:, 0], published.images[~test])
    np.testing.assert_array_equal(found.y_train, published.target[~test])
    np.testing.assert_array_equal(found.x_test[:, 0], published.images[test])
    np.testing.assert_array_equal(found.y_test, published.target[test])
    assert (len(found.y_train), len(found.y_test)) == (1442, 355)


def test_threes_and_eights():
    x, y = images.threes_and_eights()
    assert x.shape == (400, 784)
    assert (int((y == 1).sum()), int((y == -1).sum())) == (200, 200)
    assert (float(x.min()), float(x.max())) == (0, 1)


# ---- the set ----


def test_examples_are_in_the_unit_box():
    found = images.load()
    x, y = found.examples("test")
    assert isinstance(x, jax.Array)
    np.testing.assert_array_equal(x, (found.x_test.reshape(355, 64) / 16).astype(np.float32))  # sixteenths are exact
    np.testing.assert_array_equal(y, found.y_test)
    assert float(found.examples("train")[0].max()) == 1


def labelled(y):
    x = np.arange(len(y), dtype=np.uint8).reshape(-1, 1, 1, 1)
    y = np.asarray(y, np.int32)
    return Images("some", x, y, x, y, tuple("abcde"), 255, (0.0,), (1.0,))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_subsets_keep_shares_of_classes_order_and_pairs(y, data):
    n = data.draw(st.integers(1, len(y)))
    whole = labelled(y)
    kept = whole.subset(train=n)
    assert len(kept.y_train) == n
    rows = kept.x_train.ravel().astype(int)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(kept.y_train, whole.y_train[rows])
    for label in set(y):  # the first ones of each class
        of_class = np.flatnonzero(whole.y_train == label)
        assert set(rows) & set(of_class) == set(of_class[: np.sum(kept.y_train == label)])
    share = np.bincount(whole.y_train, minlength=5) / len(y)
    bound = (1 + len(set(y)) * share) / 2
    assert (np.abs(np.bincount(kept.y_train, minlength=5) - n * share) <= bound + 1e-9).all()
    assert kept.x_test is whole.x_test
    # Smaller subsets are parts of larger ones.
    if n > 1:
        assert set(whole.subset(train=n - 1).x_train.ravel()) < set(kept.x_train.ravel())


BAD_SETS = {
    "more images than labels": (lambda: replaced(x_train=some(3, 1, 8, 8, levels=16)), "3 training images, but 1442"),
    "more test labels": (lambda: replaced(y_test=np.zeros(7, np.int32)), "355 test images, but 7"),
    "negative label": (lambda: replaced(y_test=np.full(355, -1, np.int32)), "test label outside of 0 to 9"),
    "label too large": (lambda: replaced(y_train=np.full(1442, 10, np.int32)), "training label outside of 0 to 9"),
    "pixel too large": (lambda: replaced(x_test=np.full((355, 1, 8, 8), 17, np.uint8)), "pixel of 17, but 16"),
    "no subset": (lambda: images.load().subset(train=0), "train is 0, but digits has 1442"),
    "subset too large": (lambda: images.load().subset(test=356), "test is 356, but digits has 355"),
    "unknown set": (lambda: images.load("faces"), "the sets are digits, mnist"),
    "misspelt set": (lambda: images.load("mnits"), "did you mean mnist"),
    "nothing to fetch": (lambda: images.fetch("digits"), "ships with the package"),
}


def replaced(**changes):
    found = images.load()
    return Images(**{name: getattr(found, name) for name in found.__dataclass_fields__} | changes)


@pytest.mark.parametrize("kind", BAD_SETS)
def test_what_is_no_set_is_refused(kind):
    make, because = BAD_SETS[kind]
    with pytest.raises(ImageDataError, match=because):
        make()


# ---- what is damaged ----

X, Y = "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"
BATCH, TINY = "cifar10/data_batch_3.bin", "tiny-imagenet-200"
WNID = f"{TINY}/train/{WNIDS[1]}/images"
VAL = f"{TINY}/val/val_annotations.txt"


def put(name, content):
    def damage(root):
        (root / name).write_bytes(content(root) if callable(content) else content)

    return damage


def packed(name, content):
    return put(name, gzip.compress(content))


def cut(name, keep):
    return put(name, lambda root: (root / name).read_bytes()[:keep])


def remove(name):
    def damage(root):
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return damage


def folder_instead(name):
    def damage(root):
        remove(name)(root)
        (root / name).mkdir()

    return damage


def file_instead(name):
    def damage(root):
        remove(name)(root)
        (root / name).write_text("a file")

    return damage


def line(name, text, at=0):
    """Put another line in place of one of a text."""

    def damage(root):
        lines = (root / name).read_text().splitlines()
        lines[at : at + 1] = [text]
        (root / name).write_text("\n".join(lines) + "\n")

    return damage


def image(name, **how):
    return lambda root: save(root / name, **how)


def flipped(name, at):
    def content(root):
        data = bytearray((root / name).read_bytes())
        data[at] ^= 0xFF
        return bytes(data)

    return put(name, content)


GOOD = some(6, 28, 28)
FOUR = np.arange(6, dtype=np.uint8)

DAMAGE = {
    "no folder": ("mnist", remove("mnist"), "mnist is missing"),
    "file for a folder": ("mnist", file_instead("mnist"), "mnist is a file, but must be a folder"),
    "no images": ("mnist", remove(X), "train-images-idx3-ubyte.gz is missing"),
    "no labels": ("fashion-mnist", remove("fashion-mnist/t10k-labels-idx1-ubyte.gz"), "t10k-labels.*is missing"),
    "folder for a file": ("mnist", folder_instead(X), "train-images.*is a folder, but must be a file"),
    "empty file": ("mnist", put(X, b""), "train-images.*is empty"),
    "not gzip": ("mnist", put(X, idx(GOOD)), "is not compressed by gzip"),
    "a page of HTML": ("mnist", put(X, b"<html>Not found</html>"), "is not compressed by gzip"),
    "truncated gzip": ("mnist", cut(X, 2000), "is truncated: its compressed data end"),
    "truncated header of gzip": ("mnist", cut(X, 5), "is truncated: its compressed data end"),
    "gzip without its checksum": ("mnist", cut(X, -8), "is truncated: its compressed data end"),
    "damaged gzip": ("mnist", flipped(X, -6), "is damaged: its compressed data cannot be read"),
    "damaged middle of gzip": ("mnist", flipped(X, 2000), "is damaged: its compressed data cannot be read"),
    "rubbish after gzip": ("mnist", put(X, gzip.compress(idx(GOOD)) + b"more"), "its compressed data cannot be read"),
    "empty gzip": ("mnist", packed(X, b""), "is not an IDX file"),
    "wrong magic number": ("mnist", packed(X, idx(GOOD, magic=b"\x7fE")), "is not an IDX file: it starts with 7f 45"),
    "type of floats": ("mnist", packed(X, idx(GOOD, code=0x0D)), "holds data of the type 0x0d.*unsigned bytes"),
    "type of signed bytes": ("mnist", packed(Y, idx(FOUR, code=9)), "holds data of the type 0x09"),
    "wrong rank": ("mnist", packed(X, idx(GOOD.reshape(6, 784))), "has the rank 2, but must have 3"),
    "labels for images": ("mnist", put(X, lambda root: (root / Y).read_bytes()), "has the rank 1, but must have 3"),
    "images for labels": ("mnist", put(Y, lambda root: (root / X).read_bytes()), "has the rank 3, but must have 1"),
    "header cut": ("mnist", packed(X, idx(GOOD)[:9]), "is truncated within its header"),
    "wrong size of images": ("mnist", packed(X, idx(some(6, 32, 32))), "holds images of 32 x 32 pixels.*28 x 28"),
    "no image": ("mnist", packed(X, idx(some(0, 28, 28))), "announces 0 examples"),
    "a count that fills the memory": ("mnist", packed(X, idx(GOOD, shape=(2**32 - 1, 28, 28))), "announces 4294967295"),
    "fewer bytes than announced": ("mnist", packed(X, idx(GOOD, shape=(7, 28, 28))), "4704 bytes follow.*5488"),
    "trailing bytes": ("mnist", packed(X, idx(GOOD) + b"\0"), "goes on after the 4704 bytes"),
    "trailing labels": ("mnist", packed(Y, idx(FOUR) + b"\1\2"), "goes on after the 6 bytes"),
    "fewer labels than images": ("mnist", packed(Y, idx(FOUR[:5])), "holds 6 images, but .* 5 labels"),
    "label out of range": ("mnist", packed(Y, idx(FOUR + 5)), "holds the label 10, but labels go from 0 to 9"),
    "no batch": ("cifar10", remove(BATCH), "data_batch_3.bin is missing"),
    "empty batch": ("cifar10", put(BATCH, b""), "data_batch_3.bin is empty"),
    "batch cut": ("cifar10", cut(BATCH, -1), "has 6145 bytes, but must be made of records of 3073"),
    "batch of CIFAR-100": ("cifar10", put(BATCH, bytes(2 * 3074)), "has 6148 bytes"),
    "label of CIFAR out of range": ("cifar10", put(BATCH, cifar_records(2, labels=(3, 10))), "holds the label 10"),
    "batch is a folder": ("cifar10", folder_instead(BATCH), "is a folder"),
    "too few names": ("cifar10", put("cifar10/batches.meta.txt", b"cat\ndog\n"), "2 different names on 2 lines"),
    "names that are no text": ("cifar10", put("cifar10/batches.meta.txt", b"\xff\xfe"), "is not a text in UTF-8"),
    "no list of classes": ("tiny-imagenet", remove(f"{TINY}/wnids.txt"), "wnids.txt is missing"),
    "empty list of classes": ("tiny-imagenet", put(f"{TINY}/wnids.txt", b""), "wnids.txt is empty"),
    "blank list of classes": ("tiny-imagenet", put(f"{TINY}/wnids.txt", b"\n \n"), "holds no line"),
    "a class twice": ("tiny-imagenet", line(f"{TINY}/wnids.txt", WNIDS[1]), f"has {WNIDS[1]} twice"),
    "a class that leaves": ("tiny-imagenet", line(f"{TINY}/wnids.txt", "../../x"), "must have one WordNet number"),
    "a class that is not listed": ("tiny-imagenet", line(f"{TINY}/wnids.txt", "n0"), "is a class that .* not list"),
    "no training images": ("tiny-imagenet", remove(f"{TINY}/train"), "train is missing"),
    "no folder of a class": ("tiny-imagenet", remove(f"{TINY}/train/{WNIDS[1]}"), f"{WNIDS[1]}/images is missing"),
    "no image of a class": ("tiny-imagenet", folder_instead(WNID), "holds no file that ends in .JPEG"),
    "no annotations": ("tiny-imagenet", remove(VAL), "val_annotations.txt is missing"),
    "unknown class": ("tiny-imagenet", line(VAL, "val_0.JPEG\tn9\t0"), "has the class 'n9' on line 1"),
    "no class": ("tiny-imagenet", line(VAL, "val_0.JPEG"), "has the class '' on line 1"),
    "missing image": ("tiny-imagenet", remove(f"{TINY}/val/images/val_2.JPEG"), "val_2.JPEG is missing.* line 3"),
    "image that leaves": ("tiny-imagenet", line(VAL, f"../x.JPEG\t{WNIDS[0]}\t0"), r"\.\./x.JPEG is missing"),
    "image twice": ("tiny-imagenet", line(VAL, f"val_0.JPEG\t{WNIDS[0]}\t0", at=1), "has val_0.JPEG twice.* line 2"),
    "image without a line": ("tiny-imagenet", image(f"{TINY}/val/images/val_9.JPEG"), "val_9.JPEG has no line in"),
    "not an image": ("tiny-imagenet", put(f"{WNID}/{WNIDS[1]}_0.JPEG", b"text"), "_0.JPEG is not a JPEG image"),
    "empty image": ("tiny-imagenet", put(f"{WNID}/{WNIDS[1]}_0.JPEG", b""), "_0.JPEG is not a JPEG image"),
    "image is a folder": ("tiny-imagenet", folder_instead(f"{WNID}/{WNIDS[1]}_0.JPEG"), "is not a JPEG image"),
    "image of another format": ("tiny-imagenet", image(f"{WNID}/{WNIDS[1]}_0.JPEG", format="PNG"), "is not a JPEG"),
    "truncated image": ("tiny-imagenet", cut(f"{WNID}/{WNIDS[1]}_0.JPEG", 900), "_0.JPEG is not a JPEG image"),
    "image of a wrong size": ("tiny-imagenet", image(f"{WNID}/a.JPEG", size=(64, 32)), "has 64 x 32 pixels.*64 x 64"),
    "image for print": ("tiny-imagenet", image(f"{WNID}/a.JPEG", mode="CMYK"), "has the colours CMYK"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence(root, tmp_path, kind):
    """Which file, what was expected, and where to get it."""
    name, damage, because = DAMAGE[kind]
    damage(root)
    with pytest.raises(ImageDataError, match=because) as caught:
        images.load(name, root, tmp_path / "cache")
    sentence = str(caught.value)
    assert sentence.startswith(str(folder_of(root, name)))
    assert "\n" not in sentence
    assert f"get it by simulator images fetch {name}, or put" in sentence
    assert "http" in sentence
    # What cannot be used is not kept as if it could.
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_cache_that_cannot_be_written_is_told(whole, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ImageDataError, match=r"cache cannot be written .*: give another cache"):
        images.load("tiny-imagenet", whole, tmp_path / "cache")


def test_without_a_folder_the_users_own_is_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    with pytest.raises(ImageDataError, match=f"{tmp_path}/simulator/images/mnist is missing"):
        images.load("mnist")
    images.data_folder().mkdir(parents=True)
    write_idx(images.data_folder() / "mnist")
    assert len(images.load("mnist").x_train) == 6


def test_importing_loads_neither_pooch_nor_pillow():
    line = (
        "import simulator.images, sys; print([m for m in ('pooch', 'requests', 'PIL', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- real files ----

DATA = os.environ.get("SIMULATOR_DATA")


def real(name):
    if DATA is None:
        pytest.skip("SIMULATOR_DATA does not name a folder of real data sets")
    if not folder_of(Path(DATA), name).exists():
        pytest.skip(f"the folder named by SIMULATOR_DATA has no {images.SETS[name].folder}")
    return images.load(name, DATA)


# Mean and deviation of the pixels of the complete training parts, as published with both sets; for a part of n images
# they hold to a few standard errors: the means of images spread by about 0.05 (MNIST) and 0.2 (Fashion-MNIST).
@pytest.mark.parametrize(
    ("name", "mean", "deviation", "spread"), [("mnist", 0.1307, 0.3081, 0.05), ("fashion-mnist", 0.2860, 0.3530, 0.2)]
)
def test_real_files_have_the_published_statistics(name, mean, deviation, spread):
    found = real(name)
    n = len(found.y_train)
    tolerance = 5e-5 + (5 * spread / np.sqrt(n) if n < 60_000 else 0)
    assert abs(found.x_train.mean() / 255 - mean) < tolerance
    assert abs(found.x_train.std() / 255 - deviation) < tolerance
    counts = np.bincount(found.y_train, minlength=10)
    if name == "fashion-mnist":
        np.testing.assert_array_equal(counts, np.full(10, n // 10))
    # Binomial counts: five standard errors about a tenth, and MNIST's own share of a digit is 0.09 to 0.113.
    assert (np.abs(counts / n - 0.1) < 0.013 + 5 * np.sqrt(0.09 / n)).all()


@pytest.mark.parametrize("name", IDX_SETS)
def test_real_images_show_what_their_labels_say(name):
    """The nearest mean of a class is right far more often than by chance: images and labels belong together."""
    found = real(name)
    x, y = (np.asarray(one, np.float32) for one in found.subset(train=2000).examples("train"))
    means = np.stack([x[y == label].mean(0) for label in range(10)])
    x_test, y_test = (np.asarray(one, np.float32) for one in found.subset(test=1000).examples("test"))
    nearest = np.argmin(((x_test[:, None] - means) ** 2).sum(-1), axis=1)
    # Published for nearest means: an error of about 0.18 on MNIST and 0.32 on Fashion-MNIST; chance is 0.9.
    assert (nearest != y_test).mean() < 0.4
