"""The model of the site's own ratings."""

import json

import numpy as np
import pytest
from iqms_study import write_t1w

from neuroferry.errors import InputError
from neuroferry.judgement import accuracy
from neuroferry.judgement.metric_table import directions
from neuroferry.judgement.model import MODEL_FILE, keep_model, learn, probabilities_of
from neuroferry.judgement.ratings import Rating
from neuroferry.judgement.rules import Rules
from neuroferry.judgement.tables import read_scans

T1W = directions()["T1w"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(accuracy, "_RESAMPLES", 200)


def rate(names, bad):
    return [Rating(name, 1 if n in bad else 3, "ann") for n, name in enumerate(names)]


def test_ratings_that_metrics_explain_are_learned(tmp_path):
    bad = set(range(0, 60, 4))
    names = write_t1w(tmp_path, 60, bad=bad, scanners=("A", "B", "C"))
    scans = read_scans(tmp_path)
    model = learn(
        scans,
        rate(names[:50], bad),
        modality="T1w",
        directions=T1W,
        rules=Rules(),
        site_column="scanner",
    )
    assert [found.scheme for found in model.accuracies] == ["participants", "sites"]
    assert model.accuracies[0].auc.value > 0.95
    keep_model(tmp_path, model)
    chances = probabilities_of(tmp_path, scans)
    new = {n: chances[names[n]] for n in range(50, 60)}
    assert all((chance > 0.5) == (n in bad) for n, chance in new.items())
    weights = dict(zip(model.features, model.weights, strict=True))
    assert weights["cjv"] > 0 > weights["cnr"]


def test_the_file_gives_what_the_library_would(tmp_path):
    bad = set(range(0, 40, 3))
    names = write_t1w(tmp_path, 40, bad=bad)
    scans = read_scans(tmp_path)
    model = learn(scans, rate(names, bad), modality="T1w", directions=T1W, rules=Rules())
    keep_model(tmp_path, model)
    values = np.array([[s.metrics[name] for name in model.features] for s in scans.of["T1w"]])
    fitted = accuracy.fit(values, np.isin(np.arange(40), list(bad)), np.arange(40))
    expected = fitted.predict_proba(values)[:, 1]
    found = probabilities_of(tmp_path, scans)
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-9)


def test_ratings_that_nothing_explains_leave_no_model(tmp_path):
    names = write_t1w(tmp_path, 60)
    bad = set(np.random.default_rng(1).choice(60, 20, False).tolist())
    model = learn(
        read_scans(tmp_path), rate(names, bad), modality="T1w", directions=T1W, rules=Rules()
    )
    with pytest.raises(InputError, match="not better than chance"):
        keep_model(tmp_path, model)
    assert not (tmp_path / MODEL_FILE).exists()


@pytest.mark.parametrize(
    ("count", "bad", "column", "word"),
    [
        (30, range(15), "", "30 T1w images are rated, 15 of them below 1.5: too few"),
        (50, range(9), "", "It takes 40, with 10 to exclude and 10 others"),
        (50, range(45), "", "too few"),
        (50, range(20), "scanner", "names 1 sites"),
        (50, range(20), "site", "50 images without one"),
    ],
)
def test_too_little_is_refused_with_the_bound(tmp_path, monkeypatch, count, bad, column, word):
    names = write_t1w(tmp_path, count)
    monkeypatch.setattr("neuroferry.judgement.model.measure", lambda *_: None)
    with pytest.raises(InputError, match=word):
        learn(
            read_scans(tmp_path),
            rate(names, set(bad)),
            modality="T1w",
            directions=T1W,
            rules=Rules(),
            site_column=column,
        )


def test_a_file_that_is_no_model_is_refused(tmp_path):
    write_t1w(tmp_path, 2)
    scans = read_scans(tmp_path)
    assert probabilities_of(tmp_path, scans) == {}
    (tmp_path / MODEL_FILE).write_text(json.dumps({"features": ["cjv"], "fill": []}))
    with pytest.raises(InputError, match="no model of this version"):
        probabilities_of(tmp_path, scans)
