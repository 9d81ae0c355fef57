"""What a wheel says of the project: with an address and, until there is one, without."""

import shutil
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from trove_classifiers import classifiers

import funcnet as fn

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()


def metadata(folder: Path):
    return ProjectMetadata(str(folder), PluginManager()).core


@pytest.fixture
def addressed(tmp_path):
    """A copy of what the metadata are made of, with an address."""
    for name in ("README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "funcnet").mkdir()
    shutil.copy(ROOT / "funcnet" / "__init__.py", tmp_path / "funcnet")
    assert PROJECT.count('\naddress = ""\n') == 1
    with_address = PROJECT.replace('address = ""', 'address = "https://example.org/me/funcnet/"')
    (tmp_path / "pyproject.toml").write_text(with_address)
    return tmp_path


def test_without_an_address_there_are_no_urls_and_no_dead_links():
    found = metadata(ROOT)
    assert found.version == fn.__version__
    assert found.urls == {}
    assert "](docs/" not in found.readme
    assert "[JAX](https://docs.jax.dev)" in found.readme
    assert "goes on from its last checkpoint" in found.readme


def test_with_an_address_all_urls_and_links_come_from_it(addressed):
    found = metadata(addressed)
    assert found.urls["Homepage"] == "https://example.org/me/funcnet"
    assert found.urls["Issues"] == "https://example.org/me/funcnet/issues"
    assert "](https://example.org/me/funcnet/blob/main/docs/guide.md)" in found.readme
    assert "](docs/" not in found.readme


def test_classifiers_are_known_and_name_each_python():
    found = metadata(ROOT)
    assert set(found.classifiers) <= classifiers
    assert "Typing :: Typed" in found.classifiers
    assert found.requires_python == ">=3.11"


def test_each_extra_is_explained():
    page = (ROOT / "docs" / "install.md").read_text()
    for extra in metadata(ROOT).optional_dependencies:
        assert f"| `{extra}` |" in page, extra
