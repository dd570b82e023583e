r"""Cascades: networks in turn, each trained on the examples that none before it certifies.

At test a stage *certifies* x if it proves that its prediction is the same on all of x + B, without knowing the label.
The first stage that certifies answers; where none does, the last one answers without a proof.

What this guarantees.  The published error counts x as safe if the first stage that certifies x is right.  That is a
statement about perturbations of what the cascade was shown: had it been shown x + delta instead, another stage might
have answered.  Here an example is wrong if some x' in x + B is answered wrongly, whichever stage answers there.  Let B
be symmetric.  If stage i certifies x', then x is in x' + B, so that its answer at x' is its prediction at x.  So

    an example is proven right if there is a stage j that answers on all of x + B unless an earlier one does, and all
    stages up to j are right at x:

stage j answers on all of x + B if interval bounds prove its prediction over 2 B about x, since they only tighten on the
smaller sets x' + B; the last stage answers anyway, rightly if it is proven right over B.  The proof is sufficient, not
necessary.  `published_error` can be below what an attack on the cascade attains: it is no bound on that.

**Source:** Wong et al. (2018), "Scaling provable adversarial defenses", section 3.3, for cascades and their published
error; the rest is derived here.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from simulator import attacks, bounds, train
from simulator.losses import Loss, Schedule
from simulator.networks import Network, contrast, label, margins, others
from simulator.threats import Threat

CERTIFIERS = ("coap", "ibp")
"""A prediction is proven if the best of these bounds is positive against every other class."""


def _proven(network: Network, threat: Threat, x: Float[Array, " d"], k: Int[Array, ""], methods) -> Bool[Array, ""]:
    """Whether logit k is proven to be the largest on all of x + B."""
    rows = contrast(network, k, others(network, k))
    least = jnp.stack([bounds.lower(network, threat, x, rows, method) for method in methods])
    return jnp.all(jnp.max(least, axis=0) > 0)


def certifies(network: Network, threat: Threat, x: Float[Array, " d"]) -> Bool[Array, ""]:
    """Whether the network proves its own prediction, right or wrong, on all of x + B."""
    return _proven(network, threat, x, jnp.argmax(network(x)), CERTIFIERS)


def fit(
    key: PRNGKeyArray,
    networks: Network,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    threat: Threat,
    loss: Loss | Schedule,
    recipe: train.Recipe,
    *,
    signal: Float[Array, "n d"] | None = None,
) -> tuple[train.Fit, Bool[Array, "stages n"]]:
    """Train the stages one after another; their fits, and which examples each of them was trained on.

    `networks` holds the initial stages along a leading axis of every leaf (such as `jax.vmap` of an initialisation over
    keys), and so does what is returned.  An example that a stage certifies has weight 0 in all later ones; a stage that
    is left without examples stays as it is.  One program for all stages.  The arguments are those of `train.fit`.
    """

    def stage(left, inputs):
        stage_key, network = inputs
        done = train.fit(stage_key, network, x, y, threat, loss, recipe, signal=signal, weight=left.astype(x.dtype))
        certified = jax.vmap(lambda x, s: certifies(done.network, threat.at(x, s), x))(x, signal)
        return left & ~certified, (done, left)

    stages = jax.tree.leaves(networks)[0].shape[0]
    return jax.lax.scan(stage, jnp.ones(x.shape[0], bool), (jr.split(key, stages), networks))[1]


def answering(networks: Network, threat: Threat, x: Float[Array, " d"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The index of the stage that answers at x, and whether it certifies its answer."""
    certified = jax.vmap(lambda network: certifies(network, threat, x))(networks)
    some = jnp.any(certified)
    return jnp.where(some, jnp.argmax(certified), certified.shape[0] - 1), some


def _right(network: Network, x: Float[Array, " d"], k: Int[Array, ""]) -> Bool[Array, ""]:
    """Ties are errors."""
    return jnp.all(margins(network, x, k) > 0)


def _answers_right(networks: Network, threat: Threat, x: Float[Array, " d"], k: Int[Array, ""]) -> Bool[Array, ""]:
    answers, _ = answering(networks, threat, x)
    return _right(jax.tree.map(lambda leaf: leaf[answers], networks), x, k)


def _perturbations(networks: Network, threat: Threat, x, k, attack: attacks.Method) -> Float[Array, "candidates d"]:
    """Of every stage the attack's perturbation, and the one that lowers its interval certificate most to first order.

    The first makes a stage wrong, the second makes it hand an example on.
    """

    def against(network):
        predicted = jnp.argmax(network(x))
        rows = contrast(network, predicted, others(network, predicted))
        falling = -jax.grad(lambda point: jnp.min(bounds.lower(network, threat, point, rows, "ibp")))(x)
        return jnp.stack([attack(network, threat, x, k).delta, threat.worst(falling)])

    return jax.vmap(against)(networks).reshape(-1, x.shape[0])


def examine(
    networks: Network, threat: Threat, x: Float[Array, " d"], k: Int[Array, ""], attack: attacks.Method
) -> dict[str, Bool[Array, ""]]:
    """Everything `evaluate` averages, at one example of class k."""
    moved = x[None] + _perturbations(networks, threat, x, k, attack)
    clean = _answers_right(networks, threat, x, k)
    robust = clean & jnp.all(jax.vmap(lambda point: _answers_right(networks, threat, point, k))(moved))
    _, some = answering(networks, threat, x)

    def sure(network):
        predicted = jnp.argmax(network(x))
        return _proven(network, threat.scaled(jnp.full((), 2, x.dtype)), x, predicted, ("ibp",))

    final = _proven(jax.tree.map(lambda leaf: leaf[-1], networks), threat, x, k, CERTIFIERS)
    answers = jax.vmap(sure)(networks)
    answers = answers.at[-1].set(answers[-1] | final)
    right_so_far = jnp.cumprod(jax.vmap(lambda network: _right(network, x, k))(networks).astype(jnp.int32)) > 0
    return {
        "standard_error": ~clean,
        "robust_error": ~robust,
        "certified_error": ~jnp.any(answers & right_so_far),
        "published_error": ~(some & clean),
        "unproven": ~some,
    }


def evaluate(
    networks: Network,
    threat: Threat,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    attack: attacks.Method,
    *,
    signal: Float[Array, "n d"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Errors of a cascade over the given examples; `networks` holds its stages along a leading axis of every leaf.

    | name | meaning |
    |---|---|
    | `standard_error` | share answered wrongly at x |
    | `robust_error` | share answered wrongly by the cascade at x or where an attack on one stage leads: a lower bound |
    | `certified_error` | share not proven to be answered rightly on all of x + B, see above: an upper bound |
    | `published_error` | share that no stage certifies, or the first that does is wrong: a guarantee for x as shown |
    | `unproven` | share that no stage certifies at x |

    Raises `ValueError` unless the threat is symmetric, on which the proof rests.
    """
    if not threat.symmetric:
        raise ValueError(f"{type(threat).__name__} is not symmetric: what a cascade certifies needs a symmetric threat")

    def one(x, y, s):
        return examine(networks, threat.at(x, s), x, label(y), attack)

    found = jax.vmap(one)(x, y, signal)
    return {name: jnp.mean(value.astype(x.dtype)) for name, value in found.items()}
