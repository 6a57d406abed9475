"""Errors that a user can act on: one line, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable


class AnySceneError(Exception):
    """A user's mistake. The message is one line: the thing, its value and the fix."""


class ConfigError(AnySceneError):
    """A configuration key, value or combination of values that cannot work."""


class InputError(AnySceneError):
    """A file, folder or argument that is missing or of the wrong form."""


class DamageError(Exception):
    """Data that was read but is damaged; commands that meet it end with exit code 1."""


class LostRankError(DamageError):
    """Ranks that do not answer or cannot reach each other, which another start may find well."""


class RunFailedError(Exception):
    """A run that cannot go on as it is; the command ends with exit code 1."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the candidate nearest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
