"""`python -m shardpool` is the command `shardpool`."""

from .cli import main

main()
