#!/bin/bash
# Runs a streaming replica of PRIMARY_HOST: copies it when the volume is empty, then starts what the arguments say.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root. The folder of the major version is not in the image, so it is made here.
    install --directory --owner=postgres --group=postgres --mode=0700 "$(dirname "$PGDATA")"
    exec gosu postgres bash "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Copied beside and renamed, so that an interrupted copy is never taken for a whole one.
    rm -rf "$PGDATA" "$PGDATA.copy"
    PGPASSWORD="$POSTGRES_PASSWORD" pg_basebackup --no-password --host="$PRIMARY_HOST" --username=replicator \
        --pgdata="$PGDATA.copy" --wal-method=stream --slot=replica --write-recovery-conf --checkpoint=fast
    mv "$PGDATA.copy" "$PGDATA"
fi

exec "$@"
