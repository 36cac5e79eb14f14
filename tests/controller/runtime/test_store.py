from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql, sqlite

from controller.config import ConfigError
from controller.core.choosing import Choice
from controller.core.cluster import Withheld
from controller.core.job import Job, JobState, Reason
from controller.core.turn import Entry
from controller.runtime import schema
from controller.runtime.store import InvalidPageToken, JobQuery, JobRow, Store, put_steps
from controller.runtime.store_failure import StoreFailed
from tests.controller.core.linked_pods import POLICY
from tests.controller.core.world import spec


@pytest.fixture
def url(tmp_path: pathlib.Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    opened.migrate()
    yield opened
    opened.close()


def _job(job_id: str, state: JobState = JobState.PENDING, **fields: Any) -> Job:
    of_job = {f.name for f in dataclasses.fields(Job)}
    own = {name: fields.pop(name) for name in of_job & set(fields)}
    return Job(
        job_id, spec(**fields), state, Reason("Why", "because"), **{"created_at": 1.0, **own}
    )


def _commit(store: Store, *jobs: Job, entries: tuple[Entry, ...] = (), **keys: Any) -> None:
    rows = [
        JobRow(
            job,
            {"id": job.id, "reason": {"code": job.reason.code, "message": job.reason.message}},
        )
        for job in jobs
    ]
    store.commit(5.0, rows, entries, keys)


def _ids(store: Store, **query: Any) -> list[str]:
    return [document["id"] for document in store.list_jobs(JobQuery(**query))[0]]


def test_migrations_make_exactly_the_tables_of_the_schema(store: Store, url: str) -> None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_migrate_of_a_current_database_changes_nothing(store: Store) -> None:
    _commit(store, _job("a"))
    store.migrate()
    assert _ids(store) == ["a"]


def test_store_that_cannot_be_opened_is_not_reachable(store: Store, tmp_path: pathlib.Path) -> None:
    assert store.is_reachable()
    elsewhere = Store(f"sqlite:///{tmp_path / 'no' / 'folder' / 'store.db'}")
    assert not elsewhere.is_reachable()
    elsewhere.close()


def test_unfinished_jobs_come_back_as_they_were_decided_oldest_first(store: Store) -> None:
    second = _job("b", attempt=2, generation=3, created_at=2.0)
    first = _job("a", labels={"team": "x"}, created_at=1.0)
    ended = [_job(str(state), state) for state in JobState if _job("x", state).is_final]
    _commit(store, second, first, *ended)
    assert store.unfinished() == [(first, ()), (second, ())]


def test_a_job_whose_exchange_is_chosen_comes_back_with_what_it_had_chosen(store: Store) -> None:
    choice = Choice(2, 57, shares=(0.1, 0.05, 0.02))
    _commit(store, _job("a", choice=POLICY, choosing=choice), _job("b", choice=POLICY))
    (chosen, _), (fresh, _) = store.unfinished()
    assert chosen.spec.choice == fresh.spec.choice == POLICY
    assert chosen.exchange == POLICY.candidates[2].rule
    # What was measured is not kept.
    assert (chosen.choosing, fresh.choosing) == (Choice(2, 57), None)


def test_job_committed_again_changes_what_is_decided_and_keeps_what_was_submitted(
    store: Store,
) -> None:
    job = _job("a")
    _commit(store, job)
    reason = Reason("Training", "two pods")
    _commit(store, dataclasses.replace(job, generation=1, reason=reason))
    ((loaded, _),) = store.unfinished()
    assert (loaded.generation, loaded.reason) == (1, reason)
    assert loaded.spec == job.spec
    document = store.job_document("a")
    assert document is not None and document["reason"]["code"] == "Training"


def test_job_that_was_never_stored_has_no_documents(store: Store) -> None:
    assert store.job_document("never") is None and store.job_spec("never") is None


def test_specification_comes_back_as_submitted(store: Store) -> None:
    _commit(store, _job("a", document='{"text": "name: x", "normalised": {"name": "x"}}'))
    assert store.job_spec("a") == {"text": "name: x", "normalised": {"name": "x"}}


def test_commit_that_fails_leaves_nothing(store: Store) -> None:
    _commit(store, _job("a"), a=("key", "digest"))
    entry = Entry("job.submitted", "b", "b")
    with pytest.raises(StoreFailed, match="UNIQUE"):
        _commit(store, _job("b"), entries=(entry,), b=("key", "digest"))
    assert _ids(store) == ["a"]
    assert store.events(0, 10) == []


def test_idempotency_key_finds_the_job_and_the_digest_of_its_request(store: Store) -> None:
    _commit(store, _job("a"), a=("key-1", "digest-1"))
    _commit(store, _job("b"), b=(None, "digest-2"))
    _commit(store, _job("c"), c=(None, "digest-2"))
    assert store.by_idempotency_key("key-1") == ("a", "digest-1")
    assert store.by_idempotency_key("key-2") is None


def test_idempotency_key_outlives_changes_of_the_job(store: Store) -> None:
    _commit(store, _job("a"), a=("key-1", "digest-1"))
    _commit(store, _job("a", JobState.FAILED))
    assert store.by_idempotency_key("key-1") == ("a", "digest-1")


def test_pages_go_from_newest_to_oldest_without_gaps(store: Store) -> None:
    names = [f"job-{number}" for number in range(7)]
    _commit(store, *(_job(name, created_at=float(i // 3)) for i, name in enumerate(names)))
    seen: list[str] = []
    token: str | None = None
    sizes: list[int] = []
    while True:
        page, token = store.list_jobs(JobQuery(page_size=3, page_token=token))
        seen += [document["id"] for document in page]
        sizes.append(len(page))
        if token is None:
            break
    assert seen == sorted(names, reverse=True) and sizes == [3, 3, 1]


def test_page_that_is_exactly_full_is_the_last(store: Store) -> None:
    _commit(store, _job("a"), _job("b"))
    page, token = store.list_jobs(JobQuery(page_size=2))
    assert len(page) == 2 and token is None


def test_job_submitted_between_two_pages_moves_none(store: Store) -> None:
    _commit(store, *(_job(f"job-{number}", created_at=number) for number in range(4)))
    _, token = store.list_jobs(JobQuery(page_size=2))
    _commit(store, _job("job-9", created_at=9.0))
    page, _ = store.list_jobs(JobQuery(page_size=2, page_token=token))
    assert [document["id"] for document in page] == ["job-1", "job-0"]


@pytest.mark.parametrize(
    "token",
    ["", "nonsense", "bnVsbA==", "WzFd", "e30=", "WyJhIiwgImIiXQ==", "\N{SNOWMAN}", "W" * 4001],
)
def test_page_token_of_somebody_else_is_refused(store: Store, token: str) -> None:
    with pytest.raises(InvalidPageToken):
        store.list_jobs(JobQuery(page_token=token))


def test_jobs_are_filtered_by_state_queue_label_and_text(store: Store) -> None:
    _commit(
        store,
        _job("a", JobState.RUNNING, name="palm-tiny", queue="default", labels={"team": "x"}),
        _job("b", JobState.FAILED, name="palm-8b", queue="big", labels={"team": "x", "a.b/c": "1"}),
        _job("c", JobState.PENDING, name="100%_done", queue="big", labels={"team": "y"}),
    )
    assert _ids(store, states=["RUNNING", "PENDING"]) == ["c", "a"]
    assert _ids(store, queue="big") == ["c", "b"]
    assert _ids(store, labels={"team": "x"}) == ["b", "a"]
    assert _ids(store, labels={"team": "x", "a.b/c": "1"}) == ["b"]
    assert _ids(store, labels={"nobody": "x"}) == []
    assert _ids(store, text="palm") == ["b", "a"]
    assert _ids(store, text="%") == ["c"] and _ids(store, text="_") == ["c"]
    assert _ids(store, states=["FAILED"], queue="default") == []


@pytest.mark.parametrize("label", ["$.x", "", "two words", "'; --"])
def test_label_of_any_spelling_is_found_and_breaks_nothing(store: Store, label: str) -> None:
    _commit(store, _job("a", labels={label: "v"}), _job("b"))
    assert _ids(store, labels={label: "v"}) == ["a"]


def _steps(store: Store, job_id: str, *numbers: int, loss: float = 1.0) -> None:
    store.append_steps([(job_id, {"step": number, "loss": loss}) for number in numbers])


def _numbers(documents: list[dict[str, Any]]) -> list[int]:
    return [document["step"] for document in documents]


def test_steps_are_read_in_order_after_a_step_up_to_a_limit(store: Store) -> None:
    _steps(store, "a", 3, 1, 2)
    _steps(store, "b", 9)
    assert _numbers(store.steps("a", 0, 10)) == [1, 2, 3]
    assert _numbers(store.steps("a", 1, 1)) == [2]
    assert store.steps("a", 3, 10) == []


def test_step_applied_again_replaces_its_record(store: Store) -> None:
    _steps(store, "a", 1, 2)
    _steps(store, "a", 2, loss=0.5)
    assert [document["loss"] for document in store.steps("a", 0, 10)] == [1.0, 0.5]


def test_step_twice_in_a_batch_is_written_as_it_was_last(store: Store) -> None:
    store.append_steps([("a", {"step": 1, "loss": 1.0}), ("a", {"step": 1, "loss": 0.5})])
    assert [document["loss"] for document in store.steps("a", 0, 10)] == [0.5]


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])
def test_step_applied_again_replaces_its_record_in_every_dialect(dialect: sa.Dialect) -> None:
    statement = str(put_steps(dialect.name).compile(dialect=dialect))
    assert statement.startswith("INSERT INTO steps (job_id, step, document) VALUES")
    assert statement.endswith(
        "ON CONFLICT (job_id, step) DO UPDATE SET document = excluded.document"
    )


def test_database_of_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="mysql cannot be the store; name a sqlite or postgresql"):
        Store("mysql://nowhere/x")


@pytest.mark.parametrize("count", [1, 9, 10, 11, 99, 1000])
@pytest.mark.parametrize("points", [1, 2, 10])
def test_sampled_steps_are_even_few_and_end_with_the_newest(
    store: Store, count: int, points: int
) -> None:
    _steps(store, "a", *range(1, count + 1))
    numbers = _numbers(store.sampled_steps("a", 0, points))
    assert numbers[0] == 1 and numbers[-1] == count
    assert len(numbers) <= points + 1
    gaps = {later - earlier for earlier, later in itertools.pairwise(numbers[:-1])}
    assert len(gaps) <= 1


def test_sampled_steps_of_a_job_without_any_are_none(store: Store) -> None:
    _steps(store, "a", 1)
    assert store.sampled_steps("b", 0, 10) == [] and store.sampled_steps("a", 1, 10) == []


def test_events_are_numbered_in_the_order_of_their_commits(store: Store) -> None:
    assert store.last_event_seq() == 0
    _commit(store, entries=(Entry("pod.ready", "one", pod="pod-0"),))
    _commit(store, _job("a"), entries=(Entry("job.submitted", "two", "a", data={"n": 1}),))
    first, second = store.events(0, 10)
    assert (first["seq"], first["kind"], first["pod"], first["job_id"]) == (
        1,
        "pod.ready",
        "pod-0",
        None,
    )
    assert (second["time"], second["message"], second["data"]) == (5.0, "two", {"n": 1})
    assert store.events(1, 10) == [second] and store.events(0, 1) == [first]
    assert store.events(0, 10, "a") == [second]
    assert store.latest_events(1) == [second] and store.latest_events(5, "b") == []
    assert store.last_event_seq() == 2


def test_withheld_pods_are_those_whose_last_word_was_that(store: Store) -> None:
    assert store.withheld() == {}

    def told(pod: str, code: str) -> Entry:
        return Entry("pod.withheld", f"{pod} is {code}", pod=pod, data={"code": code})

    _commit(store, entries=(told("pod-0", "Drained"), told("pod-1", "Drained")))
    _commit(store, entries=(Entry("pod.released", "again", pod="pod-0"),))
    _commit(store, entries=(told("pod-1", "Quarantined"), told("pod-2", "Leaving")))
    _commit(store, entries=(Entry("pod.ready", "ready", pod="pod-1"),))
    assert store.withheld() == {
        "pod-1": Withheld("Quarantined", "pod-1 is Quarantined"),
        "pod-2": Withheld("Leaving", "pod-2 is Leaving"),
    }


def test_deleted_job_is_forgotten_and_its_numbers_are_not_used_again(store: Store) -> None:
    for job_id in ("a", "b"):
        _commit(store, _job(job_id), entries=(Entry("job.submitted", job_id, job_id),))
        _steps(store, job_id, 1)
    assert store.erase_some("b", 10)
    assert _ids(store) == ["a"] and store.steps("b", 0, 10) == []
    assert [event["job_id"] for event in store.events(0, 10)] == ["a"]
    _commit(store, entries=(Entry("pod.ready", "later"),))
    assert store.last_event_seq() == 3


def test_job_is_erased_a_batch_at_a_time_and_itself_last(store: Store) -> None:
    entries = tuple(Entry("job.waiting", str(number), "a") for number in range(3))
    _commit(store, _job("a"), _job("b"), entries=entries)
    _steps(store, "a", *range(1, 6))
    _steps(store, "b", 1)
    left: list[tuple[int, int, bool]] = []
    gone = False
    while not gone:
        gone = store.erase_some("a", 2)
        steps, events = store.steps("a", 0, 99), store.events(0, 99, "a")
        left.append((len(steps), len(events), store.job_document("a") is not None))
    assert left == [(3, 3, True), (1, 3, True), (0, 2, True), (0, 0, True), (0, 0, False)]
    assert _ids(store) == ["b"] and _numbers(store.steps("b", 0, 10)) == [1]


def test_job_that_is_gone_is_erased_again_without_harm(store: Store) -> None:
    assert store.erase_some("never", 1)
