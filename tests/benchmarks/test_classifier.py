"""What products of features add, and that coefficients survive being stored."""

from __future__ import annotations

import numpy as np

from benchmarks.classifier import fit_classifier, load_classifier, store_classifiers


def test_a_classifier_is_stored_and_read_back(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2))
    names = ["in" if x * y > 0 else "out" for x, y in features]
    path = tmp_path / "coefficients.json"
    fitted = {products: fit_classifier(features, names, ("x", "y"), products=products) for products in (False, True)}
    right = {
        products: np.mean([one.best(row) == name for row, name in zip(features, names, strict=True)])
        for products, one in fitted.items()
    }
    assert right[True] > 0.9 > 0.75 > right[False]
    store_classifiers({"signs": fitted[True]}, path)
    again = load_classifier("signs", path)
    assert again.classes == ("in", "out")
    assert np.allclose(again.probabilities(features), fitted[True].probabilities(features), atol=1e-3)
