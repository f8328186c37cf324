"""What the library says to who writes Python, said to who types commands. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

# Under this name a command's context has what its deadline was given by.
DEADLINE = "shardpool.deadline"
# What a hint of the library holds → what it is on the command line, the longer first.
_WORDS = (
    (r"pass key=…, and let the shards", "give --key KEY, and let the shards"),
    (r"Name the shards that are well with shards=\[…\] to leave the others out\.", "Ask others alone by --shard NAME."),
    (r"name the shard with shard\(name\)\.execute\(\)", "--shard NAME"),
    (r"[Nn]ame the shard: shard\(name\)\.execute\(\)", "--shard NAME"),
    (r"one with shard\(name\)\.execute\(\)", "one with --shard NAME"),
    (r"shard\(name\)(?:\.execute\(\))?", "--shard NAME"),
    (r"[Cc]all execute\(\) once for each", "Run each by itself"),
    (r"Call reload\(\), with", "Use"),
    (r"Call for_key\(\) again for the key\.", "Run it again."),
    (r"for_keys\(\) tells which those are", "`shardpool route` tells which those are"),
    (r"Run it with execute\(\)", "Run it with `shardpool query`"),
    (r"[Ii]nsert them with execute\(\)", "Insert them with `shardpool query`"),
    (
        r"Read the rows with execute\(\), and write them with copy_into\(\)",
        "Read the rows with `shardpool query --csv`, and write them with `shardpool load`",
    ),
    (r", or execute\(\) without a key", ", or leave --key out"),
    (r"Use for_keys\(\) for single keys, or scatter\(\) to ask every shard", "Use --all-shards to ask every shard"),
    (r"copy_into\(\)", "`shardpool load`"),
    (r"with scatter\(\)", "with --all-shards"),
    (r"scatter\(\)", "--all-shards"),
    (r"See check\(\) for the whole fleet", "See `shardpool check` for the whole fleet"),
    (r"check\(\)", "`shardpool check`"),
    (r"Pass keyspace=… or table=…", "Give --keyspace or --table"),
    (r"Pass key=…", "Give --key KEY"),
    (r"pass key=…", "give --key KEY"),
    (r"give key=…", "give --key KEY"),
    (r"Give it more time with timeout=…", "Give it more time with --timeout SECONDS"),
    (r"timeout=…", "--timeout SECONDS"),
    (r"add it to columns=\[…\] and to each row", "add it to the file, and to --columns"),
    (r"fanout='(\w+)'", r"--fanout \1"),
    (r", or raise max_pull_rows", ""),
    (r"Pass a tuple \(([^)]*)\)\.", r"Give its parts as a JSON array: [\1]."),
    (r"[Pp]ass its value as a parameter", "Pass its value as a parameter: -p VALUE"),
)


def in_commands(text: str) -> str:
    """A hint of the library with the options of the command line in the place of arguments and methods."""
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text


def at_prompt(text: str) -> str:
    """The same for `shardpool shell`, where commands begin with a backslash."""
    text = in_commands(text)
    for option, command in (
        ("--key KEY", "\\shard NAME"),
        ("--shard NAME", "\\shard NAME"),
        ("--all-shards", "\\each"),
    ):
        text = text.replace(option, command)
    return text


def say(error: BaseException, words: Callable[[str], str]) -> None:
    """Put the hint of an error in these words; twice does nothing more."""
    if getattr(error, "hint", None):
        error.hint = words(error.hint)  # type: ignore[attr-defined]


def say_at_prompt(error: BaseException) -> None:
    say(error, at_prompt)


def say_which_deadline(error: BaseException, which: str | None) -> None:
    """Where a deadline has passed, add to the hint which one that was, and how there is more time."""
    from ..errors import DeadlineExceeded

    failures = getattr(error, "failures", None)
    errors = [error, *(failures.values() if isinstance(failures, Mapping) else ())]
    if which is None or not any(isinstance(each, DeadlineExceeded) for each in errors):
        return
    hint = getattr(error, "hint", None) or ""
    more = "" if "timeout" in hint else " Give it more time with --timeout SECONDS."
    error.hint = f"{hint} The deadline was {which}.{more}".strip()  # type: ignore[attr-defined]
