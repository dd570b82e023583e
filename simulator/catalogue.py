"""The studies and defences by name and what each study claims, without anything that takes time to load."""

import shutil
import textwrap
from dataclasses import dataclass

DEFENCES = ("standard", "adversarial", "coap", "crown-ibp", "ibp")
"""The defences of the papers this package reproduces: what the studies mean by all defences."""


@dataclass(frozen=True)
class Entry:
    """What is known of a study before it is loaded."""

    claim: str
    """One falsifiable sentence."""
    core: bool = False
    """Whether `simulator reproduce` runs it without `--all`."""
    shows: str = ""
    """What its figure shows, for those who cannot see it: panels, axes and curves."""


CATALOGUE = {
    "picture": Entry(
        "At a large radius COAP's learnt region strays from the truth where adversarial training's does not; "
        "at a small one the two look alike.",
        core=True,
        shows=(
            "Top: an image of a digit, the perturbation δ of an attack on it, and their sum, with both predictions. "
            "Below, one row per task and radius ε in the plane: the examples with the true boundary, the threat and "
            "the signal direction at one of them; then the decision region that each defence learns, with arrows for "
            "the attack δ and COAP's dual δ, their cosines with the signal and the errors."
        ),
    ),
    "alignment": Entry(
        "COAP and adversarial training err alike until perturbations align with the signal; then COAP's "
        "robust error stays behind, and only when the radius is large.",
        core=True,
        shows=(
            "Spheres above, linear data below, one row per radius ε. Against the epoch, one curve per defence with a "
            "band of one standard error: cosine of the attack with the signal, cosine of COAP's dual with it, robust "
            "error and standard error. Last column: box plots of the final cosine of the attack on single test "
            "examples."
        ),
    ),
    "signal-directed": Entry(
        "With perturbations along the signal and few samples, COAP ends with a higher robust error than "
        "adversarial training at every epsilon.",
        core=True,
        shows=(
            "Standard error and robust error against ε, one curve per defence; thin dotted lines: linear theory. "
            "Right: a heat map of the robust error of COAP minus AT over ε and all recipes of batch, learning rate, "
            "momentum and epochs."
        ),
    ),
    "l2-budget": Entry(
        "Under an l2 ball COAP's and adversarial training's robust errors stay within 0.05 of each other on linearly "
        "separable data, but on concentric spheres COAP's is higher at the largest radius.",
        shows=(
            "One row per task; columns: standard error, robust error, certified error, share of unstable neurons and "
            "robust error minus AT's, against ε. One curve per defence with a band of one standard error; thin "
            "dotted lines: linear theory."
        ),
    ),
    "segments": Entry(
        "The more orthogonal segments a threat has, hence the better it aligns with the signal, the further COAP's "
        "robust error is above adversarial training's.",
        shows=(
            "One row per radius of the inner sphere; columns: standard error, robust error, certified error, share of "
            "unstable neurons and robust error minus AT's, against the number of segments k. One curve per defence "
            "with a band of one standard error."
        ),
    ),
    "budget": Entry(
        "The larger the l2 ball, the further COAP's robust error is above adversarial training's.",
        shows=(
            "One row per radius of the inner sphere; columns: standard error, robust error, certified error, share of "
            "unstable neurons and robust error minus AT's, against ε. One curve per defence with a band of one "
            "standard error."
        ),
    ),
    "margin": Entry(
        "The smaller the margin, the further COAP's robust error is above adversarial training's.",
        shows=(
            "One row per radius of the inner sphere; columns: standard error, robust error, certified error, share of "
            "unstable neurons and robust error minus AT's, against the margin, from a large one to a small one. One "
            "curve per defence with a band of one standard error."
        ),
    ),
    "linf": Entry(
        "The larger the l_inf ball, the further COAP's robust error is above adversarial training's.",
        shows=(
            "One row per radius of the inner sphere; columns: standard error, robust error, certified error, share of "
            "unstable neurons and robust error minus AT's, against ε. One curve per defence with a band of one "
            "standard error."
        ),
    ),
    "dimension": Entry(
        "On linearly separable data the gap between COAP and adversarial training lives under perturbations along the "
        "signal: it is beyond two standard errors at a larger share of radii, dimensions and sample sizes there than "
        "under an l2 ball.",
        shows=(
            "Heat maps over ε and dimension d, one column per threat and number n of examples: robust error of AT, "
            "the same of COAP minus AT, alignment of AT's attack, of COAP's dual and of AT's first layer, the last of "
            "COAP minus AT; dots: beyond 2 paired standard errors. Last row: robust error against dimension d at the "
            "largest radius, one curve per defence and thin lines of linear theory."
        ),
    ),
    "threat-shape": Entry(
        "Spent along the signal, a budget puts COAP further behind adversarial training than the same budget spent "
        "orthogonally to the signal, on linearly separable data and on spheres.",
        shows=(
            "One row per task and shape of the threat; columns: standard error, robust error, certified error, share "
            "of unstable neurons and robust error minus AT's, against ε. One curve per defence with a band of one "
            "standard error."
        ),
    ),
    "selection": Entry(
        "Selecting the learning rate by robust test error, as the papers do, instead of on a validation sample moves "
        "no curve of mean robust error by more than 0.02.",
        shows=(
            "Robust error against ε, one panel per defence and task: grey lines for fixed learning rates, markers "
            "with bars for the rates selected by robust error on a validation or test sample, by certified or "
            "standard error on a validation sample, and by training loss."
        ),
    ),
    "optimisation": Entry(
        "On the hundred-dimensional spheres at radius 1 COAP's larger robust error is a property of its objective: ten "
        "times the epochs leave at least half of the gap to adversarial training, whatever the width, momentum, batch "
        "or initial scale.",
        shows=(
            "One row per problem: robust error against learning rate, epochs, momentum, batch (0: all), width and "
            "factor of the initial weights. One curve per defence after 150 epochs, open markers after 1500; against "
            "the epochs also COAP minus AT, with bars of 2 paired standard errors."
        ),
    ),
    "deep": Entry(
        "The deeper the network, the looser COAP's bound and the further COAP's robust error is above adversarial "
        "training's on the spheres, at every width.",
        shows=(
            "One row per task and width; columns: standard error, robust error, certified error, share of unstable "
            "neurons, looseness of COAP's bound and robust error minus AT's, against depth. One curve per defence "
            "with a band of one standard error."
        ),
    ),
    "relaxations": Entry(
        "The looser a relaxation is on the networks of adversarial training, the larger the robust error of the "
        "network that is trained with it.",
        shows=(
            "One row per task and radius ε: standard error, robust error and certified error of networks trained with "
            "a relaxation, against its looseness on AT's networks. One marker with a bar of one standard error per "
            "relaxation; horizontal line with a band: AT."
        ),
    ),
    "modern-defences": Entry(
        "Wherever COAP has a larger robust error than adversarial training, so have the modern mixtures of an attack "
        "and a bound (SABR, CC-IBP, MTL-IBP, Exp-IBP) at the weight of the bound below 1 at which they certify most.",
        shows=(
            "One row per task, threat and radius ε: robust error (left) and certified error (right) against standard "
            "error. A line per mixture follows the weight of its bound from small to large, between the markers of AT "
            "and IBP; COAP is a marker of its own."
        ),
    ),
    "unstable": Entry(
        "The more segments a threat has, the larger its radius or the smaller the margin, the more neurons are "
        "unstable along COAP's training.",
        shows=(
            "One row per radius of the inner sphere. Bars: sum over epochs of the share of unstable neurons under "
            "COAP, one panel per published figure, against k, ε or the margin; open diamonds: published values. Last "
            "column: shares of unstable and dead neurons against the epoch."
        ),
    ),
    "gap-report": Entry(
        "COAP's effective budget, the radius at which the worst loss equals COAP's at epsilon, is furthest above "
        "epsilon before training, and training more than halves the excess, on every task and at every radius.",
        shows=(
            "One row per task, threat and radius ε, all against the epoch: worst losses of COAP's network at x, by an "
            "attack and by bounds from α-CROWN to IBP; then, one curve per defence, effective budget of COAP's bound "
            "over ε, share of unstable neurons, and mean area of the triangles of relaxed neurons."
        ),
    ),
    "attribution": Entry(
        "Most of COAP's excess in robust error on the spheres is magnitude: adversarial training at COAP's effective "
        "budget has at least half of the gap.",
        shows=(
            "One panel per task and threat: differences in robust error against ε, markers with 95 % intervals. COAP "
            "minus AT, its parts magnitude, direction and remainder, and AT without a signal component minus AT; "
            "small triangles: a change alone and on top of the other."
        ),
    ),
    **{
        f"images-{name}": Entry(
            f"On {words} every certified defence has a larger robust error and a larger accuracy discrepancy than "
            "adversarial training at the largest radius at which that still errs clearly less than by chance.",
            core=name == "quick",
            shows=(
                "A panel for each of these against ε, and rows for several data sets: standard error, robust error, "
                "accuracy discrepancy and certified error; cosines of attack and dual vector with the signal or what "
                "stands for it, and robust error minus AT's. One curve per defence with a band of one standard error."
            ),
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
        shows=(
            "Cosine of the classifier with the signal, standard error and robust error against ε, one colour per "
            "number n of examples. Markers: simulated, with standard errors; solid lines: predicted from the same "
            "points; dotted lines: the limit of large n and d."
        ),
    ),
    "theory-l2": Entry(
        "An l2 ball leaves the maximum-margin classifier where it is, as long as some margin is left, and its errors "
        "are those of the closed form.",
        shows=(
            "Cosine of the classifier with the signal, standard error and robust error against ε, one colour per "
            "number n of examples. Markers: simulated, with standard errors; solid lines: predicted from the same "
            "points; dotted lines: the limit of large n and d."
        ),
    ),
    "share-along-signal": Entry(
        "The larger the share of a budget that is spent along the signal, the further the robust maximum-margin "
        "classifier turns away from the signal, by the closed form.",
        shows=(
            "Cosine of the classifier with the signal, standard error and robust error against the share of the "
            "budget along the signal, one colour per radius ε. Markers: simulated, with standard errors; solid lines: "
            "predicted from the same points; dotted lines: the limit of large n and d."
        ),
    ),
    "theory-interpolation": Entry(
        "Without any noise in the labels some ridge penalty has a smaller robust error than the robust maximum margin, "
        "at every number of dimensions per example and every radius above 0.",
        shows=(
            "Cosine of the classifier with the signal, standard error and robust error against d / n, one colour per "
            "ridge penalty λ, one row per radius ε. Markers: simulated, with standard errors; solid lines: predicted "
            "from the same points; dotted lines: the limit of large n and d."
        ),
    ),
    "one-neuron": Entry(
        "One gradient step of COAP leaves a single neuron with a larger robust error than one of adversarial training "
        "at more places outside of what the thesis' theorem covers than inside.",
        shows=(
            "Heat maps over ε / γ and σ |θ rest| / (γ θ₁), one panel per value of a γ θ₁: robust error of COAP minus "
            "AT after one predicted step, as the signed square root of its share of the largest. Lines: the region of "
            "the thesis' theorem 4.6, what its proof needs, and the border for a flat neuron; dots and dashes: which "
            "one is worse in simulation."
        ),
    ),
    "asymptotics": Entry(
        "At a fixed number of dimensions per example the errors of solved samples spread like one over the square root "
        "of the dimension, and at the largest dimension their means are within five standard errors of the limit.",
        shows=(
            "Standard error (top) and robust error (bottom) of solved samples against dimension d, at a fixed d / n, "
            "one curve per model. Left: mean minus limit, with bars of 2 standard errors; right: spread over trials "
            "on logarithmic axes, with dotted lines that fall like one over the square root of d."
        ),
    ),
}
"""The studies by name, in the order of the list."""


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
