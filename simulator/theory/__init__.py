"""What the simulations should find, derived without simulating: nothing here trains, attacks or samples.

- `errors`: what a given linear classifier, or one neuron, gets wrong;
- `solvers`: the classifier that training should reach on given points;
- `limits`: what that is when samples and dimensions grow together.
"""

from simulator.theory.errors import (
    Errors,
    NoiseMargin,
    directed_errors,
    feature_errors,
    mixture_errors,
    mixture_optimum,
    noise_margin,
    one_neuron_errors,
    separable_errors,
)
from simulator.theory.limits import FeatureLimit, MixtureLimit, feature_limit, mixture_limit
from simulator.theory.solvers import Classifier, Outcome, in_span, max_margin, ridge_logistic

__all__ = [
    "Classifier",
    "Errors",
    "FeatureLimit",
    "MixtureLimit",
    "NoiseMargin",
    "Outcome",
    "directed_errors",
    "feature_errors",
    "feature_limit",
    "in_span",
    "max_margin",
    "mixture_errors",
    "mixture_limit",
    "mixture_optimum",
    "noise_margin",
    "one_neuron_errors",
    "ridge_logistic",
    "separable_errors",
]
