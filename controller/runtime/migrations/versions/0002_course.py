"""What was decided about a job's course: checkpoints, skipped data, rewinds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("course", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("jobs", "course")
