"""Whom a file is of, as a word that leads back to nobody without the workspace's secret key.

The same words give the same person, whether a file or a table says them; upper and lower case, spaces and the carets of a
DICOM name are not told apart. Left out: who issued an identifier, so two hospitals' "1234" are one person to us.
"""

from __future__ import annotations

import hashlib
import hmac
import re

# What stands where an identifier was taken away: everybody has it, so it tells nobody apart.
NOBODY = {
    "anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "de-identified", "id", "n/a", "na", "nan", "name",
    "no name", "nobody", "none", "null", "patient", "removed", "test", "unknown", "x", "xx", "xxx", "xxxx", "0", "00", "000",
    "0000", "-", "--", "?",
}  # fmt: skip
DIGITS = 16  # hexadecimal: a billion patients share one with a chance of 3 %


def person(key: bytes, identifier: str, name: str = "", born: str = "") -> str:
    """16 hexadecimal digits, "" where nothing is said. name and born : count only where there is no identifier."""
    told = _plain(identifier)
    if told in NOBODY or not told:
        told = _plain(name)
        if told in NOBODY or not told:
            return ""
        told = f"{told}\n{_plain(born)}"
    return hmac.new(key, told.encode(), hashlib.sha256).hexdigest()[:DIGITS]


def _plain(words: str) -> str:
    return " ".join(re.sub(r"[\s\0^]+", " ", words).casefold().split())
