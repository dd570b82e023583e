"""The studies by name and what each claims, without anything that takes time to load."""

import shutil
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What is known of a study before it is loaded."""

    claim: str
    """One falsifiable sentence."""
    core: bool = False
    """Whether `simulator reproduce` runs it without `--all`."""


CATALOGUE = {
    "picture": Entry(
        "At a large radius COAP's learnt region strays from the truth where adversarial training's does not; "
        "at a small one the two look alike.",
        core=True,
    ),
    "alignment": Entry(
        "COAP and adversarial training err alike until perturbations align with the signal; then COAP's "
        "robust error stays behind, and only when the radius is large.",
        core=True,
    ),
    "signal-directed": Entry(
        "With perturbations along the signal and few samples, COAP ends with a higher robust error than "
        "adversarial training at every epsilon.",
        core=True,
    ),
    "l2-budget": Entry(
        "Under an l2 ball COAP's and adversarial training's robust errors stay within 0.05 of each other on linearly "
        "separable data, but on concentric spheres COAP's is higher at the largest radius.",
    ),
    "segments": Entry(
        "The more orthogonal segments a threat has, hence the better it aligns with the signal, the further COAP's "
        "robust error is above adversarial training's.",
    ),
    "budget": Entry("The larger the l2 ball, the further COAP's robust error is above adversarial training's."),
    "margin": Entry("The smaller the margin, the further COAP's robust error is above adversarial training's."),
    "linf": Entry("The larger the l_inf ball, the further COAP's robust error is above adversarial training's."),
    "dimension": Entry(
        "On linearly separable data the gap between COAP and adversarial training lives under perturbations along the "
        "signal: it is beyond two standard errors at a larger share of radii, dimensions and sample sizes there than "
        "under an l2 ball.",
    ),
    "threat-shape": Entry(
        "Spent along the signal, a budget puts COAP further behind adversarial training than the same budget spent "
        "orthogonally to the signal, on linearly separable data and on spheres.",
    ),
    "selection": Entry(
        "Selecting the learning rate by robust test error, as the papers do, instead of on a validation sample moves "
        "no curve of mean robust error by more than 0.02.",
    ),
    "optimisation": Entry(
        "On the hundred-dimensional spheres at radius 1 COAP's larger robust error is a property of its objective: ten "
        "times the epochs leave at least half of the gap to adversarial training, whatever the width, momentum, batch "
        "or initial scale.",
    ),
    "deep": Entry(
        "The deeper the network, the looser COAP's bound and the further COAP's robust error is above adversarial "
        "training's on the spheres, at every width.",
    ),
    "relaxations": Entry(
        "The looser a relaxation is on the networks of adversarial training, the larger the robust error of the "
        "network that is trained with it.",
    ),
    "modern-defences": Entry(
        "Wherever COAP has a larger robust error than adversarial training, so have the modern mixtures of an attack "
        "and a bound (SABR, CC-IBP, MTL-IBP, Exp-IBP) at the weight of the bound below 1 at which they certify most.",
    ),
    "unstable": Entry(
        "The more segments a threat has, the larger its radius or the smaller the margin, the more neurons are "
        "unstable along COAP's training.",
    ),
    "gap-report": Entry(
        "COAP's effective budget, the radius at which the worst loss equals COAP's at epsilon, is furthest above "
        "epsilon before training, and training more than halves the excess, on every task and at every radius.",
    ),
    "attribution": Entry(
        "Most of COAP's excess in robust error on the spheres is magnitude: adversarial training at COAP's effective "
        "budget has at least half of the gap.",
    ),
    **{
        f"images-{name}": Entry(
            f"On {words} every certified defence has at the largest radius a larger robust error and a larger accuracy "
            "discrepancy than adversarial training.",
            core=name == "quick",
        )
        for name, words in {
            "digits": "handwritten digits of 8 x 8 pixels",
            "quick": "handwritten digits of 8 x 8 pixels, in the short form of images-digits,",
            "planted": "images of noise with a planted pattern",
            "mnist": "MNIST",
            "fashion": "Fashion-MNIST",
            "cifar10": "CIFAR-10",
            "tiny-imagenet": "Tiny ImageNet",
        }.items()
    },
    "theory-directed": Entry(
        "The errors of robust maximum-margin classifiers under perturbations along the signal are those of the closed "
        "form, which has the standard error rise with the radius up to the margin.",
    ),
    "theory-l2": Entry(
        "An l2 ball leaves the maximum-margin classifier where it is, as long as some margin is left, and its errors "
        "are those of the closed form.",
    ),
    "share-along-signal": Entry(
        "The larger the share of a budget that is spent along the signal, the further the robust maximum-margin "
        "classifier turns away from the signal, by the closed form.",
    ),
    "theory-interpolation": Entry(
        "Without any noise in the labels some ridge penalty has a smaller robust error than the robust maximum margin, "
        "at every number of dimensions per example and every radius above 0.",
    ),
    "one-neuron": Entry(
        "One gradient step of COAP leaves a single neuron with a larger robust error than one of adversarial training "
        "at more places outside of what the thesis' theorem covers than inside.",
    ),
    "asymptotics": Entry(
        "At a fixed number of dimensions per example the errors of solved samples spread like one over the square root "
        "of the dimension, and at the largest dimension their means are within five standard errors of the limit.",
    ),
}


def listing() -> str:
    """A table of the studies and their claims, as wide as the terminal."""
    name_width = max(map(len, CATALOGUE)) + 2
    claim_width = max(30, shutil.get_terminal_size((100, 24)).columns - name_width - 6)
    lines = [f"{'study':{name_width}}{'core':6}claim"]
    for name, entry in CATALOGUE.items():
        first, *more = textwrap.wrap(entry.claim, claim_width)
        lines.append(f"{name:{name_width}}{'yes' if entry.core else '':6}{first}")
        lines += [" " * (name_width + 6) + line for line in more]
    hint = "simulator run STUDY --help lists a study's settings; core studies are those of simulator reproduce"
    return "\n".join([*lines, "", hint])
