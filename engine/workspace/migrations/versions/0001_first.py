"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("counted", sa.Integer, nullable=False),
        sa.Column("removed", sa.Double, nullable=False),
    )
    op.create_table(
        "patient",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("person", sa.String(64), nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "case",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("task", sa.String(64), sa.ForeignKey("task.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("pixels", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("patient", sa.Integer, sa.ForeignKey("patient.id"), index=True),
        sa.Column("together", sa.String(64), nullable=False),
        sa.Column("split", sa.String(8), nullable=False),
        sa.Column("about", sa.JSON, nullable=False),
        sa.Column("added", sa.Double, nullable=False),
        sa.UniqueConstraint("task", "number"),
        sa.UniqueConstraint("task", "pixels"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "label",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("case", sa.Integer, sa.ForeignKey("case.id"), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("act", sa.String(32), nullable=False, index=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("undone", sa.Boolean, nullable=False),
        sa.Index("label_of_case", "case", "id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("task", sa.String(64), sa.ForeignKey("task.id"), nullable=False, index=True),
        sa.Column("state", sa.String(10), nullable=False, index=True),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("curve", sa.JSON, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("prompt_set", sa.String(160), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("ended", sa.Double, nullable=False),
        sa.Column("owner", sa.String(160), nullable=False),
        sa.Column("beat", sa.Double, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("what", sa.String(40), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
