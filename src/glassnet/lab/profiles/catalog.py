"""Where profiles are found: those that come with glassnet, and files of a user."""

from __future__ import annotations

import difflib
from pathlib import Path

from glassnet.lab.profiles.model import Profile
from glassnet.lab.profiles.reading import read
from glassnet.net.errors import UsageError

_PLACE = Path(__file__).parent
SUFFIX = ".yaml"


def names() -> list[str]:
    """The profiles that come with glassnet: hardway first, the others by name."""
    found = sorted(path.stem for path in _PLACE.glob(f"*{SUFFIX}"))
    return sorted(found, key=lambda name: name != "hardway")


def text_of(word: str) -> tuple[str, str]:
    """The text of a profile, and the file's name for errors. `word` is a name, or a path (one with a / or a suffix). Raises UsageError."""
    if word in names():
        path = _PLACE / f"{word}{SUFFIX}"
    elif "/" in word or word.endswith((SUFFIX, ".yml")):
        path = Path(word)
    else:
        close = difflib.get_close_matches(word, names(), 1)
        raise UsageError(
            f"--profile {word}: there is none of this name{f'; did you mean {close[0]}?' if close else '.'} There are {', '.join(names())}; "
            f"a file of yours is given as ./{word or 'my'}{SUFFIX}"
        )
    try:
        return path.read_text(), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--profile {word}: {getattr(error, 'strerror', None) or error}") from None


def load(word: str) -> Profile:
    """The profile of this name, or of this file. Raises UsageError, ParseError with file and line."""
    return read(*text_of(word))
