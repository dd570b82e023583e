"""The standard task written by hand in the smallest form: what a careful user of JAX would write for one method.

    python benchmarks/minimal.py METHOD [--steps N]

METHOD is adversarial, coap or ibp.  One device per core, one configuration after the other, the steps in a scan, and
attacks in the coordinates of the first layer.  No certificate, history, selection or store, and formulas that fit one
hidden layer and one output only.  The rate of `sweep.py` over the rate of this program tells what the general machinery
costs or saves, and says it in a unit that processors share better than the matrix peak.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sweep import EXAMPLES, PRODUCTS, SEEDS, WIDTH, peak_in_its_own_process

from simulator import studies

DIM, RADII, ATTACK_STEPS, TINY = 100, 16, 10, 1e-30
Weights = dict[str, jax.Array]


def drawn(key: jax.Array) -> tuple[jax.Array, jax.Array, Weights]:
    """Examples, labels and a network x -> v ReLU(W^T x + b) + c."""
    label, noise, first, last = jr.split(key, 4)
    y = jnp.where(jr.bernoulli(label, 0.5, (EXAMPLES,)), 1.0, -1.0)
    x = jr.normal(noise, (EXAMPLES, DIM)).at[:, 0].set(6 * y)
    weights = {
        "W": jr.normal(first, (DIM, WIDTH)) / DIM**0.5,
        "b": jnp.zeros(WIDTH),
        "v": jr.normal(last, (WIDTH,)) / WIDTH**0.5,
        "c": jnp.zeros(()),
    }
    return x, y, weights


def margins(net: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    """y f(x)."""
    return y * (jax.nn.relu(x @ net["W"] + net["b"]) @ net["v"] + net["c"])


def adversarial(net: Weights, x: jax.Array, y: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Margins at the points of PGD with normalised steps: delta = C W^T, of which z sees C G with G = W^T W."""
    fixed = jax.lax.stop_gradient(net)
    gram = fixed["W"].T @ fixed["W"]
    clean = x @ fixed["W"] + fixed["b"]
    length = 2.5 * epsilon / ATTACK_STEPS

    def step(_, point):
        coefficients, seen = point
        ascent = -y[:, None] * (clean + seen > 0) * fixed["v"]
        moved = ascent @ gram
        scale = length / jnp.sqrt(jnp.sum(ascent * moved, 1, keepdims=True) + TINY)
        coefficients, seen = coefficients + scale * ascent, seen + scale * moved
        norm = jnp.sqrt(jnp.sum(coefficients * seen, 1, keepdims=True) + TINY)
        inside = jnp.minimum(1, epsilon / norm)
        return coefficients * inside, seen * inside

    start = jnp.zeros_like(clean)
    coefficients, _ = jax.lax.fori_loop(0, ATTACK_STEPS, step, (start, start))
    return margins(net, x + coefficients @ fixed["W"].T, y)


def coap(net: Weights, x: jax.Array, y: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The dual bound of Wong and Kolter (2018) under an l2 ball."""
    z = x @ net["W"] + net["b"]
    reach = epsilon * jnp.sqrt(jnp.sum(net["W"] ** 2, 0))
    low, high = z - reach, z + reach
    unstable = (low < 0) & (high > 0)
    slope = jnp.where(unstable, high / jnp.where(unstable, high - low, 1), low >= 0)
    signed = y[:, None] * net["v"]
    lines = slope * signed
    offset = jnp.sum(jnp.where(unstable, slope * low * jnp.maximum(-signed, 0), 0), 1)
    dual = lines @ net["W"].T
    return jnp.sum(lines * z, 1) + offset + y * net["c"] - epsilon * jnp.sqrt(jnp.sum(dual**2, 1) + TINY)


def ibp(net: Weights, x: jax.Array, y: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The interval bound under an l2 ball."""
    z = x @ net["W"] + net["b"]
    reach = epsilon * jnp.sqrt(jnp.sum(net["W"] ** 2, 0))
    signed = y[:, None] * net["v"]
    worst = jnp.where(signed > 0, jax.nn.relu(z - reach), jax.nn.relu(z + reach))
    return jnp.sum(signed * worst, 1) + y * net["c"]


METHODS: dict[str, Callable] = {"adversarial": adversarial, "coap": coap, "ibp": ibp}


def trained(method: str, steps: int, seed: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The last loss of one configuration."""
    x, y, net = drawn(jr.key(seed))
    optimizer = optax.adam(1e-3)

    def loss(net):
        return jnp.mean(jax.nn.softplus(-METHODS[method](net, x, y, epsilon)))

    def step(state, _):
        net, memory = state
        value, gradient = jax.value_and_grad(loss)(net)
        update, memory = optimizer.update(gradient, memory, net)
        return (optax.apply_updates(net, update), memory), value

    return jax.lax.scan(step, (net, optimizer.init(net)), length=steps)[1][-1]


def main() -> None:
    """Read the command line, compile, run, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", studies.cores())
    split = NamedSharding(Mesh(np.array(jax.devices()), ("device",)), PartitionSpec("device"))
    seeds, radii = (
        jax.device_put(axis.ravel(), split)
        for axis in jnp.meshgrid(jnp.arange(SEEDS), jnp.linspace(0.1, 1.6, RADII), indexing="ij")
    )

    @jax.jit
    @partial(jax.shard_map, mesh=split.mesh, in_specs=split.spec, out_specs=split.spec)
    def sweep(seeds, radii):
        return jax.lax.map(lambda one: trained(given.method, given.steps, *one), (seeds, radii))

    began = time.perf_counter()
    compiled = sweep.lower(seeds, radii).compile()
    ready = time.perf_counter()
    last = np.asarray(compiled(seeds, radii))
    seconds = time.perf_counter() - ready
    if not np.isfinite(last).all():
        raise SystemExit(f"{given.method}: {np.sum(~np.isfinite(last))} configurations diverged")
    gflop = PRODUCTS[given.method] * 2 * EXAMPLES * DIM * WIDTH * given.steps * last.size / 1e9
    found = {"method": given.method, "steps": given.steps, "run_s": seconds, "compile_s": ready - began}
    found |= {"rate_gflops": gflop / seconds, "peak_gflops": peak_in_its_own_process(), "loss": last.mean()}
    print(json.dumps({name: round(float(v), 3) if name != "method" else v for name, v in found.items()}))


if __name__ == "__main__":
    main()
