"""Losses: frozen dataclasses that hold options, called as loss(prediction, target)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from funcnet import ops
from funcnet._internal.checks import require_arrays, require_bool, require_int, require_number
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError, DataError
from funcnet.ops.losses.classification import require_label_smoothing
from funcnet.ops.losses.divergence import KLReduction
from funcnet.ops.losses.reduction import (
    REDUCTIONS,
    Reduction,
    counted,
    divisor,
    is_labels,
    require_reduction,
)
from funcnet.ops.losses.regression import require_delta

Classification = Literal["labels", "answers"]
BALANCED = "balanced"


class Loss:
    """The base of every loss; subclass it, as a frozen dataclass, for a loss of your own.

    Override `__call__`, and `divisor` where the mean divides by anything but the number of the
    target's entries. The fields of the dataclass are options: hashable, no arrays.

    Attributes:
        classification: what kind of answer the prediction is. "labels": the class of the largest
            output; "answers": yes where an output is above 0; None: no classification.
        reduction: "mean", "sum" or "none"; a dataclass field where it can be chosen.
    """

    classification: ClassVar[Classification | None] = None
    reduction: Any = "mean"

    def __call__(self, prediction: Array, target: Array) -> Array:
        """The loss of a batch, ().

        Args:
            prediction: the model's output.
            target: what it should have been.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def divisor(self, target: Any) -> Array:
        """What the loss of a batch with these targets was divided by, D, (), in float32 at least.

        With D_b that of batch b and D that of a whole set, the loss over the set is
        Σ_b loss_b D_b / D, whatever the batches: a mean's D adds up over batches, a sum's is 1. A
        batch with D_b = 0, in which nothing counts, is left out.
        """
        return self._divisor_of(target.size)

    def _divisor_of(self, count: Any) -> Array:
        """`count` if this is a mean, else 1."""
        return _wide(count if self.reduction == "mean" else 1)

    def counted(self, target: Any) -> Array | None:
        """Which labels (...) count in the mean; None where all do."""
        return None

    def for_labels(self, target: Any, sample_weight: Any = None) -> "Loss":
        """This loss with the numbers that it takes from the targets of a whole set.

        `fit` calls it once with all training targets. The loss itself, unless it has class
        weights "balanced".

        Args:
            target: the targets.
            sample_weight: what each example counts, (examples,); None for 1.
        """
        return self

    def check_labels(self, target: Any, classes: int) -> None:
        """Raise DataError where the target has a value that this loss has no meaning for.

        `fit` calls it once with all targets, since a compiled program cannot raise. Nothing,
        unless a subclass says otherwise.

        Args:
            target: the targets.
            classes: the size of the prediction's last axis.
        """


