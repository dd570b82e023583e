"""Published errors on images, for comparison only."""

from simulator.studies.study import Published

THESIS = "De Bartolomeis, thesis, section 3.1 (digitised from the poster, about 0.005; MNIST: large CNN, all images)"

MNIST = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
CIFAR = tuple(k / 255 for k in (9, 18, 36, 72, 108))
TINY = tuple(k / 255 for k in (25, 50, 150, 300, 450))
TINY_OF_AT = tuple(k / 255 for k in (25, 150, 300, 450))

Rows = dict[tuple[str, str], tuple[float, ...]]

_MNIST: Rows = {
    ("standard_error", "coap"): (0.009, 0.014, 0.030, 0.049, 0.074, 0.142, 0.19, 0.24),
    ("standard_error", "crown-ibp"): (0.017, 0.028, 0.060, 0.19, 0.70, 0.89, 0.89, 0.89),
    ("robust_error", "adversarial"): (0.012, 0.020, 0.035, 0.048, 0.092, 0.131, 0.21, 0.35),
    ("robust_error", "coap"): (0.015, 0.040, 0.099, 0.194, 0.303, 0.442, 0.53, 0.62),
    ("robust_error", "crown-ibp"): (0.03, 0.06, 0.12, 0.36, 0.76, 0.89, 0.89, 0.89),
    ("discrepancy", "coap"): (0.01, 0.02, 0.02, 0.03, 0.07, 0.30, 0.53, 0.74),
    ("discrepancy", "crown-ibp"): (0.03, 0.04, 0.07, 0.45, 1, 1, 1, 1),
    ("robust_discrepancy", "adversarial"): (0.02, 0.04, 0.05, 0.10, 0.16, 0.24, 0.41, 0.83),
    ("robust_discrepancy", "coap"): (0.02, 0.06, 0.13, 0.31, 0.50, 0.98, 1, 1),
}
_CIFAR: Rows = {
    ("standard_error", "adversarial"): (0.151, 0.152, 0.152, 0.172, 0.179),
    ("standard_error", "coap"): (0.219, 0.287, 0.399, 0.575, 0.572),
    ("standard_error", "crown-ibp"): (0.296, 0.347, 0.389, 0.622, 0.642),
    ("robust_error", "adversarial"): (0.217, 0.247, 0.298, 0.386, 0.440),
    ("robust_error", "coap"): (0.234, 0.316, 0.447, 0.630, 0.645),
    ("robust_error", "crown-ibp"): (0.353, 0.424, 0.514, 0.741, 0.789),
    ("discrepancy", "adversarial"): (0.16, 0.19, 0.19, 0.19, 0.21),
    ("discrepancy", "coap"): (0.23, 0.30, 0.35, 0.54, 0.71),
    ("discrepancy", "crown-ibp"): (0.24, 0.37, 0.45, 0.82, 0.83),
}
_TINY: Rows = {
    ("standard_error", "crown-ibp"): (0.812, 0.850, 0.972, 0.990, 0.995),
    ("robust_error", "crown-ibp"): (0.863, 0.901, 0.984, 0.994, 0.995),
}
_TINY_OF_AT: Rows = {
    ("standard_error", "adversarial"): (0.414, 0.442, 0.473, 0.498),
    ("robust_error", "adversarial"): (0.550, 0.763, 0.865, 0.922),
    ("discrepancy", "adversarial"): (0.69, 0.86, 0.89, 0.84),
}


def _curves(images: str, radii: tuple[float, ...], rows: Rows) -> tuple[Published, ...]:
    return tuple(
        Published(
            variable,
            {"images": images, "defence": defence},
            "epsilon",
            dict(zip(radii, values, strict=True)),
            THESIS,
            trials=1,
        )
        for (variable, defence), values in rows.items()
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "mnist": _curves("mnist", MNIST, _MNIST),
    "cifar10": _curves("cifar10", CIFAR, _CIFAR),
    "tiny-imagenet": (
        *_curves("tiny-imagenet", TINY, _TINY),
        *_curves("tiny-imagenet", TINY_OF_AT, _TINY_OF_AT),
    ),
}
"""Data set -> the published curves under l2 balls.  Those of the paper 2306.06995 have other evaluations in part and
are not repeated here."""
