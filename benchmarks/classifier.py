"""Logistic regression, one against the rest, on standardised numbers and their products; small enough to be read.

The coefficients are stored as JSON and belong to the features, by name, that they were fitted on.

Legend: N examples, D features, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["COEFFICIENTS", "Classifier", "fit_classifier", "load_classifier", "store_classifiers"]

COEFFICIENTS = Path(__file__).with_name("tiny_world_coefficients.json")
_CLIP = 3.0
"""Standard deviations beyond which a feature says no more: generated clips may lie outside of all that was fitted."""
_ITERATIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Which of K classes an example belongs to."""

    classes: tuple[str, ...]
    features: tuple[str, ...]
    products: bool
    mean_D: np.ndarray
    scale_D: np.ndarray
    weights_DK: np.ndarray
    """The last row is the intercept."""

    def probabilities(self, features_ND: np.ndarray) -> np.ndarray:
        """[N, K], each class against the rest."""
        terms = _terms((features_ND - self.mean_D) / self.scale_D, self.products)
        return _sigmoid(terms @ self.weights_DK)

    def best(self, features_D: np.ndarray) -> str:
        return self.classes[int(self.probabilities(features_D[None])[0].argmax())]


def fit_classifier(
    features_ND: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
    *,
    products: bool = False,
    penalty: float = 1e-2,
) -> Classifier:
    """Fit on examples and the names of their classes, which all weigh the same however frequent they are.

    Args:
        features_ND: the numbers.
        names: N classes.
        features: D names.
        products: of all pairs of features, too.
        penalty: on the squared weights, relative to the number of examples.
    """
    classes = tuple(dict.fromkeys(sorted(names)))
    mean, scale = features_ND.mean(0), features_ND.std(0) + 1e-6
    terms = _terms((features_ND - mean) / scale, products)
    columns = [_fit_one(terms, np.array([name == one for name in names], dtype=float), penalty) for one in classes]
    return Classifier(
        classes=classes,
        features=tuple(features),
        products=products,
        mean_D=mean,
        scale_D=scale,
        weights_DK=np.stack(columns, axis=1),
    )


def store_classifiers(classifiers: Mapping[str, Classifier], path: Path = COEFFICIENTS) -> None:
    """Write classifiers by name, rounded to what matters."""
    lines = (f"{json.dumps(name)}: {json.dumps(_as_json(one))}" for name, one in classifiers.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load_classifier(name: str, path: Path = COEFFICIENTS) -> Classifier:
    """Read one of the stored classifiers."""
    about = json.loads(path.read_text())[name]
    return Classifier(
        classes=tuple(about["classes"]),
        features=tuple(about["features"]),
        products=about["products"],
        mean_D=np.array(about["mean"]),
        scale_D=np.array(about["scale"]),
        weights_DK=np.array(about["weights"]),
    )


def _as_json(classifier: Classifier) -> dict[str, Any]:
    return {
        "classes": classifier.classes,
        "features": classifier.features,
        "products": classifier.products,
        "mean": np.round(classifier.mean_D, 5).tolist(),
        "scale": np.round(classifier.scale_D, 6).tolist(),
        "weights": np.round(classifier.weights_DK, 4).tolist(),
    }


def _terms(standard_ND: np.ndarray, products: bool) -> np.ndarray:
    """The features, all products of two of them if wanted, and a one."""
    bounded = np.clip(standard_ND, -_CLIP, _CLIP)
    parts = [bounded]
    if products:
        first, second = np.triu_indices(bounded.shape[1])
        parts.append(bounded[:, first] * bounded[:, second])
    return np.concatenate([*parts, np.ones((len(bounded), 1))], axis=1)


def _fit_one(terms_ND: np.ndarray, true_N: np.ndarray, penalty: float) -> np.ndarray:
    """Newton's method; the intercept is not penalised."""
    share = true_N.mean()
    importance = np.where(true_N == 1, 0.5 / share, 0.5 / (1 - share))
    ridge = np.full(terms_ND.shape[1], penalty * len(true_N))
    ridge[-1] = 1e-9
    weights = np.zeros(terms_ND.shape[1])
    for _ in range(_ITERATIONS):
        chance = _sigmoid(terms_ND @ weights)
        gradient = terms_ND.T @ (importance * (chance - true_N)) + ridge * weights
        curvature = (terms_ND * (importance * chance * (1 - chance))[:, None]).T @ terms_ND + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))
