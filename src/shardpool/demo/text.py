"""The report of the demo as text for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.markup import escape

from .loading import MIGRATIONS
from .report import Carrier, DemoReport, DemoTable, Expectation, Findings

_BAR = 40
_CARRIERS = 5


def lines(report: DemoReport) -> Iterator[str]:
    """The lines of the report, with rich's markup."""
    findings = report.findings
    yield from _section("Rows per shard", _tables(findings))
    yield from _section("By key, by range, in a batch", _answers(findings))
    yield from _section("Flights by carrier, added over all shards", _carriers(findings.carriers))
    yield from _section("Shards against files", map(_expectation, findings.expectations))
    yield ""
    verdict = "[green]every number is the file's[/]" if report.ok else "[red]some numbers are not the file's[/]"
    yield f"{verdict}, {report.seconds:.1f} s in all"
    if report.topology:
        yield from _next_commands(report)


def _section(title: str, body: Iterator[str]) -> Iterator[str]:
    yield ""
    yield f"[bold]{title}[/]"
    for line in body:
        yield f"  {line}"


def _tables(findings: Findings) -> Iterator[str]:
    for table in findings.tables:
        if table.placement == "reference":
            copies = len(table.rows_by_shard)
            yield f"{table.name:<10}{table.rows_read:>9,}  reference: a copy on each of {copies} shards"
        else:
            yield from _bars(table)
    no_tail = findings.no_tail
    yield f"{no_tail.flights:,} flights have no tail number in the file ({no_tail.departed:,} of them departed):"
    yield f"they are under the key '{no_tail.key}', pinned to {no_tail.shard} in a bucket of its own"


def _bars(table: DemoTable) -> Iterator[str]:
    yield f"{table.name:<10}{table.rows_read:>9,}  {table.placement}"
    longest = max(table.rows_by_shard.values()) or 1
    for shard, count in table.rows_by_shard.items():
        bar = "█" * round(_BAR * count / longest)
        yield f"  {shard:<8}{count:>9,}  [cyan]{bar}[/]"


def _answers(findings: Findings) -> Iterator[str]:
    plane, times, period, batch = findings.plane, findings.lookups, findings.period, findings.batch
    means = ", ".join(f"{origin} {mean:.1f} °F" for origin, mean in period.temperature_by_origin.items())
    yield f"{'join by key':<14}{plane.tailnum} → bucket {plane.bucket} of tails → {plane.shard}, its flights with it"
    yield f"{'':<14}{escape(plane.description)}: {plane.flights:,} flights, {plane.miles:,} miles"
    yield f"{'look-up':<14}route {times.route_us:.1f} µs" + (
        f"; with the answer {times.median_ms:.2f} ms (median), {times.p99_ms:.2f} ms (p99)"
    )
    yield f"{'range':<14}{period.first} to {period.last} → {' '.join(period.shards)}: {period.hours:,} hours of weather"
    yield f"{'':<14}{means}"
    yield f"{'batch':<14}{batch.items:,} transactions, {batch.per_second:,.0f} per second"


def _carriers(carriers: tuple[Carrier, ...]) -> Iterator[str]:
    for carrier in carriers[:_CARRIERS]:
        delay = "" if carrier.delay is None else f"  {carrier.delay:+5.1f} min on arrival"
        yield f"{escape(carrier.name):<28}{carrier.flights:>8,}{delay}"
    rest = carriers[_CARRIERS:]
    if rest:
        yield f"{f'{len(rest)} others':<28}{sum(carrier.flights for carrier in rest):>8,}"


def _expectation(one: Expectation) -> str:
    mark = "[green]✓[/]" if one.ok else "[red]✗[/]"
    return f"{mark} {one.what:<52}{one.found:>9,}" + ("" if one.ok else f"  expected {one.expected:,}")


def _next_commands(report: DemoReport) -> Iterator[str]:
    tailnum = report.findings.plane.tailnum
    yield ""
    yield f"The servers of fleet {report.fleet} stay up. Try:"
    yield f"  export SHARDPOOL_TOPOLOGY={escape(shlex.quote(report.topology or ''))}"
    yield f"  shardpool route {tailnum} --keyspace tails"
    yield f"  shardpool query --keyspace tails --key {tailnum} \"select * from planes where tailnum = '{tailnum}'\""
    yield '  shardpool query --all-shards "select count(*) from flights"'
    yield "  shardpool check"
    yield f"  shardpool migrate status --all --dir {escape(shlex.quote(str(MIGRATIONS)))}"
    yield f"  shardpool local down --name {report.fleet}"
