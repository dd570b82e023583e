"""What the explorer says of an answer."""

from simulator.explorer.answer import Answer
from simulator.explorer.controls import ATTACK_STEPS, EPOCHS, TEST_EXAMPLES, Controls

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


def announcement(controls: Controls) -> str:
    """What is said while programs are compiled."""
    return f"compiling for d = {controls.dim} and {controls.width} hidden neurons, once; then training"


def numbers(answer: Answer) -> str:
    """The table of both defences, in Markdown."""
    lines = [f"| | {answer.controls.left} | {answer.controls.right} |", "|---|---|---|"]
    for variable, label in ROWS.items():
        values = " | ".join(f"{side[variable]:.3f}" for _, side in answer.sides)
        lines.append(f"| {label} | {values} |")
    return "\n".join(lines)


def status(answer: Answer) -> str:
    """How the numbers were obtained, and how long it took."""
    diverged = [name for name, side in answer.sides if side["diverged"]]
    waited = answer.compile_seconds
    parts = [
        f"Trained {EPOCHS} epochs and measured on {TEST_EXAMPLES} fresh examples, twice, in {answer.seconds:.2f} s; "
        + (f"waited for compiling before, {waited:.1f} s." if waited else "nothing was compiled."),
        *(["**Training diverged**: " + ", ".join(diverged) + "."] if diverged else []),
    ]
    if answer.controls.dim > 2:
        parts.append(
            "The picture is the plane through the origin, the example shown and the signal (linear data) or an example "
            "of the other class (spheres); everything else is projected onto it."
        )
    return " ".join(parts)


def before(controls: Controls) -> str:
    """What the picture shows before anything is trained, for those who cannot see it."""
    return f"Data, signal direction and set of perturbations: {controls.task}, {_set(controls)}"


def description(answer: Answer) -> str:
    """What the picture shows, for those who cannot see it."""
    at = answer.controls
    errors = ", ".join(
        f"{name.replace('_', ' ')} {' and '.join(f'{side[name]:.2f}' for _, side in answer.sides)}"
        for name in ("standard_error", "robust_error", "certified_error")
    )
    return f"Regions learnt by {at.left} and {at.right} on {at.task}, {_set(at)}: {errors}"


def _set(controls: Controls) -> str:
    return f"{controls.threat} of radius {controls.epsilon:g}"