@dataclasses.dataclass(frozen=True)
class MSELoss(Loss):
    """Mean of squared errors over all entries (`torch.nn.MSELoss`); no factor 1/2.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ConfigError: an unknown reduction.
    """

    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        require_reduction("MSELoss", self.reduction)

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of (...) predictions and targets of one shape; see `ops.mse_loss`."""
        require_arrays("mse_loss", prediction=prediction, target=target)
        return ops.mse_loss(prediction, target, self.reduction)


@dataclasses.dataclass(frozen=True)
class CrossEntropyLoss(Loss):
    """Cross entropy of logits and labels or probabilities (`torch.nn.CrossEntropyLoss`).

    Args:
        weight: one weight a class, a sequence or array, stored as a tuple; a dict from class to
            weight, 1 for those it does not name; or "balanced", for which `fit` counts the
            training labels: n / (C n_c) for the n_c of n labels that are of class c, with C
            classes that occur (scikit-learn's formula). None for 1.
        ignore_index: the label that counts nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: in [0, 1].

    Raises:
        ConfigError: an unknown reduction, smoothing outside [0, 1], or weights that are not
            finite numbers >= 0; when called, weights that are still "balanced", or that name a
            class without an output.
    """

    classification: ClassVar[Classification | None] = "labels"
    weight: Any = None
    ignore_index: int = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_reduction("CrossEntropyLoss", self.reduction)
        require_label_smoothing("CrossEntropyLoss", self.label_smoothing)
        ignored = require_int("CrossEntropyLoss's ignore_index", self.ignore_index)
        set_fields(self, label_smoothing=float(self.label_smoothing), ignore_index=ignored)
        if self.weight is not None:
            set_fields(self, weight=_class_weights("CrossEntropyLoss", self.weight))

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of logits (..., C) and labels (...) or probabilities (..., C).

        Raises DataError for a label that is no class, where its value is known: inside `jit`
        the loss is NaN instead. See `ops.cross_entropy`.
        """
        require_arrays("cross_entropy", logits=prediction, target=target)
        weight = _weight_array(self, prediction.shape[-1] if prediction.ndim else 1)
        loss = ops.cross_entropy(
            prediction, target, weight, self.ignore_index, self.reduction, self.label_smoothing
        )
        if not isinstance(target, Tracer):
            self.check_labels(target, prediction.shape[-1])
        return loss

    def divisor(self, target: Array) -> Array:
        """The weights of the labels that count; of probabilities, how many examples there are."""
        return self._divisor_of(_label_divisor(self, target))

    def for_labels(self, target: Any, sample_weight: Any = None) -> Loss:
        """The same, with numbers for "balanced" weights: see `Loss.for_labels`."""
        return _balanced(self, target, sample_weight)

    def counted(self, target: Array) -> Array | None:
        """Which labels (...) count in the mean; None for probabilities, which all do."""
        return counted(target, self.ignore_index) if is_labels(target) else None

    def check_labels(self, target: Any, classes: int) -> None:
        """Raise DataError where an integer target has a value that is no class."""
        if np.issubdtype(np.asarray(target).dtype, np.integer):
            _require_classes(self, target, classes, self.ignore_index)


@dataclasses.dataclass(frozen=True)
class NLLLoss(Loss):
    """Negative log-likelihood of labels (`torch.nn.NLLLoss`): what follows a LogSoftmax.

    Args:
        weight: one weight a class, a sequence or array, stored as a tuple; a dict from class to
            weight, 1 for those it does not name; or "balanced", for which `fit` counts the
            training labels: n / (C n_c) for the n_c of n labels that are of class c, with C
            classes that occur (scikit-learn's formula). None for 1.
        ignore_index: the label that counts nothing.
        reduction: "mean", "sum" or "none".

    Raises:
        ConfigError: an unknown reduction, or weights that are not finite numbers >= 0; when called,
            weights that are still "balanced", or that name a class without an output.
    """

    classification: ClassVar[Classification | None] = "labels"
    weight: Any = None
    ignore_index: int = -100
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        require_reduction("NLLLoss", self.reduction)
        ignored = require_int("NLLLoss's ignore_index", self.ignore_index)
        set_fields(self, ignore_index=ignored)
        if self.weight is not None:
            set_fields(self, weight=_class_weights("NLLLoss", self.weight))

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of log-probabilities (..., C) and labels (...).

        Raises DataError for a label that is no class, where its value is known: inside `jit`
        the loss is NaN instead. See `ops.nll_loss`.
        """
        require_arrays("nll_loss", log_probabilities=prediction, target=target)
        weight = _weight_array(self, prediction.shape[-1] if prediction.ndim else 1)
        loss = ops.nll_loss(prediction, target, weight, self.ignore_index, self.reduction)
        if not isinstance(target, Tracer):
            self.check_labels(target, prediction.shape[-1])
        return loss

    def divisor(self, target: Array) -> Array:
        """The weights of the labels that count."""
        return self._divisor_of(_label_divisor(self, target))

    def for_labels(self, target: Any, sample_weight: Any = None) -> Loss:
        """The same, with numbers for "balanced" weights: see `Loss.for_labels`."""
        return _balanced(self, target, sample_weight)

    def counted(self, target: Array) -> Array:
        """Which labels (...) count in the mean."""
        return counted(target, self.ignore_index)

    def check_labels(self, target: Any, classes: int) -> None:
        """Raise DataError where the target has a value that is no class."""
        _require_classes(self, target, classes, self.ignore_index)


@dataclasses.dataclass(frozen=True)
class BCEWithLogitsLoss(Loss):
    """Cross entropy of logits and answers, yes or no (`torch.nn.BCEWithLogitsLoss`).

    Args:
        weight: of the entries: a number, or a sequence or array that is broadcast to the logits;
            stored in tuples. None for 1.
        reduction: "mean", "sum" or "none".
        pos_weight: how much more a "yes" counts, of the same kind: for k answers an example, k
            numbers. None for 1.

    Raises:
        ConfigError: an unknown reduction, or weights that are not finite numbers >= 0.
    """

    classification: ClassVar[Classification | None] = "answers"
    weight: Any = None
    reduction: Reduction = "mean"
    pos_weight: Any = None

    def __post_init__(self) -> None:
        require_reduction("BCEWithLogitsLoss", self.reduction)
        for name in ("weight", "pos_weight"):
            if (given := getattr(self, name)) is not None:
                _require_no_classes(name, given)
                weights = _finite_weights(f"BCEWithLogitsLoss's {name}", given)
                set_fields(self, **{name: _in_tuples(weights.tolist())})

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of logits (...) and floating targets of one shape, from 0 for no to 1 for yes.

        Raises DataError for a target outside [0, 1], where its value is known. See
        `ops.binary_cross_entropy_with_logits`.
        """
        require_arrays("binary_cross_entropy_with_logits", logits=prediction, target=target)
        weights = (self.weight, self.pos_weight)
        weight, pos_weight = (None if w is None else jnp.asarray(w) for w in weights)
        loss = ops.binary_cross_entropy_with_logits(
            prediction, target, weight, self.reduction, pos_weight
        )
        if not isinstance(target, Tracer):
            self.check_labels(target, prediction.shape[-1] if prediction.ndim else 1)
        return loss

    def check_labels(self, target: Any, classes: int) -> None:
        """Raise DataError where the target is outside [0, 1]; `classes` does not matter."""
        target = np.asarray(target, np.float64)
        wrong = (target < 0) | (target > 1)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"{self!r} got target {target[where]} at {list(where)}, expected 0 for no to 1 for "
                f"yes; for labels of classes use CrossEntropyLoss, for other numbers MSELoss"
            )


