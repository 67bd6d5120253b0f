"""A linear probe that is fitted to the end: what a network's frozen features can tell.

Features are standardised, the head is an L2-penalised logistic regression that L-BFGS minimises
until its gradient is small, and the strength of the penalty is chosen on the validation clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from reference_models.evaluate import metrics

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn: the larger, the weaker the penalty
TOLERANCE = 1e-4  # of the gradient's largest part, as scikit-learn's
MOST_STEPS = 1000


@dataclass(frozen=True)
class Fit:
    """How one fit went.

    Attributes:
        strength: C, the weight of the clips' summed loss against half the squared weights.
        converged: Whether the gradient of the mean loss fell to `TOLERANCE`.
        steps: Of L-BFGS.
        gradient: The largest part of the gradient at the end.
    """

    strength: float
    converged: bool
    steps: int
    gradient: float


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        head: From features as they are (the standardisation is folded in) to logits, float32.
        fit: How the fit went.
        tried: Validation metric by strength, or nothing where the strength was given.
        metric: Name of that metric: "accuracy", or "mAP" where clips have several labels.
    """

    head: nn.Linear
    fit: Fit
    tried: dict[float, float]
    metric: str

    def about(self) -> dict[str, Any]:
        """What a result file says of it."""
        tried = {f"{strength:g}": value for strength, value in self.tried.items()}
        return asdict(self.fit) | {"metric": self.metric, "tried": tried}


