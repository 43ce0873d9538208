"""The one exception that stands for a mistake a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a file, a key or a flag, told in one line: what, where, what was expected, what was found.

    Programs print it as `error: ...` and exit with code 2; libraries may catch it.
    """
