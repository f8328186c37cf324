#!/bin/bash
# Lets a replica follow this server. The image runs it once, while it sets up a new database.
set -e

psql --set=ON_ERROR_STOP=1 --no-psqlrc --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
\getenv password POSTGRES_PASSWORD
create role replicator with login replication password :'password';
select pg_create_physical_replication_slot('replica');
SQL

# "host all" does not cover replication. The server restarts after this script, and reads the file again.
echo "host replication replicator samenet scram-sha-256" >> "$PGDATA/pg_hba.conf"
