"""`serve`: health and metrics of the fleet over HTTP."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from .options import Seconds, topology_option, topology_path

_DEFAULT = "127.0.0.1:9188"


# It takes no type argument when it runs before click 8.4.
if TYPE_CHECKING:
    _ParamType = click.ParamType[str | int]
else:
    _ParamType = click.ParamType


class _QuorumType(_ParamType):
    name = "quorum"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        if value in ("all", "majority"):
            return value
        with suppress(ValueError):
            if int(value) >= 1:
                return int(value)
        self.fail(f"{value!r} is not a number above 0, all or majority", param, ctx)
        return None


@click.command()
@topology_option
@click.option("--listen", default=_DEFAULT, show_default=True, metavar="HOST:PORT", help="Where; port 0 is a free one.")
@click.option(
    "--quorum",
    type=_QuorumType(),
    default="majority",
    show_default=True,
    metavar="N|all|majority",
    help="How many shards have to answer for /readyz to say 200.",
)
@click.option(
    "--token",
    envvar="SHARDPOOL_TOKEN",
    show_envvar=True,
    metavar="TEXT",
    help="Ask clients for this, as `Authorization: Bearer TEXT`; needed on another address than loopback.",
)
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A name that clients call it by; may be repeated.")
@click.option(
    "--timeout",
    type=Seconds(0.05, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="For a shard to answer.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    topology_file: str | None,
    listen: str,
    quorum: str | int,
    token: str | None,
    hosts: tuple[str, ...],
    timeout: float,
) -> None:
    """Tell over HTTP how the fleet is, until it is interrupted.

    /healthz: this process lives. /readyz: a quorum of the shards answers, else 503; each shard in JSON. /metrics: for
    Prometheus, when the extra shardpool[prometheus] is installed; they are those of this process, whose pools only ask
    for health. A service shows its own with shardpool.serving.Health in its own process.

    On another address than loopback a token is needed: set SHARDPOOL_TOKEN rather than --token, which others see in
    the list of processes.
    """
    from .. import Router
    from ..serving import Health

    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ending.set())
    with Router(topology_path(ctx, topology_file)) as router:
        health = Health(router, quorum=quorum, listen=listen, token=token, hosts=hosts, timeout=timeout)
        with health:
            click.echo(f"http://{health.address}: /healthz, /readyz, /metrics")
            ending.wait()
