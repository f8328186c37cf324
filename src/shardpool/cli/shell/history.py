"""Which statements a history file may hold, and the file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...local.state import home, make_private

# Words that go with a secret, and the password of a URL. A statement too many left out does no harm.
_SECRET = re.compile(
    r"passw(?:or)?d|\bpwd\b|secret|api_?key|token|scram-sha-256\$|\bmd5[0-9a-f]{32}\b|://[^/\s:@]*:[^@\s]+@",
    re.IGNORECASE,
)


def may_be_saved(text: str) -> bool:
    """Whether nothing in the text looks like a password."""
    return _SECRET.search(text) is None


def history_file() -> Path:
    """The file, which only its owner can read, in the folder where local fleets are written down too."""
    path = make_private(home()) / ".shell_history"
    # Not touch(): the mode has to hold from the first moment, and a link that leads elsewhere is not followed.
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return path
