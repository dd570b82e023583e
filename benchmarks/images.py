"""Training steps of the small convolutional network of the papers, beside the same steps in torch.

    python benchmarks/images.py [--rounds N] [--methods adversarial,ibp,...] [--forms] [--json]

`networks.small_cnn` on random images of 28 x 28 pixels, 10 classes, plain gradient steps:

- `adversarial`: PGD-10 under an l2 ball, batch of 50; in torch the loop everybody writes;
- `ibp` and `crown-ibp`: under an l_inf ball, batch of 50; in torch written here in plain operations;
- `coap-50`: COAP estimated by 50 random projections, l2, batch of 50; by convex_adversarial (its "l2_normal");
- `coap`: COAP with exact lengths, l2, batch of 10; by convex_adversarial.

Needs the extra: pip install -e '.[benchmarks]'.  The losses are compared on shared weights first, loosely where they
are random.  Ours runs its steps in a loop as training does: a batch split over virtual devices, one per core, gradients
summed over blocks that fit the caches.  In every round each contender runs once, in one process
on all cores; a ratio compares two runs of one round, and medians are printed with the smallest and largest.  Compiling
is printed apart.  `--forms` adds ours with the compiler's convolutions in place of products (`networks.patches`).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import torch
from peers import torch_pgd
from torch.nn.functional import conv2d, conv_transpose2d, cross_entropy, linear

from simulator import attacks, image_training, losses, networks, studies, threats
from simulator.networks import layers
from simulator.studies.image_fits import AT_ONCE, ROWS_AT_ONCE

SHAPE, CLASSES, RATE, L2_RADIUS, LINF_RADIUS = (1, 28, 28), 10, 1e-3, 1.0, 0.1
BATCH = {"adversarial": 50, "ibp": 50, "crown-ibp": 50, "coap-50": 50, "coap": 10}
STEPS = {"adversarial": 20, "ibp": 50, "crown-ibp": 5, "coap-50": 1, "coap": 1}
"""Of one timed run."""
PAUSE = 0.5
"""Seconds before every run: threads of the one before may still be waiting for work, on a core."""


def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, flat, and labels."""
    draw = np.random.default_rng(0)
    return draw.random((count, 784), np.float32), draw.integers(0, CLASSES, count)


def ours(method: str) -> tuple[losses.Loss, threats.Threat]:
    """The loss of one example and its threat."""
    return {
        "adversarial": (losses.attacked(attacks.pgd), threats.L2(L2_RADIUS)),
        "ibp": (losses.certified("ibp"), threats.LInf(LINF_RADIUS)),
        "crown-ibp": (losses.certified("crown-ibp"), threats.LInf(LINF_RADIUS)),
        "coap-50": (losses.estimated(jr.key(1), 50), threats.L2(L2_RADIUS)),
        "coap": (losses.certified("coap"), threats.L2(L2_RADIUS)),
    }[method]


def our_run(method: str, product: bool) -> tuple[Callable[[], float], float]:
    """A run of all steps that returns the first loss, and the seconds it took to compile."""
    loss, threat = ours(method)
    x, y = map(jnp.asarray, examples(BATCH[method]))

    def step(network, _):
        own = image_training.spread((x, y))
        value, slope = image_training.mean_gradient(network, threat, loss, *own, AT_ONCE.get(method, ROWS_AT_ONCE))
        return jax.tree.map(lambda weight, g: weight - RATE * g, network, slope), value

    start, rule = networks.small_cnn(jr.key(0), SHAPE, CLASSES), layers.as_product
    began = time.perf_counter()
    layers.as_product = lambda: product
    compiled = jax.jit(lambda net: jax.lax.scan(step, net, length=STEPS[method])).lower(start).compile()
    layers.as_product = rule
    return lambda: float(compiled(start)[1][0]), time.perf_counter() - began


