"""What the simulations should find, derived without simulating: nothing here trains, attacks or samples.

- `errors`: what a given linear classifier, or one neuron, gets wrong;
- `solvers`: the classifier that training should reach on given points;
- `limits`: what that is when samples and dimensions grow together;
- `one_neuron`: what one gradient step does to a single neuron.
"""

from simulator.theory.errors import (
    Errors,
    NoiseMargin,
    Regime,
    feature_errors,
    maximum_margin_errors,
    mixture_errors,
    mixture_optimum,
    noise_margin,
    one_neuron_errors,
    plane_optimum,
    regime,
    separable_errors,
)
from simulator.theory.limits import FeatureLimit, MixtureLimit, feature_limit, mixture_limit, ridge_limit, separability
from simulator.theory.one_neuron import Regions, Slope, Slopes, one_neuron_regions, one_neuron_slopes
from simulator.theory.solvers import Classifier, Outcome, in_span, max_margin, ridge_logistic

__all__ = [
    "Classifier",
    "Errors",
    "FeatureLimit",
    "MixtureLimit",
    "NoiseMargin",
    "Outcome",
    "Regime",
    "Regions",
    "Slope",
    "Slopes",
    "feature_errors",
    "feature_limit",
    "in_span",
    "max_margin",
    "maximum_margin_errors",
    "mixture_errors",
    "mixture_limit",
    "mixture_optimum",
    "noise_margin",
    "one_neuron_errors",
    "one_neuron_regions",
    "one_neuron_slopes",
    "plane_optimum",
    "regime",
    "ridge_limit",
    "ridge_logistic",
    "separability",
    "separable_errors",
]
