"""The tables show means and spreads beside the paper's numbers."""

from experiments import tables
from experiments.results import Run


def test_disk_beside_tables_one_and_two():
    runs = [
        Run("funcnet", "mse", 0, 0.99, 0.97, 0.25, 1.0, f1_train=0.9, f1_test=0.8),
        Run("torch", "mse", 0, 1.0, 0.98, 12.0, 0.0, f1_train=1.0, f1_test=0.9),
        Run("funcnet", "mse", 1, 0.97, 0.99, 0.35, 1.0, f1_train=1.0, f1_test=0.7),
    ]
    assert tables.render(runs, tables.DISK) == (
        "|                |    MSE, funcnet | paper, Table I | MSE, PyTorch | paper, Table II |\n"
        "| -------------- | --------------: | -------------: | -----------: | --------------: |\n"
        "| training time  | 0.300 ± 0.071 s |        14.00 s |      12.00 s |         15.63 s |\n"
        "| accuracy train |  98.00 ± 1.41 % |        99.69 % |     100.00 % |         99.75 % |\n"
        "| F1 train       |   0.950 ± 0.071 |          0.987 |        1.000 |           0.990 |\n"
        "| accuracy test  |  98.00 ± 1.41 % |        98.20 % |      98.00 % |         98.19 % |\n"
        "| F1 test        |   0.750 ± 0.071 |          0.938 |        0.900 |           0.936 |\n"
    )


def test_ten_classes_have_no_f1():
    table = tables.render([Run("funcnet", "cross_entropy", 0, 1.0, 0.955, 30.0, 1.0)], tables.MNIST)
    assert "F1" not in table
    assert "paper, Table III" in table
    assert "95.08 %" in table


def test_what_the_paper_has_not_measured_stands_alone():
    table = tables.render([Run("funcnet", "cross_entropy", 0, 0.9, 0.8, 30.0, 1.0)], {})
    assert "paper" not in table
    assert "80.00 %" in table
