"""`baseline`, `verify`, `drift`, `repair`, `provision`: the fleet's schema as it is."""

from __future__ import annotations

import click

from ..app import FAILURE
from ..options import json_option, shards, topology_option
from ..output import print_json
from .options import folder_option, run, shard_option


@click.command()
@folder_option
@shard_option
@click.option("--from", "tool", type=click.Choice(["dbmate", "alembic", "django"]), help="Whose history is taken over.")
@click.option("--to", metavar="VERSION", help="The files up to this one.")
@topology_option
@json_option
@click.pass_context
def baseline(
    ctx: click.Context,
    folder: str | None,
    shard_names: tuple[str, ...],
    tool: str | None,
    to: str | None,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Mark migrations as applied without running them: for a fleet whose schema is there already.

    Without --from all files, or those up to --to. With --from dbmate the files that its table schema_migrations names.
    With --from alembic or django their history is taken over, and with --to files are marked too.
    """
    done = run(ctx, topology_file, lambda m: m.baseline(folder, tool=tool, to=to, shards=shard_names or None))
    if as_json:
        print_json({"shards": done})
        return
    for shard, versions in done.items():
        click.echo(f"{shard}: {len(versions)} marked")


@click.command()
@folder_option
@shard_option
@topology_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, folder: str | None, shard_names: tuple[str, ...], topology_file: str | None, as_json: bool
) -> None:
    """Ask every shard whether what is applied still holds.

    Compares files and records, runs every `-- shard-verify:` query, and looks for invalid indexes. Exits with 1 when
    something is wrong.
    """
    report = run(ctx, topology_file, lambda m: m.verify(folder, shards=shard_names or None))
    if as_json:
        print_json(report.as_dict())
    else:
        for finding in report.findings:
            click.echo(str(finding))
    ctx.exit(0 if report.ok else FAILURE)


@click.command()
@shard_option
@click.option(
    "--reference",
    metavar="SHARD",
    shell_complete=shards,
    help="The shard that is right. [default: of each object what most shards have]",
)
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Names that do not count, as tmp_*; may be repeated.")
@topology_option
@json_option
@click.pass_context
def drift(
    ctx: click.Context,
    shard_names: tuple[str, ...],
    reference: str | None,
    ignore: tuple[str, ...],
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Compare the schemas of the shards, and name every object that differs.

    Single tables are left out. Exits with 1 when there is a difference, or a shard does not answer.
    """
    differences = run(
        ctx, topology_file, lambda m: m.drift(reference=reference, shards=shard_names or None, ignore=ignore)
    )
    if as_json:
        print_json(differences.as_dict())
    else:
        for shard, error in differences.unreached.items():
            click.echo(f"{shard}: {error}")
        for difference in differences.differences:
            click.echo(str(difference))
        alike = len(set(differences.digests.values()))
        what = "alike" if alike == 1 else f"of {alike} kinds, {len(differences.differences)} differences"
        click.echo(f"{len(differences.digests)} schemas, {what}")
    ctx.exit(0 if differences.ok else FAILURE)


@click.command()
@folder_option
@shard_option
@click.option("--accept", multiple=True, metavar="VERSION", help="Its file as it is now is what was applied.")
@click.option("--forget", multiple=True, metavar="VERSION", help="Remove its record, and nothing else.")
@click.option("--step-done", multiple=True, metavar="VERSION", help="The step whose end is not known was done.")
@click.option("--step-again", multiple=True, metavar="VERSION", help="That step was not done: `up` runs it again.")
@click.option("--indexes", is_flag=True, help="Build invalid indexes again.")
@topology_option
@json_option
@click.pass_context
def repair(
    ctx: click.Context,
    folder: str | None,
    shard_names: tuple[str, ...],
    accept: tuple[str, ...],
    forget: tuple[str, ...],
    step_done: tuple[str, ...],
    step_again: tuple[str, ...],
    indexes: bool,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Put records right, on all shards or on those named, when you have looked; and mend invalid indexes."""
    from ...schema import Repair

    wanted = Repair(accept, forget, step_done, step_again, indexes)
    if wanted.is_empty:
        raise click.UsageError("say what: --accept, --forget, --step-done, --step-again or --indexes")
    done = run(ctx, topology_file, lambda m: m.repair(wanted, folder, shards=shard_names or None))
    if as_json:
        print_json({"shards": done})
        return
    for shard, what in done.items():
        click.echo(f"{shard}: {', '.join(what) or 'nothing to do'}")


@click.command()
@click.argument("shard", shell_complete=shards)
@click.option("--like", metavar="SHARD", shell_complete=shards, help="The shard to be like. [default: the first other]")
@click.option("--pg-dump", metavar="PROGRAM", help="pg_dump of the servers' version or later. [default: on the PATH]")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Names that do not count, as tmp_*; may be repeated.")
@topology_option
@json_option
@click.pass_context
def provision(
    ctx: click.Context,
    shard: str,
    like: str | None,
    pg_dump: str | None,
    ignore: tuple[str, ...],
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Make a new, empty SHARD like another one: schema, reference tables, records; then compare the two.

    The shard is in the topology, owns no bucket yet, and has had `shardpool init`. All is done, or nothing.
    """
    program = pg_dump or _embedded()
    rows = run(ctx, topology_file, lambda m: m.provision(shard, like=like, pg_dump=program, ignore=ignore))
    if as_json:
        print_json({"shard": shard, "rows": rows})
    else:
        click.echo(f"{shard} has the schema of {like or 'the first other shard'}, and {rows} rows of reference tables")


def _embedded() -> str | None:
    """The program that comes with the extra `local`, when that is installed: it is of the newest version."""
    from ...errors import LocalError
    from ...local.binaries import find_binaries

    try:
        return find_binaries().program("pg_dump")
    except LocalError:
        return None
