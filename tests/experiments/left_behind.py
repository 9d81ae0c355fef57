"""What an experiment leaves, to compare two of them."""

import json
from pathlib import Path
from typing import Any


def content(out: Path) -> tuple[dict[str, bytes], Any]:
    """The files in its folder by name, and its record, both without times and places."""
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    del files["table.md"]  # it shows the times
    record = json.loads(files.pop("results.json"))
    for finished in record["runs"]:
        del finished["seconds"], finished["compile_seconds"]
    del record["config"]["out"]
    return files, record