@dataclasses.dataclass(frozen=True)
class L1Loss(Loss):
    """Mean of absolute errors over all entries (`torch.nn.L1Loss`).

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ConfigError: an unknown reduction.
    """

    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        require_reduction("L1Loss", self.reduction)

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of (...) predictions and targets of one shape; see `ops.l1_loss`."""
        require_arrays("l1_loss", prediction=prediction, target=target)
        return ops.l1_loss(prediction, target, self.reduction)


@dataclasses.dataclass(frozen=True)
class SmoothL1Loss(Loss):
    """Absolute errors, rounded off below beta (`torch.nn.SmoothL1Loss`).

    Args:
        reduction: "mean", "sum" or "none".
        beta: up to where the error is squared; 0 for L1Loss.

    Raises:
        ConfigError: an unknown reduction, or a beta that is not a finite number >= 0.
    """

    reduction: Reduction = "mean"
    beta: float = 1.0

    def __post_init__(self) -> None:
        require_reduction("SmoothL1Loss", self.reduction)
        set_fields(self, beta=require_number("SmoothL1Loss's beta", self.beta, least=0))

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of (...) predictions and targets of one shape; see `ops.smooth_l1_loss`."""
        require_arrays("smooth_l1_loss", prediction=prediction, target=target)
        return ops.smooth_l1_loss(prediction, target, self.reduction, self.beta)


