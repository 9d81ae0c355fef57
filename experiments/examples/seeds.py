"""How much of a result is luck? 200 seeds at 5 learning rates: 1,000 trainings in one call.

python -m experiments.examples.seeds
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

import funcnet as fn

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
model = fn.Sequential(fn.Linear(2, 16), fn.Tanh(), fn.Linear(16, 2))
# The rate is a number in the optimizer's state: every rate is the same program.
optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
trainer = fn.Trainer(model, fn.CrossEntropyLoss(), optimizer, batch_size=50)


def draw(key: jax.Array):
    """Points of the square, (500, 2): do both coordinates have the same sign?"""
    x = jax.random.uniform(key, (500, 2), minval=-1, maxval=1)
    return x, (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)


def train(key: jax.Array, rates: jax.Array, data, test) -> jax.Array:
    """Train from one start at each rate; return the accuracies on the test points, (rates,)."""
    start = trainer.init(key)

    def at(rate: jax.Array) -> jax.Array:
        opt_state = optax.tree.set(start.opt_state, learning_rate=rate)
        run, _ = trainer.run(start._replace(opt_state=opt_state), data, epochs=50)
        return jnp.mean(trainer.predict(run.params, run.state, test[0]).argmax(-1) == test[1])

    return jax.vmap(at)(rates)


def main(seeds: int = 200, out: Path = Path("runs/seeds.png")) -> None:
    """Train, print the table and draw the spread into the file `out`."""
    keys = jax.random.split(jax.random.key(0), seeds)
    shared = jnp.array(RATES), draw(jax.random.key(1)), draw(jax.random.key(2))
    scores = 100 * np.asarray(fn.map_seeds(train, keys, *shared, vectorized=True))  # (seeds, rates)
    print(f"accuracy in % over {seeds} seeds\n\n  rate    mean ±  std   worst    best")
    for rate, s in zip(RATES, scores.T, strict=True):
        print(f"{rate:6.2f}  {s.mean():6.2f} ± {s.std():4.2f}  {s.min():6.2f}  {s.max():6.2f}")

    figure = Figure(layout="constrained")
    axes = figure.add_subplot(xlabel="learning rate", ylabel="accuracy on the test points, %")
    axes.boxplot(scores, tick_labels=list(map(str, RATES)), whis=(0, 100))
    axes.set_title(f"median, quartiles and range over {seeds} seeds")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    tyro.cli(main)
