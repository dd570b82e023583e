"""Threats: sets of perturbations, each described by three operations.

Attacks, bounds, exact losses and closed forms all go through `support`, `worst` and `project`, so every method works
for every threat.  A set contains 0; it need be neither symmetric nor convex: `support` and `worst` are those of the
convex hull, hence a bound certifies the hull, and `pieces` lists the convex members an attack has to enumerate
(projected gradient steps onto a union get stuck on one member).

The radius is an array leaf in the units of the data: sweep it inside one compiled program, or map over one radius per
example.

```python
import jax.numpy as jnp
from simulator import threats

w, ball = jnp.array([3.0, 4.0]), threats.L2(radius=0.5)
assert ball.support(w) == 2.5  # the radius times the dual norm of w
assert jnp.allclose(ball.worst(w), jnp.array([0.3, 0.4]))
```
"""

from simulator.threats.about_signal import Orthogonal, SignalDirected, Spheroid
from simulator.threats.balls import L1, L2, ConsistentLInf, LInf
from simulator.threats.in_box import L2InBox, LInfInBox
from simulator.threats.one_of import OneOf
from simulator.threats.segments import Segments
from simulator.threats.threat import Threat

__all__ = [
    "L1",
    "L2",
    "ConsistentLInf",
    "L2InBox",
    "LInf",
    "LInfInBox",
    "OneOf",
    "Orthogonal",
    "Segments",
    "SignalDirected",
    "Spheroid",
    "Threat",
]