@dataclasses.dataclass(frozen=True)
class HuberLoss(Loss):
    """Half the squared errors, in a straight line beyond delta (`torch.nn.HuberLoss`).

    Args:
        reduction: "mean", "sum" or "none".
        delta: up to where the error is squared.

    Raises:
        ConfigError: an unknown reduction, or a delta that is not a finite number > 0.
    """

    reduction: Reduction = "mean"
    delta: float = 1.0

    def __post_init__(self) -> None:
        require_reduction("HuberLoss", self.reduction)
        set_fields(self, delta=require_delta("HuberLoss's delta", self.delta))

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of (...) predictions and targets of one shape; see `ops.huber_loss`."""
        require_arrays("huber_loss", prediction=prediction, target=target)
        return ops.huber_loss(prediction, target, self.reduction, self.delta)


@dataclasses.dataclass(frozen=True)
class KLDivLoss(Loss):
    """Kullback and Leibler's divergence from targets to predictions (`torch.nn.KLDivLoss`).

    Args:
        reduction: "mean" over all entries, "batchmean" over the first axis (the divergence
            proper), "sum" or "none".
        log_target: whether targets are logarithms of probabilities.

    Raises:
        ConfigError: an unknown reduction, or log_target is neither True nor False.
    """

    reduction: KLReduction = "mean"
    log_target: bool = False

    def __post_init__(self) -> None:
        require_reduction("KLDivLoss", self.reduction, (*REDUCTIONS, "batchmean"))
        require_bool("KLDivLoss's log_target", self.log_target)

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of log-probabilities (...) and targets of one shape; see `ops.kl_div`."""
        require_arrays("kl_div", log_probabilities=prediction, target=target)
        return ops.kl_div(prediction, target, self.reduction, self.log_target)

    def divisor(self, target: Array) -> Array:
        """The number of entries, or with "batchmean" of examples."""
        if self.reduction == "batchmean":
            return _wide(len(target) if target.ndim else 1)
        return super().divisor(target)


def _wide(count: Any) -> Array:
    """A count or a sum of weights, (), in float32 at least."""
    return jnp.asarray(count, jnp.promote_types(jnp.result_type(count), jnp.float32))


def _require_classes(loss: Any, target: Any, classes: int, ignore_index: int) -> None:
    target = np.asarray(target)
    wrong = (target != ignore_index) & ((target < 0) | (target >= classes))
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{loss!r} got label {target[where]} at {list(where)}, expected 0 to {classes - 1} "
            f"for {classes} outputs (or ignore_index={ignore_index}); give the model's "
            f"last layer as many outputs as there are classes, or count labels from 0"
        )


def _require_no_classes(name: str, weight: Any) -> None:
    if isinstance(weight, str | Mapping):
        raise ConfigError(
            f"BCEWithLogitsLoss's {name} is {weight!r}, and yes-or-no answers have no classes to "
            f"weight; weight a yes by a number, which balances both as "
            f"pos_weight=float((y == 0).sum() / (y == 1).sum())"
        )