def torch_network(weights: list[np.ndarray]) -> torch.nn.Sequential:
    """The same network with the same weights."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1568, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, CLASSES),
    )
    with torch.no_grad():
        for theirs, own in zip(network.parameters(), weights, strict=True):
            theirs.copy_(torch.from_numpy(own))
    return network


def absolute(layer: torch.nn.Module, reach: torch.Tensor) -> torch.Tensor:
    """|A| reach."""
    if isinstance(layer, torch.nn.Conv2d):
        return conv2d(reach, layer.weight.abs(), None, layer.stride, layer.padding)
    return linear(reach, layer.weight.abs()) if isinstance(layer, torch.nn.Linear) else layer(reach)


def torch_boxes(network, x: torch.Tensor):
    """Middles and reaches before every ReLU and before the last layer."""
    middle, reach, boxes = x, torch.full_like(x, LINF_RADIUS), []
    for layer in network[:-1]:
        if isinstance(layer, torch.nn.ReLU):
            boxes.append((middle, reach))
            lower, upper = torch.relu(middle - reach), torch.relu(middle + reach)
            middle, reach = (upper + lower) / 2, (upper - lower) / 2
        else:
            middle, reach = layer(middle), absolute(layer, reach)
    return boxes, middle, reach


def torch_rows(network, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last layer with the differences to all rivals folded in: [n, rivals, width] and [n, rivals]."""
    rivals = (y[:, None] + 1 + torch.arange(CLASSES - 1)) % CLASSES
    weight, bias = network[-1].weight, network[-1].bias
    return weight[y][:, None] - weight[rivals], bias[y][:, None] - bias[rivals]


