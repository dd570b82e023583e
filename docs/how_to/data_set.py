"""Kuzushiji-MNIST, whose official files have the names and the format of MNIST's: images.load("kmnist", folder)"""

from dataclasses import replace

from simulator import images

images.SETS["kmnist"] = replace(
    images.SETS["mnist"],
    name="kmnist",
    about="28 x 28 cursive Japanese characters of Clanuwat et al. (arXiv 1812.01718)",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    folder="kmnist",
    downloads=(),
)
