"""The wheel's metadata that depends on the project's address, which pyproject.toml has once.

With `address` under [tool.hatch.metadata.hooks.custom] the wheel has URLs, and the links of the
readme are absolute. While it is empty there are no URLs, and the readme's links to files of the
repository, which lead nowhere on an index, are left out: their text stays.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# [text](target), but for a target that is absolute already or a place on the same page.
RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)]+)\)")
URLS = {
    "Homepage": "",
    "Documentation": "/blob/main/docs/guide.md",
    "Issues": "/issues",
    "Changes": "/blob/main/CHANGELOG.md",
}


def readme(text: str, address: str) -> str:
    """The readme as an index shows it."""
    to = rf"[\1]({address}/blob/main/\2)" if address else r"\1"
    return RELATIVE_LINK.sub(to, text)


def urls(address: str) -> dict[str, str]:
    """Where to find what, by title."""
    return {title: address + path for title, path in URLS.items()} if address else {}


class Address(MetadataHookInterface):
    """Adds `readme` and `urls`."""

    def update(self, metadata: dict) -> None:
        """Called by hatchling when a wheel is built or the project installed."""
        address = self.config["address"].rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme(text, address)}
        metadata["urls"] = urls(address)
