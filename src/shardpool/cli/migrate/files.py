"""`new` and `lint`: the files alone; no shard is asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..app import FAILURE
from ..options import json_option, topology_path
from ..output import print_json
from .options import folder_option

if TYPE_CHECKING:
    from ...topology import Topology


@click.command()
@click.argument("name")
@click.option("--no-transaction", is_flag=True, help="For statements such as CREATE INDEX CONCURRENTLY.")
@folder_option
def new(name: str, no_transaction: bool, folder: str | None) -> None:
    """Make an empty migration NAME, with the time as its version, and add it to migrations.sum."""
    from ...schema.files import read_folder
    from ...schema.migrations import default_folder
    from ...schema.sums import FILE, sum_text

    place = Path(folder) if folder else default_folder()
    place.mkdir(parents=True, exist_ok=True)
    before = read_folder(place)
    latest = int(before.migrations[-1].version) if before.migrations else 0
    version = max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), latest + 1)
    words = re.sub(r"\W+", "_", name.strip().lower()).strip("_")
    if not words:
        raise click.UsageError("the name has no letter")
    file = place / f"{version}_{words}.sql"
    option = " transaction:false" if no_transaction else ""
    file.write_text(f"-- migrate:up{option}\n\n-- migrate:down{option}\n", encoding="utf-8")
    # A folder of dbmate without a sum file stays one.
    if before.has_sum or not before.migrations:
        if before.sum_problems:
            click.echo(f"{FILE} was left as it is: {before.sum_problems[0]}", err=True)
        else:
            after = read_folder(place)
            (place / FILE).write_text(sum_text({m.file: m.checksum for m in after.migrations}), encoding="utf-8")
    click.echo(str(file))


@click.command()
@folder_option
@click.option("--write-sum", is_flag=True, help="Write migrations.sum anew, when you have looked at what was changed.")
@click.option("--squawk/--no-squawk", default=None, help="Also run squawk. [default: when it is installed]")
@json_option
@click.pass_context
def lint(ctx: click.Context, folder: str | None, write_sum: bool, squawk: bool | None, as_json: bool) -> None:
    """Look for what is wrong or dangerous in the files, with squawk too when it is installed.

    With a topology also for rows that every shard would write anew, or each copy of a reference table otherwise.

    A line `-- squawk-ignore RULE` silences a rule of squawk for the next statement. Exits with 1 when there are errors.
    """
    from ...schema.files import read_folder
    from ...schema.lint import lint as lint_folder
    from ...schema.lint import squawk_findings
    from ...schema.migrations import default_folder
    from ...schema.sums import FILE, sum_text

    place = Path(folder) if folder else default_folder()
    files = read_folder(place)
    if write_sum:
        (place / FILE).write_text(sum_text({m.file: m.checksum for m in files.migrations}), encoding="utf-8")
        files = read_folder(place)
    findings = [*lint_folder(files, _topology(ctx)), *squawk_findings(files, squawk)]
    findings.sort(key=lambda finding: (finding.file, finding.line))
    errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        print_json({"ok": not errors, "findings": [finding.as_dict() for finding in findings]})
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(f"{len(files.migrations)} migrations: {errors} errors, {len(findings) - errors} warnings")
    ctx.exit(FAILURE if errors else 0)


def _topology(ctx: click.Context) -> Topology | None:
    """The topology, by which it is seen what becomes of rows; None where there is none."""
    from ...config import load_topology
    from ...errors import ShardpoolError

    try:
        return load_topology(topology_path(ctx, None))
    except (click.UsageError, ShardpoolError):
        return None
