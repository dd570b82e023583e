"""The standard task of `sweep.py` by public tools, in turn with ours: how many times slower a peer is.

    python benchmarks/peers.py [--rounds N] [--steps N] [--peer-steps N] [--json]

Needs the extra: pip install -e '.[benchmarks]'.  Peers:

- `torch-loop`: adversarial training as everybody writes it, one network after the other;
- `torch-batched`: the same for all 128 networks at once, written by hand with batched products;
- `convex_adversarial`: COAP by its authors' library (exact l2 bounds, on a processor), one network after the other.

The peers train d-100-2 networks with cross-entropy, ours d-100-1 ones: the same loss of the margin, which is checked on
shared weights first.  In every round each contender runs once, in a process of its own, on all cores; a ratio compares
the two runs of one round, and the medians are printed with the smallest and largest.  Some steps of some configurations
of a peer stand for all (`--peer-steps`, 4 radii); ours runs all 128 configurations, its time per step is that of
`--steps` steps, and compiling is counted once for 500 steps.

A step of ours and of torch costs the same all along and whatever the data.  `convex_adversarial` works on the unstable
neurons alone, so that its steps depend on the data (`--margin`, `--noise`), on the radius and on how far training has
come: the first ones, which are timed unless `--peer-steps` says 500, are the dearest where training makes neurons
stable.

`--device cuda` runs the peers on an accelerator, where ours runs by itself if JAX has it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

DIM, EXAMPLES, WIDTH, SEEDS, RADII, FULL_STEPS, ATTACK_STEPS = 100, 200, 100, 8, 16, 500, 10
SAMPLED_RADII = (0.1, 0.6, 1.1, 1.6)
PEERS = {"torch-loop": "adversarial", "torch-batched": "adversarial", "convex_adversarial": "coap"}
"""Peer -> the method of ours that does the same."""


class Conditions(NamedTuple):
    """Of a run."""

    device: str = "cpu"
    margin: float = 6.0
    noise: float = 1.0

    def words(self) -> list[str]:
        """As options of a command."""
        return ["--device", self.device, *self.of_data()]

    def of_data(self) -> list[str]:
        """Those that `sweep.py` has too."""
        return ["--margin", str(self.margin), "--noise", str(self.noise)]


def data(seed: int, given: Conditions):
    """The linearly separable data of the task, by NumPy: for times it is enough that the law is the same."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, EXAMPLES)
    x = (given.noise * draw.standard_normal((EXAMPLES, DIM))).astype(np.float32)
    x[:, 0] = given.margin * (2 * y - 1)
    return x, y


def torch_network():
    """d-100-2, initialised by PyTorch."""
    import torch

    return torch.nn.Sequential(torch.nn.Linear(DIM, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 2))


