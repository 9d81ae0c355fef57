"""Texts as tokens, a character each: seven plays by Shakespeare, or a file of one's own."""

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from funcnet.errors import DataError

PLAYS = Path(__file__).parent / "data" / "shakespeare" / "plays.txt.gz"
SHA256 = "ff287e84d90306d1067ea3df970e4268ad48579da6dc8b8dc554bd86aca47442"

Tokens = Int32[np.ndarray, " characters"]


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """The characters of a text, in order: token i stands for characters[i]."""

    characters: str

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tokens:
        """The tokens of a text; DataError where a character is none of ours."""
        places = {character: place for place, character in enumerate(self.characters)}
        unknown = sorted(set(text) - set(places))
        if unknown:
            raise DataError(
                f"the text has {unknown[0]!r}, which the network has never seen; expected the "
                f"characters {self.characters!r}"
            )
        return np.array([places[character] for character in text], np.int32)

    def decode(self, tokens: Tokens) -> str:
        """The text of these tokens."""
        return "".join(self.characters[token] for token in tokens)


def read(path: Path | None = None, characters: int | None = None) -> str:
    """Return a text, or its first characters.

    Args:
        path: a file in UTF-8; None for the plays.
        characters: how many; None for all.

    Raises:
        OSError: the file can't be read.
        DataError: it is no text, or the plays are damaged.
    """
    if path is None:
        data = gzip.decompress(PLAYS.read_bytes())
        if (found := hashlib.sha256(data).hexdigest()) != SHA256:
            raise DataError(f"{PLAYS}: damaged, its sha256 is {found}; get a fresh copy")
    else:
        data = path.read_bytes()
    try:
        return data.decode()[:characters]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error}); convert it") from error


def split(tokens: Tokens, context: int) -> tuple[Tokens, Tokens]:
    """The first nine tenths of a text to train on, and the rest to validate on.

    Raises:
        DataError: either is too short for one window and the character behind it.
    """
    end = len(tokens) * 9 // 10
    if len(tokens) - end <= context:
        raise DataError(
            f"the text has {len(tokens)} characters, expected more than {10 * context}: a tenth "
            f"is kept to validate on, and must be longer than --context {context}"
        )
    return tokens[:end], tokens[end:]
