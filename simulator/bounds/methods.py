"""The table of bounds: which propagation gives what, and which lines replace a ReLU."""

import equinox as eqx
import jax.numpy as jnp

INTERMEDIATES = ("interval", "forward", "backward")


class Method(eqx.Module):
    """A row of the table of bounds."""

    intermediates: str = eqx.field(static=True)
    """Pre-activation bounds by "interval", "forward" or "backward" propagation."""
    final: str = eqx.field(static=True)
    """The margin by "interval", "forward" or "backward" propagation."""
    slope: str = eqx.field(static=True, default="adaptive")
    """The lower line of an unstable ReLU, a key of `LOWER_SLOPES`."""
    upper: str = eqx.field(static=True, default="chord")
    """The upper line of an unstable ReLU, a key of `UPPER_LINES`."""
    ascents: int = eqx.field(static=True, default=0)
    """Steps of gradient ascent on the lower slopes of the final bound."""


LOWER_SLOPES = {
    "adaptive": lambda middle, chord: (middle > 0).astype(chord.dtype),  # 1 or 0: whichever leaves the smaller triangle
    "same": lambda middle, chord: chord,  # parallel to the upper line: the Wong-Kolter dual
    "zero": lambda middle, chord: jnp.zeros_like(chord),
    "one": lambda middle, chord: jnp.ones_like(chord),
    "steep": lambda middle, chord: jnp.clip(2 * chord - 0.5, 0, 1),  # continuous, half way from "same" to "adaptive"
}
"""(middle of the box, slope of the chord) -> slope of the lower line through 0; sound for every slope in [0, 1]."""

UPPER_LINES = {
    "chord": lambda box_upper, chord, intercept: (chord, intercept),  # the least line above ReLU on [l, u]
    "constant": lambda box_upper, chord, intercept: (jnp.zeros_like(chord), box_upper),  # its value at u, everywhere
}
"""(u, slope and intercept of the chord) -> slope and intercept of the upper line."""

METHODS = {
    "ibp": Method("interval", "interval"),
    "crown-ibp": Method("interval", "backward", "adaptive"),
    "crown": Method("backward", "backward", "adaptive"),
    "coap": Method("backward", "backward", "same"),
    "crown-zero": Method("backward", "backward", "zero"),
    "crown-ibp-same": Method("interval", "backward", "same"),
    "crown-ibp-zero": Method("interval", "backward", "zero"),
    "forward": Method("forward", "forward", "adaptive"),
    "forward-backward": Method("forward", "backward", "adaptive"),
    "crown-one": Method("backward", "backward", "one"),
    "crown-steep": Method("backward", "backward", "steep"),
    "alpha-crown": Method("backward", "backward", "adaptive", ascents=20),
    "hbox": Method("backward", "backward", "zero", "constant"),
}
"""Bounds by name.  ibp: Gowal et al. (2018).  coap: Wong & Kolter (2018).  crown: Zhang et al. (2018).
crown-ibp: Zhang et al. (2020).  forward, forward-backward: Xu et al. (2020).  alpha-crown, never below crown: Xu et al.
(2021).  hbox, the lines of a box with linear bounds between: Mirman et al. (2018), as in Jovanovic et al. (2022).  The
others change only the lower line, to separate tightness from continuity and sensitivity: "one" and "zero" are looser
than "adaptive", "steep" is continuous."""


def method_of(name: str) -> Method:
    """The row of that name.  Raises `ValueError` if there is none."""
    if name not in METHODS:
        raise ValueError(f"there is no bound {name!r}; the bounds are {', '.join(METHODS)}")
    return METHODS[name]
