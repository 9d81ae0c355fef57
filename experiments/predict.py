"""Classify an image with a trained run of the mnist experiment.

Prints the probability of every class, and writes a picture of what the network saw, the
probabilities beside it, into the run's folder. The image is one of the test set (--index), or a
PNG file of the same size (--image), light on dark like the images of the training: --invert is
for a dark digit on light paper.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tyro.conf import Positional

import funcnet as fn
from experiments import datasets, mnist, results
from funcnet.errors import ConfigError, DataError

# Modes of Pillow whose conversion to 8-bit grey loses nothing that can be seen.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_INVERT_HINT = "the network learned light digits on a dark ground; --invert turns them around"


@dataclasses.dataclass(frozen=True)
class Config:
    """Options: which run, and which image."""

    run: Positional[Path]
    """Folder that the mnist experiment wrote: its --out."""
    image: Path | None = None
    """PNG file, grey or colour, of the size that the network was trained with: 28 x 28 pixels."""
    index: int | None = None
    """Number of an image of the test set, counted from 0."""
    invert: bool = False
    """Turn light and dark around in --image."""
    seed: int = 0
    """Which of the run's networks to ask."""

    def __post_init__(self):
        if (self.image is None) == (self.index is None):
            raise ConfigError("expected either --image FILE or --index NUMBER")
        if self.invert and self.image is None:
            raise ConfigError("--invert is for --image; the test set is light on dark already")


def main(config: Config) -> None:
    """Classify the image, print the probabilities, and draw what the network saw."""
    from experiments import figures  # needs matplotlib, and so brings Pillow

    trained = read_options(config.run).of_files()
    trainer = mnist.make_trainer(trained)
    params, state = load_network(config, trainer.model)
    train, test = mnist.load(trained)
    names = trained.class_names
    if config.image is not None:
        picture = read_png(config.image, config.invert, trained.pixels)
        title, file = config.image.name, f"predict-{config.image.stem}.png"
    else:
        picture, label = choose(test, config.index)
        title = f"test image {config.index}: {names[label]}"
        file = f"predict-test-{config.index}.png"
    # The run's own standardisation, whatever image it is.
    _, x = datasets.standardise(train.pictures, picture.reshape(1, *trained.image))
    probabilities = np.asarray(jax.nn.softmax(trainer.predict(params, state, x))[0])

    print(f"{title}, read as {names[probabilities.argmax()]}\n")
    for i in np.argsort(-probabilities, kind="stable"):
        print(f"  {names[i]:<12} {100 * probabilities[i]:6.2f} %")
    path = config.run / file
    figures.save(figures.reading(picture, probabilities, names, title), path)
    print(f"\nwhat the network saw: {path}")


def read_options(folder: Path) -> mnist.Config:
    """Return the options that decide on a run's network and data, or raise ResultsError."""
    options = results.read(folder).config
    names = ("data", "data_dir", "train_size", "hidden")
    try:
        chosen = {name: options[name] for name in names}
        if chosen["data"] not in datasets.DATA_SETS:
            raise ConfigError(f"data is {chosen['data']!r}")
        chosen |= {"model": options.get("model", "mlp"), "hidden": tuple(chosen["hidden"])}
        return mnist.Config(**chosen)
    except (KeyError, TypeError, ValueError) as error:
        raise results.ResultsError(
            f"{folder}: not a run of the mnist experiment ({type(error).__name__}: {error})"
        ) from error


def load_network(config: Config, model: fn.Module) -> tuple[Any, Any]:
    """Return the parameters and the state that a seed of the run has left.

    Raises:
        ResultsError, ParamsError: there is no such seed; its file is damaged or another network's.
    """
    like, state = jax.eval_shape(model.init, jax.random.key(0))
    path = config.run / mnist.params_name(config.seed)
    if not path.exists():
        there = sorted(file.name for file in config.run.glob("params-*.safetensors"))
        raise results.ResultsError(
            f"{path} is not there, so that seed {config.seed} can't be asked; the run has left "
            f"{', '.join(there) or 'no parameters'}"
        )
    return fn.load(path, (like, state))


def choose(test: mnist.Images, index: int | None) -> tuple[np.ndarray, int]:
    """Return an image of the test set, (height, width), and its class."""
    if index not in range(len(test.y)):
        raise ConfigError(f"--index is {index}, expected 0 to {len(test.y) - 1}")
    return test.pictures[index], int(test.y[index])


def read_png(path: Path, invert: bool, size: tuple[int, int] = (28, 28)) -> np.ndarray:
    """Return the pixels of a PNG file, (height, width) uint8, light and dark turned around or not.

    Raises:
        OSError: the file can't be read.
        DataError: it is no PNG file, damaged, of another size, or of a kind that can't be read.
    """
    from PIL import Image  # comes with matplotlib

    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check(path, image, size)
            grey = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a PNG file, or a damaged one ({error}); save the image again as PNG"
        ) from error
    grey = 255 - grey if invert else grey
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if border.mean() > 127:
        print(f"{path} is light at its border: {_INVERT_HINT}\n")
    return grey


def _check(path, image, size):
    """Refuse, before it is decoded, what the network would not see as people do."""
    width, height = image.size
    if (height, width) != size:
        raise DataError(
            f"{path} has {width} x {height} pixels, expected {size[1]} x {size[0]}; crop it to a "
            f"square with the digit in its middle, then scale it down"
        )
    if image.mode not in _MODES:
        raise DataError(
            f"{path} is of the kind {image.mode!r}; save it as a grey or colour PNG with 8 bits"
        )
    if image.has_transparency_data and image.convert("RGBA").getextrema()[-1][0] < 255:
        raise DataError(f"{path} has transparent pixels; save it with a plain background")
