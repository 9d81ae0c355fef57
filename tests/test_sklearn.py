"""scikit-learn's estimators: its own checks, and what they are made for."""

import functools
import pickle
import subprocess
import sys
from typing import Any

import jax
import joblib
import numpy as np
import optax
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import funcnet as fn
from funcnet.errors import ConfigError, ShapeError

X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16, Y[:400]
WORDS = np.array(["nought", *"abcdefghi"])[Y]
IMAGES = X.reshape(-1, 8, 8, 1)
CNN = fn.Sequential(fn.Conv2d(1, 8, 3), fn.ReLU(), fn.MaxPool2d(2), fn.Flatten(), fn.Linear(72, 10))


def classifier(**options) -> Any:
    return fn.sklearn.Classifier(**{"epochs": 10, "random_state": 0, **options})


@pytest.mark.slow
@parametrize_with_checks([fn.sklearn.Classifier(), fn.sklearn.Regressor()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_words_as_labels():
    found = classifier().fit(X, WORDS)
    assert found.classes_.tolist() == sorted(set(WORDS))
    assert found.n_features_in_ == 64
    assert found.score(X, WORDS) > 0.9
    probabilities = found.predict_proba(X)
    assert (found.classes_[probabilities.argmax(1)] == found.predict(X)).all()
    # What scikit-learn computes of the probabilities is the loss that was trained.
    loss = found.result_.evaluate((X, np.searchsorted(found.classes_, WORDS)))["loss"]
    np.testing.assert_allclose(log_loss(WORDS, probabilities), loss, rtol=1e-5)


def test_it_is_what_fit_makes():
    """The seed is drawn as scikit-learn draws; the rest is `fn.fit`."""
    seed = np.random.RandomState(0).randint(2**31 - 1)
    model = fn.sklearn.perceptron(64, 10)
    expected = fn.fit(
        model, fn.CrossEntropyLoss(), optax.adam(1e-3), (X, Y), epochs=10, batch_size=32,
        key=jax.random.key(seed), progress=False,
    )  # fmt: skip
    found = classifier().fit(X, Y)
    np.testing.assert_array_equal(found.result_.history["loss"], expected.history["loss"])
    np.testing.assert_allclose(
        found.predict_proba(X), jax.nn.softmax(expected.predict(X)), rtol=1e-4, atol=1e-7
    )


@pytest.mark.slow
def test_predictions_do_not_depend_on_their_neighbours():
    found = classifier(epochs=2).fit(X, Y)
    whole = found.predict_proba(X)
    np.testing.assert_array_equal(found.predict_proba(X[300:307]), whole[300:307])


@pytest.mark.slow
def test_a_network_of_images():
    found = classifier(model=CNN).fit(IMAGES, WORDS)
    assert found.score(IMAGES, WORDS) > 0.8
    with pytest.raises(ShapeError, match="layer 0: Conv2d"):
        classifier(model=CNN).fit(X, Y)


@pytest.mark.slow
def test_regression_in_a_pipeline():
    x, y = map(np.asarray, load_diabetes(return_X_y=True))
    y = (y - np.mean(y)) / np.std(y)
    found = make_pipeline(
        StandardScaler(),
        fn.sklearn.Regressor(epochs=5, learning_rate=1e-2, random_state=0, loss=fn.HuberLoss()),
    ).fit(x, y)
    assert found.score(x, y) > 0.4
    assert found.predict(x).shape == y.shape
    both = fn.sklearn.Regressor(epochs=1).fit(x, np.stack([y, -y], axis=1))
    assert both.predict(x[:3]).shape == (3, 2)


@pytest.mark.slow
def test_grid_search_and_cross_validation():
    search: Any = GridSearchCV(
        classifier(optimizer=functools.partial(optax.sgd, momentum=0.9)),
        {"learning_rate": [1e-4, 0.1], "model": [fn.sklearn.perceptron, fn.Linear(64, 10)]},
        cv=2,
        error_score="raise",  # type: ignore[arg-type]
        n_jobs=2,
    ).fit(X, WORDS)
    assert search.best_params_["learning_rate"] == 0.1
    assert search.score(X, WORDS) > 0.9
    assert cross_val_score(classifier(epochs=30), X, WORDS, cv=3).min() > 0.8


UNPICKLED = """
import sys, pickle
import numpy as np
estimator = pickle.loads(open(sys.argv[1], "rb").read())
np.save(sys.argv[2], estimator.predict_proba(np.load(sys.argv[2])))
"""


@pytest.mark.slow
def test_pickled_for_another_process(tmp_path):
    found = classifier(model=CNN, epochs=2).fit(IMAGES, WORDS)
    file, data = tmp_path / "estimator", tmp_path / "x.npy"
    file.write_bytes(pickle.dumps(found))
    np.save(data, IMAGES[:5])
    subprocess.run([sys.executable, "-c", UNPICKLED, file, data], check=True)
    np.testing.assert_array_equal(np.load(data), found.predict_proba(IMAGES[:5]))
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.fit(IMAGES, WORDS).predict(IMAGES), found.predict(IMAGES))


@pytest.mark.slow
def test_joblib_and_clone(tmp_path):
    found = classifier(epochs=2).fit(X, Y)
    joblib.dump(found, tmp_path / "estimator")
    again = joblib.load(tmp_path / "estimator")
    np.testing.assert_array_equal(again.predict(X), found.predict(X))
    fresh: Any = clone(found)
    assert fresh.get_params() == found.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(X)


@pytest.mark.slow
def test_an_optimizer_may_be_given_as_it_is():
    found = classifier(optimizer=optax.sgd(0.1), epochs=2).fit(X, Y)
    assert found.score(X, Y) > 0.2
    with pytest.raises(ConfigError, match=r"such as optax\.adam"):
        classifier(optimizer="adam").fit(X, Y)


def test_a_second_fit_compiles_nothing():
    with fn.debugging() as seen:
        classifier(epochs=1).fit(X, Y)
        first = seen.compiled["_train_epochs"]
        classifier(epochs=1, random_state=1).fit(X, Y)
    assert seen.compiled["_train_epochs"] == first == 1


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "funcnet.sklearn")
    monkeypatch.delattr(fn, "sklearn")
    name = "sklearn"
    with pytest.raises(ModuleNotFoundError, match=r"funcnet\[sklearn\]"):
        getattr(fn, name)
    with pytest.raises(AttributeError, match="no attribute 'skkit'"):
        getattr(fn, name[:2] + "kit")


def test_funcnet_alone_imports_no_scikit_learn():
    code = "import sys, funcnet; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