def torch_loss(margins: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of margins [n, rivals]."""
    return torch.logsumexp(torch.cat([torch.zeros_like(margins[:, :1]), -margins], 1), 1).mean()


def torch_ibp(network, x, y) -> torch.Tensor:
    """The loss at interval bounds."""
    _, middle, reach = torch_boxes(network, x)
    rows, constant = torch_rows(network, y)
    return torch_loss((rows @ middle[..., None] - rows.abs() @ reach[..., None])[..., 0] + constant)


def torch_crown_ibp(network, x, y) -> torch.Tensor:
    """The loss at CROWN bounds with interval bounds in between."""
    boxes, _, _ = torch_boxes(network, x)
    rows, constant = torch_rows(network, y)
    for layer in reversed(network[:-1]):
        if isinstance(layer, torch.nn.ReLU):
            middle, reach = (part.reshape(len(x), 1, -1) for part in boxes.pop())
            lower, upper = middle - reach, middle + reach
            unstable = (lower < 0) & (upper > 0)
            chord = torch.where(unstable, upper / torch.where(unstable, upper - lower, 1), (lower >= 0).float())
            below = torch.where(unstable, (middle > 0).float(), chord)
            negative = rows.clamp_max(0)
            constant = constant - (negative * torch.where(unstable, chord * lower, 0)).sum(-1)
            rows = negative * chord + rows.clamp_min(0) * below
        elif isinstance(layer, torch.nn.Linear):
            rows, constant = rows @ layer.weight, constant + rows @ layer.bias
        elif isinstance(layer, torch.nn.Conv2d):
            side = round((rows.shape[-1] / layer.out_channels) ** 0.5)
            images = rows.reshape(-1, layer.out_channels, side, side)
            constant = constant + (images.sum((2, 3)) @ layer.bias).reshape(constant.shape)
            pulled = conv_transpose2d(images, layer.weight, None, layer.stride, layer.padding)
            rows = pulled.reshape(*rows.shape[:2], -1)
    least = (rows @ x.reshape(len(x), -1, 1))[..., 0] + constant - LINF_RADIUS * rows.abs().sum(-1)
    return torch_loss(least)


def torch_adversarial(network, x, y) -> torch.Tensor:
    """The loss at the points of PGD-10."""
    flat = x.reshape(len(x), -1)
    delta = torch_pgd(
        lambda points: cross_entropy(network(points.reshape(x.shape)), y, reduction="sum"), flat, L2_RADIUS
    )
    return cross_entropy(network((flat + delta).reshape(x.shape)), y)


def torch_coap(**options) -> Callable[..., torch.Tensor]:
    """The loss at COAP bounds by convex_adversarial."""
    from convex_adversarial import robust_loss

    return lambda network, x, y: robust_loss(network, L2_RADIUS, x, y, **options)[0]


def their_loss(method: str) -> Callable[..., torch.Tensor]:
    """(network, images, labels) -> mean loss."""
    if method == "coap-50":
        return torch_coap(norm_type="l2_normal", proj=50)
    if method == "coap":
        return torch_coap(norm_type="l2")
    return {"adversarial": torch_adversarial, "ibp": torch_ibp, "crown-ibp": torch_crown_ibp}[method]


def their_run(method: str) -> Callable[[], float]:
    """A run of all steps by torch that returns the first loss."""
    images, labels = (torch.from_numpy(part) for part in examples(BATCH[method]))
    images, loss = images.reshape(-1, *SHAPE), their_loss(method)
    weights = [np.array(leaf) for leaf in jax.tree.leaves(networks.small_cnn(jr.key(0), SHAPE, CLASSES))]

    def run() -> float:
        network = torch_network(weights)
        optimizer, first = torch.optim.SGD(network.parameters(), RATE), None
        for _ in range(STEPS[method]):
            optimizer.zero_grad()
            value = loss(network, images, labels)
            value.backward()
            optimizer.step()
            first = float(value.detach()) if first is None else first
        return first

    return run


def measured(method: str, rounds: int, forms: bool) -> dict:
    """Milliseconds of a step of every contender in turn, and the ratios to ours."""
    contenders, compiling = {"torch": their_run(method)}, {}
    for name, product in {"ours": True, **({"ours, convolution": False} if forms else {})}.items():
        contenders[name], compiling[name] = our_run(method, product)
    # Once unmeasured: a first run is slower.
    values = {name: run() for name, run in contenders.items()}
    # Ours attacks with the best iterate, the loop with the last; and random numbers are others.
    tolerance = {"adversarial": 1e-2, "coap-50": 0.5}.get(method, 1e-4)
    if abs(values["torch"] - values["ours"]) > tolerance * abs(values["ours"]):
        raise SystemExit(f"the losses of {method} differ on the same weights: {values}")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - began) / STEPS[method])
    row = {"method": method, "batch": BATCH[method], "losses": values, "compile_s": compiling}
    for name, each in times.items():
        ratios = sorted(one / own for one, own in zip(each, times["ours"], strict=True))
        row[name] = {
            "ms": statistics.median(each),
            "ratio": statistics.median(ratios),
            "range": [ratios[0], ratios[-1]],
        }
    return row


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", default=",".join(BATCH))
    parser.add_argument("--forms", action="store_true", help="ours with the compiler's convolutions as well")
    parser.add_argument("--torch-threads", type=int, help="all cores by default; 1 where others use the machine too")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for every method")
    given = parser.parse_args()
    if given.torch_threads:
        torch.set_num_threads(given.torch_threads)
    jax.config.update("jax_num_cpu_devices", studies.cores())
    for method in given.methods.split(","):
        row = measured(method, given.rounds, given.forms)
        if given.json:
            print(json.dumps(row), flush=True)
            continue
        for name in [name for name in row if name == "torch" or name.startswith("ours")]:
            one = row[name]
            compiling = f", compiled in {row['compile_s'][name]:.1f} s" if name in row["compile_s"] else ""
            print(
                f"{method}, batch {row['batch']}, {name}: {one['ms']:.1f} ms a step, {one['ratio']:.2f} times ours "
                f"({one['range'][0]:.2f} to {one['range'][1]:.2f}), loss {row['losses'][name]:.6f}{compiling}",
                flush=True,
            )


if __name__ == "__main__":
    main()
