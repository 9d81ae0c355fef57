"""Losses: frozen dataclasses that hold options, called as loss(prediction, target)."""

import dataclasses
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
        weight: one weight a class, a sequence or array; stored as a tuple. None for 1.
        ignore_index: the label that counts nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: in [0, 1].

    Raises:
        ConfigError: an unknown reduction, smoothing outside [0, 1], or weights that are not a
            sequence of finite numbers >= 0.
    """

    classification: ClassVar[Classification | None] = "labels"
    weight: tuple[float, ...] | None = None
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
        weight = None if self.weight is None else jnp.asarray(self.weight)
        loss = ops.cross_entropy(
            prediction, target, weight, self.ignore_index, self.reduction, self.label_smoothing
        )
        if not isinstance(target, Tracer):
            self.check_labels(target, prediction.shape[-1])
        return loss

    def divisor(self, target: Array) -> Array:
        """The weights of the labels that count; of probabilities, how many examples there are."""
        weight = None if self.weight is None else jnp.asarray(self.weight)
        return self._divisor_of(divisor(target, weight, self.ignore_index))

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
        weight: one weight a class, a sequence or array; stored as a tuple. None for 1.
        ignore_index: the label that counts nothing.
        reduction: "mean", "sum" or "none".

    Raises:
        ConfigError: an unknown reduction, or weights that are not a sequence of finite numbers
            >= 0.
    """

    classification: ClassVar[Classification | None] = "labels"
    weight: tuple[float, ...] | None = None
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
        weight = None if self.weight is None else jnp.asarray(self.weight)
        loss = ops.nll_loss(prediction, target, weight, self.ignore_index, self.reduction)
        if not isinstance(target, Tracer):
            self.check_labels(target, prediction.shape[-1])
        return loss

    def divisor(self, target: Array) -> Array:
        """The weights of the labels that count."""
        weight = None if self.weight is None else jnp.asarray(self.weight)
        return self._divisor_of(divisor(target, weight, self.ignore_index))

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


def _class_weights(loss: str, weight: Any) -> tuple[float, ...]:
    try:
        values = _finite_weights("", weight)
    except ConfigError:
        values = np.empty(())
    if values.ndim != 1 or not values.size:
        raise ConfigError(f"{loss}'s weight is {weight!r}, expected one finite number >= 0 a class")
    return tuple(map(float, values))


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
