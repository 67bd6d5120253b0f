"""The fitted probe is scikit-learn's logistic regression on standardised features."""

import pytest
import torch

from reference_models.probe import STRENGTHS, choose_probe, fit_probe

linear_model = pytest.importorskip("sklearn.linear_model")
preprocessing = pytest.importorskip("sklearn.preprocessing")


def features_and_labels(clips: int, *, several: bool, seed: int):
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(clips, 7, generator=draws, dtype=torch.float64)
    noise = torch.randn(clips, 4, generator=draws, dtype=torch.float64)
    logits = features[:, :4] + 0.5 * noise
    labels = (logits > 0.4).float() if several else logits.argmax(dim=1)
    # Sizes and offsets as raw features have them; the last one says nothing.
    features = features * torch.logspace(-4, 3, 7, dtype=torch.float64) + torch.arange(7.0)
    features[:, -1] = 3.3
    return features, labels


def scores_of_scikit_learn(features, labels, held_out, strength):
    scaler = preprocessing.StandardScaler().fit(features)
    standard, other = scaler.transform(features), scaler.transform(held_out)

    def scores(column):
        model = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        return torch.from_numpy(model.fit(standard, column).decision_function(other))

    if labels.ndim == 1:
        return scores(labels)
    return torch.stack([scores(column) for column in labels.T], dim=1)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("strength", [0.003, 1.0])
def test_its_scores_are_scikit_learns(several, strength, monkeypatch):
    monkeypatch.setattr("reference_models.probe.TOLERANCE", 1e-8)
    features, labels = features_and_labels(61, several=several, seed=0)
    held_out, _ = features_and_labels(23, several=several, seed=1)
    probe = fit_probe(features, labels, classes=4, strength=strength)
    assert probe.fit.converged
    assert probe.fit.gradient <= 1e-8
    expected = scores_of_scikit_learn(features, labels, held_out, strength)
    ours = probe.head.double()(held_out)
    if not several:  # softmax does not see what is added to all classes alike
        ours, expected = ours.log_softmax(dim=1), expected.log_softmax(dim=1)
    # The head is float32 and undoes offsets of the features: 1e-4 of scores of about 1.
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_the_strength_is_the_one_that_does_best_on_validation_clips():
    features, labels = features_and_labels(40, several=False, seed=2)
    held_out, held_out_labels = features_and_labels(200, several=False, seed=3)
    probe = choose_probe(features, labels, held_out, held_out_labels, classes=4)
    alone = {
        strength: (
            fit_probe(features, labels, classes=4, strength=strength).head(held_out.float())
        ).argmax(dim=1)
        for strength in STRENGTHS
    }
    for strength, guesses in alone.items():
        accuracy = (guesses == held_out_labels).double().mean().item()
        assert probe.tried[strength] == pytest.approx(accuracy, abs=0.006)  # one clip of 200
    best = max(probe.tried.values())
    assert probe.fit.strength == min(s for s, value in probe.tried.items() if value == best)


def test_a_fit_that_was_cut_short_says_so(monkeypatch):
    monkeypatch.setattr("reference_models.probe.MOST_STEPS", 2)
    features, labels = features_and_labels(61, several=False, seed=0)
    fit = fit_probe(features, labels, classes=4, strength=10.0).fit
    assert not fit.converged
    assert fit.steps <= 2


def test_the_units_of_features_do_not_matter():
    features, labels = features_and_labels(61, several=True, seed=0)
    factors = torch.logspace(-2, 2, 7, dtype=torch.float64)
    one = fit_probe(features, labels, classes=4, strength=1.0)
    two = fit_probe(features * factors, labels, classes=4, strength=1.0)
    torch.testing.assert_close(
        one.head(features.float()), two.head((features * factors).float()), rtol=1e-3, atol=1e-3
    )


def test_of_equal_strengths_the_strongest_penalty_is_taken():
    labels = torch.arange(3).repeat(10)
    features = torch.eye(3)[labels]
    probe = choose_probe(features, labels, features, labels, classes=3)
    assert set(probe.tried.values()) == {1.0}
    assert probe.fit.strength == min(STRENGTHS)
