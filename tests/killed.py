"""A run to be killed: python -m tests.killed FOLDER [SAVE SECONDS]

Trains with checkpoints in FOLDER, goes on from what is there, and prints a checksum of everything
it learned. With SAVE and SECONDS it kills itself so long after that save, counted in this process,
has begun. A checkpoint that had to be passed over is an error here.
"""

import json
import os
import signal
import sys
import threading
import warnings

import jax
import numpy as np
import optax

import funcnet as fn
from funcnet.io import checkpoint

EPOCHS = 40


def train(folder: str | os.PathLike[str]) -> str:
    """Return a checksum of everything the run has learned."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 3, 50)
    result = fn.fit(
        fn.Sequential(fn.Linear(3, 8), fn.Tanh(), fn.Linear(8, 3)),
        fn.CrossEntropyLoss(),
        optax.adam(0.01),
        (x, y),
        epochs=EPOCHS,
        batch_size=16,
        key=jax.random.key(5),
        validation=(x[::2], y[::2]),
        patience=EPOCHS,
        progress=False,
        checkpoint_dir=folder,
        checkpoint_every=1,
        resume=True,
    )
    leaves = jax.tree.leaves((result.run, result.history, result.accuracy))
    return json.dumps([checkpoint.fingerprint(np.asarray(leaf)) for leaf in map(_data, leaves)])


def _data(leaf):
    is_key = jax.numpy.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _die_in(number: int, seconds: float) -> None:
    save, begun = checkpoint.save, []

    def save_and_die(*arguments, **options):
        begun.append(None)
        if len(begun) == number:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        save(*arguments, **options)

    checkpoint.save = save_and_die


if __name__ == "__main__":
    warnings.simplefilter("error")
    if sys.argv[2:]:
        _die_in(int(sys.argv[2]), float(sys.argv[3]))
    print(train(sys.argv[1]))
