"""What the page of the explorer says."""

import xarray as xr

from simulator.explorer.controls import MOST_EXAMPLES, Controls
from simulator.explorer.live import ATTACK_STEPS, EPOCHS, TEST_EXAMPLES, Live

LABELS = {
    "task": "data",
    "threat": "set of perturbations",
    "left": "defence on the left",
    "right": "defence on the right",
    "epsilon": "radius ε",
    "margin": "margin γ",
    "n": "training examples n",
    "seed": "sample",
    "dim": "dimension d",
    "width": "hidden neurons",
}
"""The name of every control of `Controls` on the page."""

RECOMPILES = (
    f"These two change the shapes of arrays: at a new value programs are compiled first, which takes seconds. "
    f"The ones above never compile anything (n has room for {MOST_EXAMPLES})."
)

ROWS = {
    "standard_error": "standard error",
    "robust_error": f"robust error, under attack (APGD, {ATTACK_STEPS} steps)",
    "certified_error": "certified error, not proven by COAP, CROWN or IBP",
    "alignment_attack": "mean cos(a, attack δ)",
    "alignment_dual": "mean cos(a, COAP dual δ)",
    "unstable": "share of unstable neurons",
    "looseness": "looseness of COAP's bound",
}
"""Variable -> what its row of the table is called."""


def numbers(result: xr.Dataset) -> str:
    """The table of both defences, in Markdown."""
    names = [str(name) for name in result["defence"].values]
    lines = [f"| | {names[0]} | {names[1]} |", "|---|---|---|"]
    for variable, label in ROWS.items():
        values = " | ".join(f"{float(value):.3f}" for value in result[variable].values)
        lines.append(f"| {label} | {values} |")
    return "\n".join(lines)


def status(result: xr.Dataset) -> str:
    """How the numbers were obtained, and how long it took."""
    diverged = [str(name) for name, one in zip(result["defence"].values, result["diverged"].values, strict=True) if one]
    compiled = result.attrs["compile_seconds"]
    parts = [
        f"Trained {EPOCHS} epochs and measured on {TEST_EXAMPLES} fresh examples, twice, in "
        f"{result.attrs['seconds']:.2f} s; "
        + (f"compiled for this d and width before, in {compiled:.1f} s." if compiled else "nothing was compiled."),
        *(["**Training diverged**: " + ", ".join(diverged) + "."] if diverged else []),
    ]
    if result.attrs["dim"] > 2:
        parts.append(
            "The picture is the plane through the origin, the example shown and the signal (linear data) or an example "
            "of the other class (spheres); everything else is projected onto it."
        )
    return " ".join(parts)


def description(result: xr.Dataset) -> str:
    """What the picture shows, for those who cannot see it."""
    at = result.attrs
    names = " and ".join(str(name) for name in result["defence"].values)
    errors = ", ".join(
        f"{name.replace('_', ' ')} {' and '.join(f'{float(value):.2f}' for value in result[name].values)}"
        for name in ("standard_error", "robust_error", "certified_error")
    )
    return f"Regions learnt by {names} on {at['task']}, {at['threat']} of radius {at['epsilon']:g}: {errors}"


def announcement(live: Live, controls: Controls) -> str:
    """What is said while an answer is computed."""
    if controls.shape in live.compiled:
        return "training"
    return f"compiling for d = {controls.dim} and {controls.width} hidden neurons, once; then training"