def choose_probe(
    features: Tensor,
    labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Returns the probe whose strength does best on the validation clips.

    Of equal ones the strongest penalty wins. Each fit starts from the last one's weights.

    Args:
        features: Of the training clips, (clips, features).
        labels: Of the training clips: numbers, (clips,), or multi-hot rows, (clips, classes).
        held_out: Features of the validation clips.
        held_out_labels: Their labels.
        classes: Outputs.
        strengths: Values of C to try.

    Source:
        The paper trains such heads ("fonly") by its recipe for networks. On features that are not
        standardised that recipe stops far from the optimum, so this is our departure.

    Example:
        >>> features = torch.eye(3).repeat(10, 1)
        >>> labels = torch.arange(3).repeat(10)
        >>> probe = choose_probe(features, labels, features, labels, classes=3)
        >>> probe.fit.converged, probe.tried[0.001]
        (True, 1.0)
    """
    metric = "mAP" if labels.ndim == 2 else "accuracy"
    standard = _standardise(features)
    best, tried, start = None, {}, None
    for strength in sorted(strengths):
        probe, start = _fit(standard, labels, classes, strength, start)
        with torch.no_grad():
            scores = probe.head(held_out.float()).cpu()
        tried[strength] = metrics(scores, held_out_labels.cpu())[metric]
        if best is None or tried[strength] > tried[best.fit.strength]:
            best = probe
    assert best is not None
    return Probe(best.head, best.fit, tried, metric)


def fit_probe(features: Tensor, labels: Tensor, *, classes: int, strength: float) -> Probe:
    """Returns the probe of one given strength.

    Args:
        features: Of the training clips, (clips, features).
        labels: Their labels: numbers, (clips,), or multi-hot rows, (clips, classes).
        classes: Outputs.
        strength: C.
    """
    return _fit(_standardise(features), labels, classes, strength, None)[0]


class _Standardised(NamedTuple):
    """Features with mean 0 and variance 1, what was taken out, and their covariance's spectrum."""

    features: Tensor
    mean: Tensor
    scale: Tensor
    eigenvalues: Tensor
    vectors: Tensor


def _standardise(features: Tensor) -> _Standardised:
    features = features.double()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    # A feature that is the same for all clips, but for rounding, is left at 0, not blown up.
    scale = torch.where(deviation > 1e-10 * mean.abs().clamp(min=1e-30), deviation, torch.inf)
    standard = (features - mean) / scale
    spectrum = torch.linalg.eigh(standard.T @ standard / len(standard))
    return _Standardised(standard, mean, scale, *spectrum)


def _fit(
    standard: _Standardised, labels: Tensor, classes: int, strength: float, start: Tensor | None
) -> tuple[Probe, Tensor]:
    """The probe, and its weights on standardised features for the next fit to start from."""
    several = labels.ndim == 2
    targets = (labels if several else F.one_hot(labels, classes)).to(standard.features)
    objective = _objective(standard.features, targets, strength, several=several)
    if start is None:
        start = targets.new_zeros(classes, standard.features.shape[1] + 1)
    both, steps = _minimise(objective, start, standard, targets, strength)
    gradient = objective(both)[1].abs().max().item()
    weight = both[:, :-1] / standard.scale
    head = nn.Linear(weight.shape[1], classes, device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(both[:, -1] - weight @ standard.mean)
    fit = Fit(strength, gradient <= TOLERANCE, steps, gradient)
    return Probe(head, fit, {}, "mAP" if several else "accuracy"), both


Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def _objective(standard: Tensor, targets: Tensor, strength: float, *, several: bool) -> Objective:
    """Mean loss + |W|^2 / (2 C clips) and its gradient, of weights and (unpenalised) biases.

    That is scikit-learn's C * (summed loss) + |W|^2 / 2, divided by C * clips. With several labels
    the loss is the sum over classes of the binary one: one-against-all regressions, at once.
    """
    clips = len(standard)

    def objective(both: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = both[:, :-1], both[:, -1]
        logits = standard @ weight.T + bias
        losses = F.softplus(logits).sum(dim=1) if several else logits.logsumexp(dim=1)
        error = (logits.sigmoid() if several else logits.softmax(dim=1)) - targets
        penalty = weight / (strength * clips)
        value = losses.mean() - (targets * logits).sum() / clips + (weight * penalty).sum() / 2
        slope = error.T @ standard / clips + penalty
        return value, torch.cat([slope, error.mean(dim=0)[:, None]], dim=1)

    return objective


def _minimise(
    objective: Objective, start: Tensor, standard: _Standardised, targets: Tensor, strength: float
) -> tuple[Tensor, int]:
    """The weights at the minimum, and the number of steps.

    Features of a network are nearly copies of each other, so that L-BFGS on W itself takes hundreds
    of steps. Along an eigenvector of their covariance, with eigenvalue e, the curvature is about
    p (1 - p) e + 1 / (C clips), p a class's share of the clips. So L-BFGS gets the coordinates of W
    along these eigenvectors, times the square root of that: in them the objective is about round.
    """
    shares = targets.mean(dim=0)
    spread = (shares * (1 - shares)).mean().clamp(min=1e-6)
    curvature = spread * standard.eigenvalues.clamp(min=0) + 1 / (strength * len(targets))
    root = torch.cat([curvature, spread[None]]).sqrt()  # the bias is a coordinate of its own

    def turned(both: Tensor, axes: Tensor) -> Tensor:
        return torch.cat([both[:, :-1] @ axes, both[:, -1:]], dim=1)

    def along_axes(flat: Any) -> tuple[float, Any]:
        coordinates = torch.from_numpy(flat).to(root.device).view(start.shape)
        value, gradient = objective(turned(coordinates / root, standard.vectors.T))
        return value.item(), (turned(gradient, standard.vectors) / root).cpu().numpy().ravel()

    minimum = minimize(
        along_axes,
        (turned(start, standard.vectors) * root).cpu().numpy().ravel(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": MOST_STEPS,
            "maxfun": 2 * MOST_STEPS,
            "maxcor": 20,
            "gtol": TOLERANCE / max(1.0, root.max().item()),  # of a gradient divided by `root`
            "ftol": 0,
        },
    )
    coordinates = torch.from_numpy(minimum.x).to(root.device).view(start.shape)
    return turned(coordinates / root, standard.vectors.T), int(minimum.nit)
