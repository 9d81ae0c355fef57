"""A first network on real data: which digit does a handwritten image show?

python -m experiments.examples.digits
"""

from pathlib import Path

import jax
import numpy as np
import optax
import tyro

import funcnet as fn
from experiments import datasets

model = fn.Sequential(fn.Flatten(), fn.Linear(28 * 28, 128), fn.ReLU(), fn.Linear(128, 10))


def load(size: int):
    """Return training, validation and test data: (x, y), images and labels."""
    train, test = datasets.load("mnist")
    x, x_test = datasets.standardise(train.images[: size + 2000], test.images)
    y, y_test = train.labels[: size + 2000].astype(np.int32), test.labels.astype(np.int32)
    return (x[:size], y[:size]), (x[size:], y[size:]), (x_test, y_test)


def main(size: int = 10_000, epochs: int = 5, out: Path = Path("runs/digits")) -> None:
    """Train, evaluate, save, load and predict.

    Args:
        size: training images.
        epochs: how often to see each.
        out: folder for the trained network.
    """
    train, validation, test = load(size)
    result = fn.fit(
        model,
        fn.CrossEntropyLoss(),
        optax.adam(1e-3),
        train,
        epochs=epochs,
        key=jax.random.key(0),
        validation=validation,
        metrics={"accuracy": fn.metrics.accuracy},
    )
    for epoch, accuracy in enumerate(result.history["validation_accuracy"], start=1):
        print(f"after epoch {epoch}: {100 * accuracy:.2f} % of the validation images")
    print(f"test images: {100 * result.evaluate(test)['accuracy']:.2f} %")

    out.mkdir(parents=True, exist_ok=True)
    fn.save(out / "digits.safetensors", result.params, result.state)
    params, state = fn.load(out / "digits.safetensors", like=model)
    logits, _ = model.apply(params, state, test[0][:10])
    assert (logits.argmax(axis=-1) == result.predict(test[0][:10]).argmax(axis=-1)).all()
    print(f"the first ten test images: {test[1][:10]}, read as {logits.argmax(axis=-1)}")
    print(f"the network is in {out / 'digits.safetensors'}")


if __name__ == "__main__":
    tyro.cli(main)
