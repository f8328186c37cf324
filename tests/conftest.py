"""What holds for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# The commands that are tested write to pipes, and whoever reads those has not set it.
os.environ.pop("PYTHONUNBUFFERED", None)
# The commands that are tested find what was compiled before: to compile the package takes longer than most of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What a shell starts in the background ignores interrupts, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes is the machine's affair.
settings.register_profile("shardpool", deadline=None)
settings.load_profile("shardpool")