class ClassWeights(dict[int, float]):
    """From classes to weights, hashable; a class that is not named has weight 1."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(frozenset(self.items()))

    def array(self, classes: int) -> np.ndarray:
        """The weight of each of so many classes, (C,) float64."""
        return np.array([self.get(number, 1.0) for number in range(classes)])


def _class_weights(loss: str, weight: Any) -> tuple[float, ...] | ClassWeights | str:
    if isinstance(weight, str) and weight == BALANCED:
        return weight
    if isinstance(weight, Mapping):
        return _weights_by_class(loss, weight)
    try:
        values = _finite_weights("", weight)
    except ConfigError:
        values = np.empty(())
    if values.ndim != 1 or not values.size:
        raise ConfigError(
            f"{loss}'s weight is {weight!r}, expected one finite number >= 0 a class, a dict from "
            f"class to weight, or 'balanced'"
        )
    return tuple(map(float, values))


def _weights_by_class(loss: str, weight: Mapping[Any, Any]) -> ClassWeights:
    by_class = ClassWeights()
    for label, value in weight.items():
        if isinstance(label, str | bool) or not hasattr(label, "__index__") or label < 0:
            raise ConfigError(
                f"{loss}'s weight has the class {label!r}, expected integers from 0; words are "
                f"numbered by classes, y = np.unique(y, return_inverse=True), and looked up by "
                f"dict(enumerate([weight[c] for c in classes.tolist()]))"
            )
        by_class[int(label)] = float(_finite_weights(f"{loss}'s weight of {label}", value))
    if not by_class:
        raise ConfigError(f"{loss}'s weight is {{}}, expected a weight for at least one class")
    return by_class


def _weight_array(loss: Any, classes: int) -> Array | None:
    """The class weights, (C,), as their op takes them; None for 1."""
    if loss.weight is None:
        return None
    if isinstance(loss.weight, ClassWeights):
        if max(loss.weight) >= classes:
            raise ConfigError(
                f"{loss!r} has a weight for class {max(loss.weight)}, expected 0 to {classes - 1} "
                f"for {classes} outputs; leave it out, or give the model's last layer as many "
                f"outputs as there are classes"
            )
        return jnp.asarray(loss.weight.array(classes))
    return jnp.asarray(_numbers(loss))


def _label_divisor(loss: Any, target: Array) -> Array:
    """What the mean over these labels divides by, ()."""
    if not isinstance(loss.weight, ClassWeights) or not is_labels(target):
        weight = None if loss.weight is None else jnp.asarray(_numbers(loss))
        return divisor(target, weight, loss.ignore_index)
    # How many classes there are is not told here: all from `rest` on have weight 1.
    rest = max(loss.weight) + 1
    counts = counted(target, loss.ignore_index)
    target = jnp.where(counts, jnp.minimum(target.astype(jnp.int32), rest), -1)
    weight = jnp.asarray(loss.weight.array(rest + 1))
    return divisor(target, weight, ignore_index=-1)


def _numbers(loss: Any) -> tuple[float, ...]:
    if loss.weight == BALANCED:
        raise ConfigError(
            f"{loss!r} has weight='balanced', which fit computes from the training labels; "
            f"elsewhere give them: loss.for_labels(y) is this loss with the weights of labels y"
        )
    return loss.weight


def _balanced(loss: Any, target: Any, sample_weight: Any) -> Any:
    """The loss with n / (C n_c) for class c, by scikit-learn's formula, where it is to have that.

    Raises:
        DataError: the targets are no labels.
    """
    if loss.weight != BALANCED:
        return loss
    labels = np.asarray(target)
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{loss!r} has weight='balanced', which counts labels, and y is {labels.dtype}; give "
            f"integer labels, or the weight of each class as a number"
        )
    counts = labels != loss.ignore_index
    each = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    each = np.broadcast_to(each.reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)
    classes, index = np.unique(labels[counts], return_inverse=True)
    found = np.bincount(index.reshape(-1), weights=each[counts])
    weights = {
        int(label): float(found.sum() / ((found > 0).sum() * n))
        for label, n in zip(classes, found, strict=True)
        if n > 0 and label >= 0
    }
    return dataclasses.replace(loss, weight=weights or None)


def _finite_weights(name: str, weight: Any) -> np.ndarray:
    try:
        values = np.asarray(weight)
        if values.dtype.kind == "c":  # NumPy would drop the imaginary part
            raise TypeError
        values = values.astype(np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ConfigError(f"{name} is {weight!r}, expected finite numbers >= 0")
    return values


def _in_tuples(values: Any) -> Any:
    return tuple(map(_in_tuples, values)) if isinstance(values, list) else values
