"""ONNX by way of a PyTorch twin: networks of every family equal funcnet's to 1e-5."""

import re
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import funcnet as fn

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
PAGE = Path(__file__).parent.parent.parent / "docs" / "export.md"


def networks():
    """funcnet's network, PyTorch's, and the shape of an example."""
    from torch import nn

    dense = (
        fn.Sequential(
            fn.Linear(6, 70), fn.LayerNorm(70), fn.GELU(), fn.Dropout(0.5), fn.Linear(70, 4),
            fn.BatchNorm1d(4), fn.LogSoftmax(),
        ),
        nn.Sequential(
            nn.Linear(6, 70), nn.LayerNorm(70), nn.GELU(), nn.Dropout(0.5), nn.Linear(70, 4),
            nn.BatchNorm1d(4), nn.LogSoftmax(-1),
        ),
        (6,),
    )  # fmt: skip
    images = (
        fn.Sequential(
            fn.Conv2d(2, 4, 3, padding=1, stride=2), fn.BatchNorm2d(4), fn.SiLU(),
            fn.AvgPool2d(2), fn.Conv2d(4, 4, 3, padding=1, groups=4), fn.LeakyReLU(),
            fn.MaxPool2d(3, 2, padding=1), fn.Flatten(), fn.Linear(8, 3), fn.Softmax(),
        ),
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.SiLU(),
            nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LeakyReLU(),
            nn.MaxPool2d(3, 2, padding=1), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(-1),
        ),
        (12, 8, 2),
    )  # fmt: skip
    return {"dense": dense, "images": images}


def to_onnx(twin, example, path):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.onnx about itself
        torch.onnx.export(
            twin.eval(),
            (torch.zeros(2, *example),),
            path,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )


@pytest.mark.parametrize("which", ["dense", "images"])
def test_networks_through_their_twin(which, tmp_path):
    import onnxruntime
    import torch

    model, twin, example = networks()[which]
    params, state = model.init(jax.random.key(0))
    state = jax.tree.map(lambda a: a + 1, state)  # no buffer as it begins
    arrays = fn.interop.state_dict(params, state, model=model)
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    channels_first = (example[-1], *example[:-1])
    to_onnx(twin, channels_first, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (1, 7):
        x = np.random.default_rng(0).normal(size=(batch, *example)).astype(np.float32)
        (found,) = session.run(None, {"x": np.moveaxis(x, -1, 1)})
        expected = model.apply(params, state, x)[0]
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    python, onnx = (
        re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
        for language in ("python", "py")
    )
    assert len(onnx) == 2
    exec("\n".join([python[0], *onnx]), {"__name__": "export"})
