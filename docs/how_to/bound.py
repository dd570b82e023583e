"""CROWN with lower lines of slope 1/2 under every unstable ReLU: sound, since every slope in [0, 1] is."""

import jax.numpy as jnp

from simulator import bounds

bounds.LOWER_SLOPES["half"] = lambda middle, chord: jnp.full_like(chord, 0.5)
bounds.METHODS["crown-half"] = bounds.Method(intermediates="backward", final="backward", slope="half")
