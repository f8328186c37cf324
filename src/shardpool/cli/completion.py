"""`completion`: the script that makes a shell complete our commands and names."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell; names of shards, keyspaces and tables are completed too.

    \b
    bash: eval "$(shardpool completion bash)"
    zsh:  eval "$(shardpool completion zsh)"
    fish: shardpool completion fish | source
    """
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(ctx.find_root().command, {}, "shardpool", "_SHARDPOOL_COMPLETE").source())
