"""Estimators for scikit-learn: networks in a Pipeline, GridSearchCV or cross_val_score.

`import funcnet` does not import this module, nor scikit-learn; `fn.sklearn` does.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
import optax

from funcnet.errors import ConfigError
from funcnet.layers import CrossEntropyLoss, Linear, Module, MSELoss, ReLU, Sequential
from funcnet.training.fit import fit
from funcnet.training.result import FitResult

try:
    if not TYPE_CHECKING:
        from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "funcnet.sklearn needs scikit-learn: pip install 'funcnet[sklearn]'"
    ) from _error

if TYPE_CHECKING:  # scikit-learn has no types: what an estimator has of it

    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def __sklearn_tags__(self) -> Any: ...

    class ClassifierMixin:
        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...

    class RegressorMixin:
        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...


# What X is kept in; other numbers become the first. The network computes in float32.
FLOATS: list[Any] = [np.float64, np.float32]
BLOCK = 128

__all__ = ["Classifier", "Regressor", "perceptron"]


def perceptron(features: int, outputs: int) -> Module:
    """A network of one hidden layer with 100 units: what the estimators take for no model."""
    return Sequential(Linear(features, 100), ReLU(), Linear(100, outputs))


class _Estimator(BaseEstimator):
    """What a classifier and a regressor share: their parameters, as given, and the run."""

    def __init__(
        self,
        model: Module | Callable[[int, int], Module] = perceptron,
        loss: Callable[[Any, Any], Any] | None = None,
        optimizer: Callable[[float], optax.GradientTransformation] = optax.adam,
        *,
        learning_rate: float = 1e-3,
        epochs: int = 200,
        batch_size: int = 32,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X: Any, y: Any, outputs: int, default_loss: Callable[[Any, Any], Any]) -> None:
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.result_: FitResult = fit(
            self.model if isinstance(self.model, Module) else self.model(X.shape[1], outputs),
            default_loss if self.loss is None else self.loss,
            _made(self.optimizer, self.learning_rate),
            (X, y),
            epochs=self.epochs,
            batch_size=self.batch_size,
            key=jax.random.key(seed),
            progress=bool(self.verbose),
        )

    def _outputs(self, X: Any) -> np.ndarray:
        """What the network makes of each row, whatever other rows stand beside it."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, allow_nd=True, dtype=FLOATS)
        # Always blocks of one shape, the last one filled up: one program, which rounds in one way.
        rows = range(0, len(X), BLOCK)
        filled = (np.resize(X[i : i + BLOCK], (BLOCK, *X.shape[1:])) for i in rows)
        return np.concatenate([self.result_.predict(block) for block in filled])[: len(X)]


class Classifier(ClassifierMixin, _Estimator):
    """A network as a scikit-learn classifier.

    All parameters can be searched over, such as `learning_rate` or `model`. It can be pickled where
    they can: pickle stores functions by their name, so give `optimizer=optax.adam` or a
    `functools.partial` of it, and not `optax.adam(1e-3)`, whose functions have none.

    Args:
        model: a `Module` with one output a class; or a function (features, classes) -> Module.
        loss: maps (logits, indices of classes) to a scalar; None for `CrossEntropyLoss()`.
        optimizer: maps the step size to an optax transformation, as `optax.adam` does; or such a
            transformation, whose step size is its own.
        learning_rate: the step size.
        epochs: how many.
        batch_size: examples a step.
        random_state: an integer for the same result again, a `numpy.random.RandomState`, or None.
        verbose: whether to show a progress bar.

    Attributes:
        classes_: (classes,), the labels, sorted.
        n_features_in_: the columns of X.
        result_: the `FitResult`; `result_.history` tells the loss after each epoch.
    """

    classes_: np.ndarray
    n_features_in_: int

    def fit(self, X: Any, y: Any) -> Self:
        """Train from the start.

        Args:
            X: (examples, features), or with more axes where `model` is a Module that takes them.
            y: (examples,), labels of any kind: numbers or text.

        Raises:
            ValueError, TypeError: as scikit-learn and `fn.fit` say it.
            DivergenceError: the loss or a parameter became non-finite.
        """
        X, y = validate_data(self, X, y, allow_nd=True, dtype=FLOATS)
        check_classification_targets(y)
        self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        self._fit(X, labels, len(self.classes_), CrossEntropyLoss())
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most likely label of each example, (examples,)."""
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(axis=-1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The softmax of the network's outputs, (examples, classes), in the order of `classes_`."""
        return np.asarray(jax.nn.softmax(self._outputs(X), axis=-1))


class Regressor(RegressorMixin, _Estimator):
    """A network as a scikit-learn regressor.

    Targets are taken as they are: scale large ones, for example by scikit-learn's
    `TransformedTargetRegressor`. Parameters and pickling are those of `Classifier`.

    Args:
        model: a `Module` with one output a target; or a function (features, targets) -> Module.
        loss: maps (prediction, target), (examples, targets) each, to a scalar; None for
            `MSELoss()`.
        optimizer: maps the step size to an optax transformation, as `optax.adam` does; or such a
            transformation, whose step size is its own.
        learning_rate: the step size.
        epochs: how many.
        batch_size: examples a step.
        random_state: an integer for the same result again, a `numpy.random.RandomState`, or None.
        verbose: whether to show a progress bar.

    Attributes:
        n_features_in_: the columns of X.
        result_: the `FitResult`; `result_.history` tells the loss after each epoch.
    """

    n_features_in_: int

    def fit(self, X: Any, y: Any) -> Self:
        """Train from the start.

        Args:
            X: (examples, features), or with more axes where `model` is a Module that takes them.
            y: (examples,) or (examples, targets).

        Raises:
            ValueError, TypeError: as scikit-learn and `fn.fit` say it.
            DivergenceError: the loss or a parameter became non-finite.
        """
        X, y = validate_data(
            self, X, y, allow_nd=True, dtype=FLOATS, multi_output=True, y_numeric=True
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._one_target = y.ndim == 1
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        self._fit(X, targets, targets.shape[1], MSELoss())
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The network's output, (examples,) or (examples, targets) as y was."""
        outputs = self._outputs(X).astype(np.float64)
        return outputs[:, 0] if self._one_target else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


@functools.lru_cache(maxsize=64)
def _made(optimizer: Any, learning_rate: float) -> Any:
    """The optimizer; the same object for the same settings, so that no second fit compiles it."""
    if callable(optimizer):
        return optimizer(learning_rate)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ConfigError(
            f"optimizer is {optimizer!r}, expected a function of the step size such as optax.adam"
        )
    return optimizer
