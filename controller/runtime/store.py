"""The durable memory of the controller, on SQLAlchemy: what was decided, and what was measured.

A decision and the events that explain it are written in one transaction before it is carried out.
All methods block; the API reads from its threads, and only the loop's writer writes. Nothing here
decides anything.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
import sqlalchemy.event
import sqlalchemy.exc
from sqlalchemy.dialects import postgresql, sqlite

from controller.config import ConfigError
from controller.core.cluster import Withheld
from controller.core.job import FINAL_STATES, Job
from controller.core.record import StepRecord
from controller.core.turn import Entry
from controller.runtime import schema
from controller.runtime.recall import NEEDS_STEPS, OnRecord, course_document, recall, record_of
from controller.runtime.store_failure import (
    StoreFailed,
    damaged,
    failure,
    file_of,
    moved,
    not_written,
)
from protos import faults

Document = dict[str, Any]

_MIGRATIONS = pathlib.Path(__file__).parent / "migrations"

_RECORDS_OF_A_JOB = (
    (schema.steps, schema.steps.c.step),
    (schema.events, schema.events.c.seq),
)
"""Tables with many rows per job, and what tells these apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobRow:
    """A decided job and what readers see of it."""

    job: Job
    document: Document


@dataclasses.dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list; newest first. Labels must all match, `text` is looked for in the name."""

    states: Sequence[str] = ()
    queue: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    text: str | None = None
    page_size: int = 50
    page_token: str | None = None


RECORDS_KEPT = 4096
"""Steps that a restarted controller reads again of a job without a checkpoint, which decide when a
spike is one, and at most what a checkpoint that is being written needs."""

_SUMMED_FIELDS: Mapping[str, Callable[[float], float]] = {
    "seconds": float,
    "exposed_seconds": float,
    "straggler_seconds": float,
    "hidden_seconds": float,
    "data_wait_seconds": float,
    "pause_seconds": float,
    "link_bytes": int,
    "float32_bytes": int,
}


class InvalidPageToken(ValueError):
    """A page token that this store did not hand out."""


class Store:
    """Decisions and measurements in a SQL database. Every method raises StoreFailed when that
    fails; what was to be written is then not there, not even in part."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a database of another kind than SQLite or PostgreSQL."""
        self._put_steps = put_steps(sa.make_url(url).get_backend_name())
        self._url = sa.make_url(url)
        self._inode: int | None = None
        """Of the file of an SQLite database, once it is there."""
        self._engine = sa.create_engine(url, connect_args=_connect_args(url))
        if self._engine.dialect.name == "sqlite":
            sqlalchemy.event.listen(self._engine, "connect", _configure_sqlite)

    def verify(self) -> None:
        """Raises StoreFailed where an SQLite file is damaged.

        SQLite itself notices only when it comes across the damage, which may be in the middle of a
        job. Reading all of it takes 2 s for a million steps. It keeps no checksums: bytes that were
        changed within a text are not noticed.
        """
        path = file_of(self._url)
        if path is None:
            return
        if _is_cut(path):
            raise damaged(self._url, f"its {path.stat().st_size} bytes are no whole pages")
        with self._reading() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            raise damaged(self._url, found)

    def migrate(self) -> None:
        """Bring the tables to the newest version."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._writing() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
        if (path := file_of(self._url)) is not None:
            self._inode = path.stat().st_ino

    def close(self) -> None:
        self._engine.dispose()

    def is_reachable(self) -> bool:
        """Whether a query is answered."""
        try:
            with self._reading() as connection:
                connection.execute(sa.select(1))
        except StoreFailed:
            return False
        return True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._explained(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction: all of it is written, or nothing."""
        with self._explained():
            if self._inode is not None and not self._is_in_place():
                # SQLite would write on to a file without a name.
                raise moved(self._url)
            with self._engine.begin() as connection:
                yield connection

    def _is_in_place(self) -> bool:
        path = file_of(self._url)
        assert path is not None
        try:
            return path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlalchemy.exc.DBAPIError as error:
            raise failure(error, self._url) from error
        except OSError as error:
            raise not_written(error, self._url) from error
        except json.JSONDecodeError as error:
            raise damaged(self._url, f"a document in it is no JSON: {error}") from error

    def commit(
        self,
        now: float,
        rows: Iterable[JobRow],
        entries: Iterable[Entry],
        idempotency: Mapping[str, tuple[str | None, str | None]],
    ) -> None:
        """Write changed jobs and their journal entries in one transaction.

        `idempotency` maps a new job's id to (key, digest of its request body).
        """
        with self._writing() as connection:
            faults.at("commit")
            for row in rows:
                _upsert_job(connection, row, idempotency.get(row.job.id))
            lines = [
                {
                    "time": now,
                    "kind": entry.kind,
                    "message": entry.message,
                    "job_id": entry.job_id,
                    "pod": entry.pod,
                    "data": dict(entry.data),
                }
                for entry in entries
            ]
            if lines:
                connection.execute(schema.events.insert(), lines)
        faults.at("committed")

    def append_steps(self, documents: Sequence[tuple[str, Document]]) -> None:
        """Write (job id, step document) pairs; a step applied again replaces its record."""
        # By key, since PostgreSQL refuses to write a row twice in one statement.
        rows = {
            (job_id, document["step"]): {
                "job_id": job_id,
                "step": document["step"],
                "document": document,
            }
            for job_id, document in documents
        }
        with self._writing() as connection:
            connection.execute(self._put_steps, list(rows.values()))

    def unfinished(self) -> list[tuple[Job, tuple[StepRecord, ...]]]:
        """Jobs that had not ended when they were last written, oldest first, with how far they had
        come; and their steps since the newest checkpoint, the last RECORDS_KEPT of them."""
        final = [str(state) for state in FINAL_STATES]
        query = (
            sa.select(schema.jobs)
            .where(schema.jobs.c.state.not_in(final))
            .order_by(schema.jobs.c.created_at, schema.jobs.c.id)
        )
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
            found = [(row, _on_record(connection, row)) for row in rows]
        return [
            (recall(row, steps), tuple(record_of(step) for step in steps.newest))
            for row, steps in found
        ]

    def withheld(self) -> dict[str, Withheld]:
        """Which pods were given no job when the journal ended, by name, and why."""
        table = schema.events
        of_pods = table.c.kind.in_(("pod.withheld", "pod.released"))
        newest = sa.select(sa.func.max(table.c.seq)).where(of_pods).group_by(table.c.pod)
        query = sa.select(table).where(table.c.seq.in_(newest), table.c.kind == "pod.withheld")
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return {row["pod"]: Withheld(row["data"]["code"], row["message"]) for row in rows}

    def job(self, job_id: str) -> Job | None:
        """A job as it was last written, whether it has ended or not."""
        query = sa.select(schema.jobs).where(schema.jobs.c.id == job_id)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
            return recall(row, _on_record(connection, row)) if row else None

    def by_idempotency_key(self, key: str) -> tuple[str, str] | None:
        """(job id, digest of the request body) of the job submitted with this key."""
        query = sa.select(schema.jobs.c.id, schema.jobs.c.body_digest).where(
            schema.jobs.c.idempotency_key == key
        )
        with self._reading() as connection:
            row = connection.execute(query).first()
        return (row.id, row.body_digest) if row else None

    def job_document(self, job_id: str) -> Document | None:
        """What readers saw of the job when it was last decided about."""
        query = sa.select(schema.jobs.c.document).where(schema.jobs.c.id == job_id)
        with self._reading() as connection:
            return connection.execute(query).scalar()

    def job_spec(self, job_id: str) -> Document | None:
        """The specification: {"text": as submitted, "normalised": {...}}."""
        query = sa.select(schema.jobs.c.spec).where(schema.jobs.c.id == job_id)
        with self._reading() as connection:
            spec = connection.execute(query).scalar()
        return json.loads(spec["document"]) if spec else None

    def list_jobs(self, query: JobQuery) -> tuple[list[Document], str | None]:
        """One page of job documents and the token of the next, None after the last."""
        table = schema.jobs
        statement = sa.select(table.c.id, table.c.created_at, table.c.document)
        if query.states:
            statement = statement.where(table.c.state.in_(query.states))
        if query.queue is not None:
            statement = statement.where(table.c.queue == query.queue)
        for label, value in query.labels.items():
            statement = statement.where(table.c.labels[label].as_string() == value)
        if query.text:
            statement = statement.where(table.c.name.contains(query.text, autoescape=True))
        if query.page_token is not None:
            created_at, job_id = _decode_token(query.page_token)
            statement = statement.where(
                sa.tuple_(table.c.created_at, table.c.id) < sa.tuple_(created_at, job_id)
            )
        statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc())
        with self._reading() as connection:
            rows = connection.execute(statement.limit(query.page_size + 1)).all()
        page = rows[: query.page_size]
        token = _encode_token(page[-1]) if len(rows) > query.page_size else None
        return [row.document for row in page], token

    def steps(self, job_id: str, after: int, limit: int) -> list[Document]:
        """Up to `limit` step documents after step `after`, in order."""
        query = (
            sa.select(schema.steps.c.document)
            .where(schema.steps.c.job_id == job_id, schema.steps.c.step > after)
            .order_by(schema.steps.c.step)
            .limit(limit)
        )
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def sampled_steps(self, job_id: str, after: int, points: int) -> list[Document]:
        """At most `points` + 1 steps spread evenly over those after `after`; the newest is one."""
        table = schema.steps
        mine = (table.c.job_id == job_id) & (table.c.step > after)
        with self._reading() as connection:
            bounds = sa.select(sa.func.min(table.c.step), sa.func.max(table.c.step)).where(mine)
            first, last = connection.execute(bounds).one()
            if first is None:
                return []
            stride = max(1, -(-(last - first + 1) // points))
            query = (
                sa.select(table.c.document)
                .where(mine, ((table.c.step - first) % stride == 0) | (table.c.step == last))
                .order_by(table.c.step)
            )
            return list(connection.execute(query).scalars())

    def events(self, after: int, limit: int, job_id: str | None = None) -> list[Document]:
        """Up to `limit` journal entries after sequence number `after`, of one job or of all."""
        query = sa.select(schema.events).where(schema.events.c.seq > after)
        if job_id is not None:
            query = query.where(schema.events.c.job_id == job_id)
        query = query.order_by(schema.events.c.seq).limit(limit)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def latest_events(self, limit: int, job_id: str | None = None) -> list[Document]:
        """The newest journal entries, newest first, of one job or of all."""
        query = sa.select(schema.events).order_by(schema.events.c.seq.desc()).limit(limit)
        if job_id is not None:
            query = query.where(schema.events.c.job_id == job_id)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def events_of_kinds(self, job_id: str, kinds: Collection[str], limit: int) -> list[Document]:
        """The newest journal entries of a job of these kinds, oldest first."""
        query = (
            sa.select(schema.events)
            .where(schema.events.c.job_id == job_id, schema.events.c.kind.in_(sorted(kinds)))
            .order_by(schema.events.c.seq.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()][::-1]

    def last_event_seq(self) -> int:
        """Sequence number of the newest journal entry, 0 when there is none."""
        with self._reading() as connection:
            return connection.execute(sa.select(sa.func.max(schema.events.c.seq))).scalar() or 0

    def erase_some(self, job_id: str, most: int) -> bool:
        """Erase up to `most` steps and events of a job in one transaction, and the job itself once
        it has none; returns whether it is gone.

        The job goes last, so that an erasure that was cut short can be asked for again.
        """
        with self._writing() as connection:
            for table, key in _RECORDS_OF_A_JOB:
                mine = table.c.job_id == job_id
                batch = sa.select(key).where(mine).order_by(key).limit(most)
                most -= connection.execute(table.delete().where(mine, key.in_(batch))).rowcount
            if most > 0:
                connection.execute(schema.jobs.delete().where(schema.jobs.c.id == job_id))
            return most > 0


def _is_cut(path: pathlib.Path) -> bool:
    """Whether an SQLite file ends within a page, though no log is there to write it anew."""
    log = path.with_name(f"{path.name}-wal")
    if not path.exists() or (log.exists() and log.stat().st_size):
        return False
    with path.open("rb") as file:
        # The format keeps the size of a page there; 65,536 is written as 1.
        page_bytes = int.from_bytes(file.read(18)[16:18], "big")
    return page_bytes >= 512 and path.stat().st_size % page_bytes != 0


def put_steps(dialect: str) -> sa.Insert:
    """The statement that writes steps over those there are; raises ConfigError."""
    insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}.get(dialect)
    if insert is None:
        raise ConfigError(f"{dialect} cannot be the store; name a sqlite or postgresql URL")
    statement = insert(schema.steps)
    return statement.on_conflict_do_update(
        index_elements=[schema.steps.c.job_id, schema.steps.c.step],
        set_={"document": statement.excluded.document},
    )


def _connect_args(url: str) -> dict[str, Any]:
    return {"check_same_thread": False} if url.startswith("sqlite") else {}


def _configure_sqlite(connection: Any, _: Any) -> None:
    """WAL lets readers go on while the loop writes. NORMAL survives the death of the process; a
    loss of power may take the last transactions, and the jobs they were about start over."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _upsert_job(
    connection: sa.Connection, row: JobRow, idempotency: tuple[str | None, str | None] | None
) -> None:
    job = row.job
    values = {
        "state": str(job.state),
        "attempt": job.attempt,
        "generation": job.generation,
        "document": row.document,
        "course": course_document(job),
    }
    update = schema.jobs.update().where(schema.jobs.c.id == job.id).values(values)
    if connection.execute(update).rowcount:
        return
    key, digest = idempotency or (None, None)
    connection.execute(
        schema.jobs.insert().values(
            id=job.id,
            name=job.spec.name,
            queue=job.spec.queue,
            created_at=job.created_at,
            labels=dict(job.spec.labels),
            spec=dataclasses.asdict(job.spec),
            idempotency_key=key,
            body_digest=digest,
            **values,
        )
    )


def _on_record(connection: sa.Connection, row: Mapping[Any, Any]) -> OnRecord:
    """Steps of the job's present timeline. Records behind it are of one that a rewind or another
    attempt has left, and not overwritten yet. None of a job whose steps nobody asks for."""
    if row["state"] not in NEEDS_STEPS:
        return OnRecord((), {})
    table, document = schema.steps, schema.steps.c.document
    of_job = table.c.job_id == row["id"]
    of_generation = document["generation"].as_integer() == row["generation"]
    last = sa.select(sa.func.max(table.c.step)).where(of_job, of_generation)
    reached = connection.execute(last).scalar()
    mine = of_job & (table.c.step <= max(reached or 0, row["document"].get("step", 0)))
    saved = [checkpoint["step"] for checkpoint in row["course"].get("checkpoints", ())]
    since = table.c.step >= (saved[-1] if saved else 0)
    newest = sa.select(document).where(mine, since).order_by(table.c.step.desc())
    found = connection.execute(newest.limit(RECORDS_KEPT)).scalars()
    columns = [sa.func.sum(document[name].as_float()).label(name) for name in _SUMMED_FIELDS]
    decided = table.c.step > row["course"].get("merged", 0)
    sums = connection.execute(sa.select(*columns).where(mine, decided)).mappings().one()
    return OnRecord(
        list(found)[::-1], {name: of(sums[name] or 0) for name, of in _SUMMED_FIELDS.items()}
    )


def _encode_token(row: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps([row.created_at, row.id]).encode()).decode()


def _decode_token(token: str) -> tuple[float, str]:
    try:
        created_at, job_id = json.loads(base64.urlsafe_b64decode(token.encode()))
        return float(created_at), str(job_id)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidPageToken(f"{token!r} is no page token of this server") from error
