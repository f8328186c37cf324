#!/bin/bash
# Starts PostgreSQL as the official image does, as far as its documentation goes and our files use it:
# https://hub.docker.com/_/postgres (environment variables, initialization scripts, arbitrary --user).
set -euo pipefail

main() {
    if [ "${1:0:1}" = - ]; then
        set -- postgres "$@"
    fi
    if [ "$1" != postgres ]; then
        exec "$@"
    fi
    if [ "$(id -u)" = 0 ]; then
        install --directory --owner=postgres --group=postgres --mode=0700 "$PGDATA"
        find "$PGDATA" \! -user postgres -exec chown postgres:postgres {} +
        exec gosu postgres "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        read_settings
        create_database "$@"
    fi
    exec "$@"
}

read_settings() {
    from_file POSTGRES_PASSWORD
    from_file POSTGRES_USER
    from_file POSTGRES_DB
    from_file POSTGRES_INITDB_ARGS
    export POSTGRES_PASSWORD="${POSTGRES_PASSWORD:-}"
    export POSTGRES_USER="${POSTGRES_USER:-postgres}"
    export POSTGRES_DB="${POSTGRES_DB:-$POSTGRES_USER}"
    if [ -z "$POSTGRES_PASSWORD" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
        echo "POSTGRES_PASSWORD is not set: the superuser $POSTGRES_USER needs a password" >&2
        exit 1
    fi
}

# A variable may be given as NAME_FILE, the path of a file that holds its value.
from_file() {
    local name="$1" file="$1_FILE"
    if [ -n "${!name:-}" ] && [ -n "${!file:-}" ]; then
        echo "both $name and $file are set: give one" >&2
        exit 1
    fi
    if [ -n "${!file:-}" ]; then
        export "$name"="$(< "${!file}")"
    fi
    unset "$file"
}

# In a cluster that is being made nobody but the scripts may connect, so it listens on its socket only.
create_database() {
    local method="${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}"
    eval "initdb --username=\"\$POSTGRES_USER\" --pgdata=\"\$PGDATA\" ${POSTGRES_INITDB_ARGS:-}" \
        --pwfile='<(printf "%s\n" "$POSTGRES_PASSWORD")'
    printf '\nhost all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"

    shift
    PGUSER="$POSTGRES_USER" pg_ctl --pgdata="$PGDATA" --wait start \
        --options="$(printf '%q ' "$@" -c listen_addresses= -p 5432)"
    if [ "$POSTGRES_DB" != postgres ]; then
        printf 'create database :"db";\n' | run_sql --dbname=postgres --set=db="$POSTGRES_DB"
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        run_script "$file"
    done
    PGUSER="$POSTGRES_USER" pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
}

run_sql() {
    PGHOST='' PGHOSTADDR='' psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --no-password --no-psqlrc "$@"
}

run_script() {
    case "$1" in
        *.sh) if [ -x "$1" ]; then "$1"; else . "$1"; fi ;;
        *.sql) run_sql --dbname="$POSTGRES_DB" --file="$1" ;;
        *.sql.gz) gunzip --stdout "$1" | run_sql --dbname="$POSTGRES_DB" ;;
        *'*') ;;
        *) echo "$1 is left out: it is no .sh, .sql or .sql.gz" ;;
    esac
}

main "$@"
