"""The figures show what their names promise, and are written as reproducible PNG files."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra plots")
from matplotlib.patches import Circle

from experiments import figures

RADIUS = 1 / np.sqrt(2 * np.pi)
NAMES = tuple("0123456789")


@pytest.fixture
def disk():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    return x, inside(x, RADIUS)


def inside(x, radius):
    return (np.sum(x**2, axis=1) < radius**2).astype(np.int32)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def check_true_circle(axes):
    (circle,) = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert circle.center == (0, 0)
    assert circle.radius == RADIUS
    assert axes.get_aspect() == 1
    assert axes.get_xlim() == axes.get_ylim() == (-1, 1)


def test_points_by_label_in_the_true_circle(disk):
    x, y = disk
    figure = figures.points(x, y, RADIUS)
    (axes,) = figure.axes
    check_true_circle(axes)
    for label, drawn in enumerate(axes.collections):
        np.testing.assert_array_equal(drawn.get_offsets(), x[y == label])
    assert axes.get_title() == f"200 points, {100 * y.mean():.1f} % of them inside the circle"
    assert legend(figure) == ["label 0", "label 1", "true circle"]


def test_regions_are_the_predictions_and_errors_are_ringed(disk):
    x, y = disk
    smaller = RADIUS / 2
    figure = figures.decision_regions(lambda p: inside(p, smaller), x, y, RADIUS, "MSE, 90 %", 100)
    (axes,) = figure.axes
    check_true_circle(axes)
    assert axes.get_title() == "MSE, 90 %"
    (image,) = axes.images
    regions = np.asarray(image.get_array())
    assert regions.shape == (100, 100)
    assert regions.mean() == pytest.approx(np.pi * smaller**2 / 4, rel=0.05)
    wrong = x[(y == 1) & (np.linalg.norm(x, axis=1) >= smaller)]
    np.testing.assert_array_equal(axes.collections[-1].get_offsets(), wrong)
    assert f"misclassified ({len(wrong)})" in legend(figure)


def test_regions_lie_where_the_points_are(disk):
    x, y = disk
    figure = figures.decision_regions(lambda p: (p[:, 1] > 0.5).astype(int), x, y, RADIUS, "up", 4)
    (image,) = figure.axes[0].images
    assert image.origin == "lower"
    np.testing.assert_array_equal(image.get_array(), np.repeat([[0], [0], [0], [1]], 4, axis=1))


def test_a_classifier_without_errors_or_with_one_class_is_drawn(disk):
    x, y = disk
    perfect = figures.decision_regions(lambda p: inside(p, RADIUS), x, y, RADIUS, "all right", 50)
    assert "misclassified (0)" in legend(perfect)
    constant = figures.decision_regions(lambda p: np.zeros(len(p)), x, y, RADIUS, "all 0", 50)
    assert not np.asarray(constant.axes[0].images[0].get_array()).any()


def test_curves_show_mean_and_range_over_the_seeds():
    values = np.array([[4.0, 2.0, 1.0], [8.0, 4.0, np.nan]])
    figure = figures.curves({"MSE": values, "other": values[:1]}, "training loss", log=True)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "training loss")
    first, second = axes.lines
    np.testing.assert_array_equal(first.get_xydata(), [[1, 6], [2, 3], [3, 1]])
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (1, 8)
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["MSE, 2 seeds", "other, 1 seed"]


def test_confusion_shows_every_count_and_the_accuracy():
    matrix = np.array([[90, 10], [0, 0]])
    (axes,) = figures.confusion(matrix, ("cat", "dog")).axes
    assert [text.get_text() for text in axes.texts] == ["90", "10", "0", "0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert axes.get_title() == "accuracy 90.00 % on 100 images"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_misread_images_most_confident_first():
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    labels = np.array([0, 1, 2, 3], np.uint8)
    probabilities = np.full((4, 10), 0.01)
    probabilities[[0, 1, 2, 3], [0, 7, 8, 9]] = 0.91, 0.6, 0.9999, 0.91
    figure = figures.misread(images, labels, probabilities, NAMES, rows=1, columns=2)
    assert figure.get_suptitle() == "3 of 4 images misread, the most confident first"
    titles = ["2, read as\n8 (> 99.9 %)", "3, read as\n9 (91.0 %)"]
    assert [axes.get_title() for axes in figure.axes] == titles
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[2])


def test_nothing_misread_is_said():
    figure = figures.misread(np.zeros((1, 3, 3)), np.array([0]), np.eye(10)[:1], NAMES)
    assert figure.get_suptitle().startswith("0 of 1 images misread")
    assert figure.axes == []


def test_png_files_are_the_same_every_time(disk, tmp_path):
    x, y = disk
    for name in ("a.png", "b.png"):
        figures.save(figures.points(x, y, RADIUS), tmp_path / name)
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert written == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in written.lower()


def test_without_matplotlib_one_sentence_says_how_to_get_it(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import experiments.figures"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "ModuleNotFoundError: the figures need matplotlib: pip install 'funcnet[plots]'\n"
    )
