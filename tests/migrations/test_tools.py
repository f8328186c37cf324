"""The tools themselves, by `exec`, and their histories taken over: alembic and Django."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import Fleet8

pytestmark = pytest.mark.servers

ENV = """\
import os
from alembic import context
from sqlalchemy import create_engine

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"))
with engine.connect() as connection:
    context.configure(connection)
    with context.begin_transaction():
        context.run_migrations()
"""

FIRST = """\
import sqlalchemy as sa
from alembic import op

revision, down_revision = "a1", None

def upgrade():
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))
"""

SECOND = """\
from alembic import op

revision, down_revision = "b2", "a1"

def upgrade():
    with op.get_context().autocommit_block():
        op.create_index("things_id", "things", ["id"], postgresql_concurrently=True)
"""

SETTINGS = """\
import os
from django.conf import settings

names = {"NAME": "PGDATABASE", "USER": "PGUSER", "PASSWORD": "PGPASSWORD", "HOST": "PGHOST", "PORT": "PGPORT"}
given = {key: os.environ.get(name, "") for key, name in names.items()}
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **given}},
    INSTALLED_APPS=["django.contrib.contenttypes"],
)

from django.core.management import execute_from_command_line

execute_from_command_line(["manage.py", "migrate", "-v0"])
"""


@pytest.fixture
def alembic(fleet: Fleet8) -> Path:
    """A folder of alembic with two revisions, beside that of the migrations."""
    versions = fleet.folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    (fleet.folder / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    (fleet.folder / "alembic" / "env.py").write_text(ENV)
    (versions / "a1.py").write_text(FIRST)
    (versions / "b2.py").write_text(SECOND)
    return versions


def test_alembic_goes_over_the_fleet_and_its_history_is_taken_over(fleet: Fleet8, alembic: Path) -> None:
    run = ("exec", "--", sys.executable, "-m", "alembic", "upgrade")
    assert "run on 3 of 3 shards" in fleet(*run, "a1")
    fleet(run[0], "--shard", "s1", *run[1:], "head")
    fleet("baseline", "--from", "alembic", code=2)
    assert "s0 is at a1; s1 is at b2; s2 is at a1" in fleet.stderr
    # An index CONCURRENTLY, while the sessions of `exec` are open beside.
    fleet(*run, "head")
    fleet("baseline", "--from", "alembic")
    fleet.write("after", "-- migrate:up\nalter table things add column n int;\n")
    fleet("up")
    assert "2 applied everywhere, 0 pending, 0 deviating" in fleet("status")
    assert "3 schemas, alike" in fleet("drift")


def test_django_goes_over_the_fleet_and_its_history_is_taken_over(fleet: Fleet8) -> None:
    (fleet.folder / "manage.py").write_text(SETTINGS)
    assert "run on 3 of 3 shards" in fleet("exec", "--", sys.executable, "manage.py")
    assert "2 marked" in fleet("baseline", "--from", "django")
    assert fleet.applied("s2") == [
        "django:contenttypes.0001_initial",
        "django:contenttypes.0002_remove_content_type_name",
    ]
    assert "3 schemas, alike" in fleet("drift")