def time_on(device: str) -> float:
    """The time when all work given to the device so far is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def torch_pgd(loss, x, radius):
    """l2 PGD on `loss` (points -> scalar), from x, by steps of a quarter of the radius; the last iterate."""
    import torch

    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(ATTACK_STEPS):
        (gradient,) = torch.autograd.grad(loss(x + delta), delta)
        with torch.no_grad():
            moved = delta + 0.25 * radius * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            moved = moved * (radius / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        delta = moved.requires_grad_()
    return delta.detach()


def torch_loop(steps: int, given: Conditions) -> float:
    """Seconds per step and configuration."""
    import torch
    from torch.nn.functional import cross_entropy

    def train(epsilon: float) -> None:
        x, y = (torch.from_numpy(part).to(given.device) for part in data(0, given))
        network = torch_network().to(given.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(steps):
            delta = torch_pgd(lambda points: cross_entropy(network(points), y, reduction="sum"), x, epsilon)
            optimizer.zero_grad()
            cross_entropy(network(x + delta), y).backward()
            optimizer.step()

    began = time_on(given.device)
    for epsilon in SAMPLED_RADII:
        train(epsilon)
    return (time_on(given.device) - began) / (steps * len(SAMPLED_RADII))


def torch_batched(steps: int, given: Conditions) -> float:
    """Seconds per step and configuration, all configurations at once."""
    import torch

    count = SEEDS * RADII
    torch.set_default_device(given.device)
    radius = torch.linspace(0.1, 1.6, RADII).repeat(SEEDS)[:, None, None]
    sets = [data(seed, given) for seed in range(SEEDS)]
    x = torch.from_numpy(np.stack([x for x, _ in sets])).to(given.device).repeat_interleave(RADII, 0)
    sign = torch.from_numpy(np.stack([2 * y - 1 for _, y in sets])).to(given.device).repeat_interleave(RADII, 0).float()
    reach = DIM**-0.5
    first = ((2 * torch.rand(count, DIM, WIDTH) - 1) * reach).requires_grad_()
    bias = ((2 * torch.rand(count, 1, WIDTH) - 1) * reach).requires_grad_()
    last = ((2 * torch.rand(count, WIDTH, 1) - 1) * WIDTH**-0.5).requires_grad_()
    offset = torch.zeros(count, 1, 1, requires_grad=True)

    def losses(points):
        outputs = torch.baddbmm(offset, torch.relu(torch.baddbmm(bias, points, first)), last)[..., 0]
        return torch.nn.functional.softplus(-sign * outputs)

    optimizer = torch.optim.Adam([first, bias, last, offset], lr=1e-3)
    began = time_on(given.device)
    for _ in range(steps):
        delta = torch_pgd(lambda points: losses(points).sum(), x, radius)
        optimizer.zero_grad()
        losses(x + delta).mean(1).sum().backward()
        optimizer.step()
    return (time_on(given.device) - began) / (steps * count)


def convex_adversarial_loop(steps: int, given: Conditions) -> float:
    """Seconds per step and configuration."""
    import torch
    from convex_adversarial import robust_loss

    began = time_on(given.device)
    for epsilon in SAMPLED_RADII:
        x, y = (torch.from_numpy(part).to(given.device) for part in data(0, given))
        network = torch_network().to(given.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            loss, _ = robust_loss(network, epsilon, x, y, norm_type="l2")
            loss.backward()
            optimizer.step()
    return (time_on(given.device) - began) / (steps * len(SAMPLED_RADII))


RUN = {"torch-loop": torch_loop, "torch-batched": torch_batched, "convex_adversarial": convex_adversarial_loop}


def check_losses() -> dict[str, tuple[float, float]]:
    """Loss of a peer and of ours on the same weights, which must agree: standard and COAP."""
    import jax
    import torch
    from convex_adversarial import robust_loss

    from simulator import losses, networks, threats

    x, y = data(0, Conditions())
    network, epsilon = torch_network(), 0.6
    pairs = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (network[0], network[2])]
    ours, points, labels = networks.from_weights(pairs), torch.from_numpy(x), torch.from_numpy(y)
    theirs = {
        "standard": torch.nn.functional.cross_entropy(network(points), labels),
        "coap": robust_loss(network, epsilon, points, labels, norm_type="l2")[0],
    }
    found = {}
    for name, loss in {"standard": losses.standard, "coap": losses.certified("coap")}.items():
        each = jax.vmap(lambda x, y, loss=loss: loss(ours, threats.L2(epsilon), x, y))
        found[name] = (float(theirs[name].detach()), float(each(x, y).mean()))
        if abs(found[name][0] - found[name][1]) > 1e-4 * abs(found[name][0]):
            raise SystemExit(f"the {name} losses differ on the same weights: {found[name]}")
    return found


def in_its_own_process(*arguments: str) -> dict:
    """What a script beside this one prints as JSON."""
    folder = __file__.rpartition("/")[0] or "."
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_round(steps: int, peer_steps: int, given: Conditions) -> dict[str, dict[str, float]]:
    """Every contender once: seconds of the whole task, and for ours the time to compile."""
    whole = FULL_STEPS * SEEDS * RADII
    found = {}
    for method in dict.fromkeys(PEERS.values()):
        ours = in_its_own_process("sweep.py", method, "--steps", str(steps), "--json", *given.of_data())
        run = ours["run_s"] / (steps * ours["configurations"]) * whole
        found[method] = {"seconds": run, "compile_s": ours["compile_s"]}
    for peer in PEERS:
        each = in_its_own_process("peers.py", "--only", peer, "--peer-steps", str(peer_steps), *given.words())
        found[peer] = {"seconds": each["seconds"] * whole}
    return found


def report(rounds: list[dict]) -> list[dict]:
    """For every peer the times and ratios of all rounds: median, least, greatest."""
    rows = []
    for peer, method in PEERS.items():
        ratios = [one[peer]["seconds"] / one[method]["seconds"] for one in rounds]
        with_compile = [one[peer]["seconds"] / (one[method]["seconds"] + one[method]["compile_s"]) for one in rounds]
        rows.append(
            {
                "peer": peer,
                "ours": method,
                "peer_s": round(statistics.median(one[peer]["seconds"] for one in rounds), 1),
                "ours_s": round(statistics.median(one[method]["seconds"] for one in rounds), 1),
                "ratio": round(statistics.median(ratios), 1),
                "least": round(min(ratios), 1),
                "greatest": round(max(ratios), 1),
                "ratio_with_compile": round(statistics.median(with_compile), 1),
            }
        )
    return rows


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="of ours, timed in each round")
    parser.add_argument("--peer-steps", type=int, default=40)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the peers")
    parser.add_argument("--margin", type=float, default=6.0, help="of the data")
    parser.add_argument("--noise", type=float, default=1.0, help="of the data")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--only", choices=RUN, help="time one peer in this process: seconds per step of a network")
    given = parser.parse_args()
    conditions = Conditions(given.device, given.margin, given.noise)
    if given.only:
        # Once unmeasured: a first step is slower.
        RUN[given.only](1, conditions)
        steps = max(1, given.peer_steps // (8 if "batched" in given.only else 1))
        print(json.dumps({"seconds": RUN[given.only](steps, conditions)}))
        return
    agreed = check_losses()
    rows = report([one_round(given.steps, given.peer_steps, conditions) for _ in range(given.rounds)])
    if given.json:
        print(json.dumps({"rows": rows, "losses": agreed}))
        return
    for name, (theirs, ours) in agreed.items():
        print(f"{name} loss on shared weights: {theirs:.6f} by the peer, {ours:.6f} by ours")
    for row in rows:
        print(
            f"{row['peer']:20} {row['peer_s']:8.1f} s, ours {row['ours_s']:6.1f} s: ratio {row['ratio']:.1f} "
            f"({row['least']:.1f} to {row['greatest']:.1f}), {row['ratio_with_compile']:.1f} with compiling"
        )


if __name__ == "__main__":
    main()
