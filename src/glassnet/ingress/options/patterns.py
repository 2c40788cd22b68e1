"""Regular expressions of users: those that Python's and NGINX's engines (PCRE) read alike, and nothing else."""

from __future__ import annotations

import re

from glassnet.ingress.options.reading import Reader

LONGEST = 1000
_STRANGE = re.compile(r"""
    (?<!\\)(?:\\\\)*          # not behind a backslash
    (?: \(\?(?![:=!i]|<[=!])  # groups with names, comments, conditions, code
      | \(\*                  # verbs
      | \\[^\w\s]?[A-CE-RT-VX-Zac-eg-mopqu-z1-9]  # escapes of one engine, references
      | [*+?}][+] )           # possessive quantifiers
""", re.VERBOSE)  # fmt: skip


def check(text: str) -> str:
    """The expression itself. Raises ValueError with the reason for one that does not do."""
    if len(text) > LONGEST or not text.isprintable():
        raise ValueError(f"longer than {LONGEST} characters, or with control characters")
    if found := _STRANGE.search(text):
        raise ValueError(f"{found[0]!r} is not taken here")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return text


def read(annotations: Reader, name: str) -> str:
    """An annotation that is a regular expression; "" when it is not given."""
    return annotations.take(name, check, "", "give a regular expression without names, references and possessive quantifiers")  # fmt: skip
