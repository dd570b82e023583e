"""Robust error by attacks, exactly, and by bounds, on networks small enough to be solved.

    python benchmarks/exact.py [--dim 2] [--width 20] [--examples 100] [--limit 10]

Concentric spheres of radii 1 and 3 (2-d) or 1 and 12, 50 training examples, one hidden layer, SGD with momentum as in
the thesis (rate 0.01, 150 epochs).  For adversarial training and COAP, under an l2 ball and the largest l_inf box in
it: robust error by `attacks.search` (5 starts, 100 steps, without any exact search), the exact one as an interval
(`verification.robust_error`: examples that are not decided within `--limit` seconds each stand on both sides), and the
certified one by "alpha-crown", "crown", "coap" and "ibp", of the same test examples.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import jax.random as jr

from simulator import attacks, bounds, losses, networks, threats, train, verification
from simulator.data import ConcentricSpheres
from simulator.studies.protocol import training_attack

BOUNDS = ("alpha-crown", "crown", "coap", "ibp")
LOSSES = {"adversarial": losses.attacked(training_attack), "coap": losses.certified("coap")}


def trained(dim: int, width: int, radius: float, loss: losses.Loss):
    """A task and a network trained on 50 of its examples."""
    task = ConcentricSpheres(dim, 1.0, 3.0 if dim == 2 else 12.0)
    x, y = task.sample(jr.key(0), 50)
    start = networks.mlp(jr.key(1), dim, (width,))
    recipe = train.Recipe(0.01, 0.95, epochs=150)
    return task, jax.jit(lambda: train.fit(jr.key(2), start, x, y, threats.L2(radius), loss, recipe).network)()


def shares(network, threat, x, y) -> dict[str, float]:
    """Robust error by attacks, and error not certified by every bound."""

    def one(key, x, y):
        k = networks.label(y)
        rows = networks.contrast(network, k, networks.others(network, k))
        found = attacks.search(key, network, threat, x, k)
        proven = {name: jnp.min(bounds.lower(network, threat, x, rows, name)) > 0 for name in BOUNDS}
        return {"attack": ~(found.best.margin > 0), **{name: ~value for name, value in proven.items()}}

    wrong = jax.jit(jax.vmap(one))(jr.split(jr.key(4), len(y)), x, y)
    return {name: float(jnp.mean(value)) for name, value in wrong.items()}


def main() -> None:
    """Read the command line, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--radii", default="0.3,0.6,1.0")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for an example")
    given = parser.parse_args()
    print("defence, threat, radius, attack, exact from, to, undecided,", ", ".join(BOUNDS), ", seconds an example")
    for defence, loss in LOSSES.items():
        for radius in map(float, given.radii.split(",")):
            task, network = trained(given.dim, given.width, radius, loss)
            x, y = task.sample(jr.key(3), given.examples)
            for threat in (threats.L2(radius), threats.LInf(radius / given.dim**0.5)):
                found, began = shares(network, threat, x, y), time.perf_counter()
                exact = verification.robust_error(network, threat, x, y, time_limit=given.limit)
                seconds = (time.perf_counter() - began) / given.examples
                certified = ", ".join(f"{found[name]:.2f}" for name in BOUNDS)
                print(
                    f"{defence}, {type(threat).__name__}, {radius}, {found['attack']:.3f}, {exact.lower:.3f}, "
                    f"{exact.upper:.3f}, {exact.undecided}, {certified}, {seconds:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
