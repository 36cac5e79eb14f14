"""The tables. Decisions live in `jobs` and `events`, measurements in `steps`."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("queue", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    # What the core decides from, and what readers see of it; the second is stale while a job is
    # live.
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
    # What was decided about its course: checkpoints, skipped data, rewinds.
    sa.Column("course", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("idempotency_key", sa.String, nullable=True, unique=True),
    sa.Column("body_digest", sa.String, nullable=True),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("job_id", sa.String, nullable=True, index=True),
    sa.Column("pod", sa.String, nullable=True),
    sa.Column("data", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("document", sa.JSON, nullable=False),
)
