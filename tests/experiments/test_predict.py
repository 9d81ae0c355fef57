"""Images from the test set and from files are read, and what can't be is refused in a sentence."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra plots")
from PIL import Image

from experiments import __main__, datasets, mnist, results


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_files):
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, data_dir: small_files)
        mnist.main(mnist.Config(seeds=1, epochs=5, hidden=(8,), train_size=300, out=out))
    return out


@pytest.fixture
def run(trained, small_mnist, tmp_path):
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def predict(run, capsys):
    """Return a function of the options, to the exit code and what was printed."""

    def call(*options):
        code = __main__.main(["predict", str(run), *map(str, options)])
        return code, capsys.readouterr()

    return call


def probabilities(printed):
    lines = [line.split() for line in printed.out.splitlines() if line.endswith(" %")]
    return {name: float(value) for name, value, _ in lines}


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def refused(result):
    code, printed = result
    assert code == 1
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.slow
def test_an_image_of_the_test_set(predict, run, small_mnist):
    code, printed = predict("--index", 4)
    assert code == 0
    found = probabilities(printed)
    assert set(found) == set("0123456789")
    assert sum(found.values()) == pytest.approx(100, abs=0.1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    best = next(iter(found))
    assert printed.out.startswith(f"test image 4: {small_mnist[1].labels[4]}, read as {best}\n")
    assert f"what the network saw: {run / 'predict-test-4.png'}" in printed.out
    assert (run / "predict-test-4.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "P", "LA"])
def test_the_same_image_as_a_file(predict, run, small_mnist, tmp_path, kind):
    path = tmp_path / "digit.png"
    Image.fromarray(small_mnist[1].images[4]).convert(kind).save(path)
    code, printed = predict("--image", path)
    assert code == 0
    assert probabilities(printed) == probabilities(predict("--index", 4)[1])
    assert (run / "predict-digit.png").exists()
    assert "--invert" not in printed.out


def test_dark_on_light_is_pointed_out_and_can_be_inverted(predict, small_mnist, tmp_path):
    path = save(tmp_path / "ink.png", 255 - small_mnist[1].images[4])
    expected = probabilities(predict("--index", 4)[1])
    _, printed = predict("--image", path)
    assert "ink.png is light at its border: " in printed.out
    assert probabilities(printed) != expected
    _, printed = predict("--image", path, "--invert")
    assert "border" not in printed.out
    assert probabilities(printed) == expected


def test_another_size(predict, tmp_path):
    path = save(tmp_path / "big.png", np.zeros((30, 20), np.uint8))
    assert "big.png has 20 x 30 pixels, expected 28 x 28; crop" in refused(predict("--image", path))


@pytest.mark.parametrize("damage", ["text", "cut off", "jpeg", "empty", "header alone"])
def test_no_png_file(predict, small_mnist, tmp_path, damage):
    path = save(tmp_path / "x.png", small_mnist[1].images[0])
    data = path.read_bytes()
    if damage == "jpeg":
        Image.fromarray(small_mnist[1].images[0]).save(path, format="jpeg")
    else:
        contents = {"text": b"x", "cut off": data[:-60], "empty": b"", "header alone": data[:33]}
        path.write_bytes(contents[damage])
    assert "x.png: not a PNG file, or a damaged one (" in refused(predict("--image", path))


def test_pixels_that_would_be_read_wrongly(predict, tmp_path):
    deep = save(tmp_path / "deep.png", np.full((28, 28), 40_000, np.uint16))
    assert "deep.png is of the kind 'I;16'; save it" in refused(predict("--image", deep))
    clear = save(tmp_path / "clear.png", np.zeros((28, 28, 4), np.uint8))
    assert "clear.png has transparent pixels" in refused(predict("--image", clear))


def test_a_file_that_is_not_there(predict, tmp_path):
    assert "No such file" in refused(predict("--image", tmp_path / "none.png"))


@pytest.mark.parametrize("index", [-1, 100])
def test_an_index_outside_the_test_set(predict, index):
    assert f"--index is {index}, expected 0 to 99" in refused(predict("--index", index))


@pytest.mark.parametrize(
    "options", [(), ("--index", "1", "--image", "x.png"), ("--index", "1", "--invert")]
)
def test_exactly_one_image(predict, options):
    with pytest.raises(SystemExit) as stopped:
        predict(*options)
    assert stopped.value.code == 2


def test_a_seed_that_was_not_trained(predict):
    message = refused(predict("--index", 0, "--seed", 3))
    assert "seed 3 can't be asked; the run has left params-cross_entropy-0.safetensors" in message


def test_parameters_of_another_network(predict, run):
    config = results.read(run).config
    results.write(run, {**config, "hidden": [9]}, [])
    assert "0.weight has shape (8, 784), expected (9, 784)" in refused(predict("--index", 0))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"data": "cats", "data_dir": None, "train_size": 300, "hidden": [8]},
        {"data": "mnist", "data_dir": None, "train_size": 0, "hidden": [8]},
        {"data": "mnist", "data_dir": None, "train_size": 300, "hidden": 8},
    ],
)
def test_a_folder_of_something_else(predict, run, config):
    results.write(run, config, [])
    assert "run: not a run of the mnist experiment (" in refused(predict("--index", 0))


def test_a_folder_without_results(predict, run):
    (run / "results.json").unlink()
    assert "results.json: cannot be read (No such file" in refused(predict("--index", 0))
