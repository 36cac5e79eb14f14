"""Hosts of one pod agree on steps, in one process and through the lead's server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from workers.exchange.agreement import Agreement, RemoteAgreement, SoleAgreement, StepAgreement
from workers.exchange.base import ExchangeAborted, LeadUnreachable, StepKey
from workers.exchange.grpc_exchange import GrpcExchange

WAIT = 20.0
KEY = StepKey("job", 1, 5)


class Pod:
    """A lead with its server, and the other hosts, which ask it over the wire."""

    def __init__(self, num_hosts: int) -> None:
        self.refusals: list[tuple[StepKey, str]] = []
        self.lead = StepAgreement(num_hosts, lambda key, why: self.refusals.append((key, why)))
        self.server = GrpcExchange("127.0.0.1:0", agreement=self.lead)
        address = f"127.0.0.1:{self.server.port}"
        self.hosts = [self.lead, *(RemoteAgreement(address, h) for h in range(1, num_hosts))]
        self.threads = ThreadPoolExecutor(num_hosts)

    def agree(self, host: int, holds_all: bool = True, key: StepKey = KEY):
        return self.threads.submit(self.hosts[host].agree, key, holds_all)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self.server.close()
        self.threads.shutdown()


@pytest.fixture
def pod() -> Iterator[Pod]:
    pod = Pod(3)
    yield pod
    pod.close()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_agree_all_hosts_hold_everything_applies_at_all(pod: Pod, order: tuple[int, ...]) -> None:
    waiting = [pod.agree(host) for host in order[:2]]
    assert not any(answer.done() for answer in waiting)
    waiting.append(pod.agree(order[2]))
    assert [answer.result(WAIT) for answer in waiting] == [Agreement(True, False)] * 3
    assert pod.refusals == []


@pytest.mark.parametrize("refusing", range(3))
def test_agree_one_refusal_answers_everyone_at_once_and_later_askers_too(
    pod: Pod, refusing: int
) -> None:
    early, late = (host for host in range(3) if host != refusing)
    waiting = pod.agree(early)
    assert pod.agree(refusing, holds_all=False).result(WAIT) == Agreement(False, False)
    assert waiting.result(WAIT) == Agreement(False, False)
    assert pod.agree(late).result(WAIT) == Agreement(False, False)
    assert [(key.step, f"host {refusing}" in why) for key, why in pod.refusals] == [(5, True)]


def test_agree_leave_is_what_the_lead_was_asked_at_the_decision_for_all_hosts(pod: Pod) -> None:
    waiting = [pod.agree(1), pod.agree(2)]
    pod.hosts[1].request_leave("job", 1)
    pod.lead.request_leave("other", 1)
    pod.lead.request_leave("job", 1)
    waiting.append(pod.agree(0))
    assert [answer.result(WAIT) for answer in waiting] == [Agreement(True, True)] * 3


def test_agree_next_step_is_asked_anew(pod: Pod) -> None:
    for step in range(1, 6):
        answers = [pod.agree(host, key=StepKey("job", 1, step)) for host in range(3)]
        assert all(answer.result(WAIT).apply for answer in answers)


def test_close_of_a_host_that_waits_frees_it_and_completes_no_step(pod: Pod) -> None:
    lead, other = pod.agree(0), pod.agree(1)
    pod.hosts[1].close()
    with pytest.raises(ExchangeAborted, match="closed"):
        other.result(WAIT)
    # Whether the lead had heard host 1 or not, host 2 completes nothing without it.
    assert not pod.agree(2, holds_all=False).result(WAIT).apply
    assert not lead.result(WAIT).apply


def test_close_of_the_lead_frees_it(pod: Pod) -> None:
    waiting = pod.agree(0)
    pod.lead.close()
    with pytest.raises(ExchangeAborted, match="closed"):
        waiting.result(WAIT)


def test_forgotten_generation_is_refused_and_a_newer_one_starts_clean(pod: Pod) -> None:
    pod.lead.request_leave("job", 1)
    pod.lead.forget("job", 1)
    assert pod.agree(1).result(WAIT) == Agreement(False, False)
    answers = [pod.agree(host, key=StepKey("job", 2, 5)) for host in range(3)]
    assert [answer.result(WAIT) for answer in answers] == [Agreement(True, False)] * 3


def test_lead_that_goes_away_is_unreachable_for_the_others() -> None:
    pod = Pod(2)
    waiting = pod.agree(1)
    pod.server.close()
    # The lead either refuses while closing or is gone before it can answer.
    if waiting.exception(WAIT) is None:
        assert waiting.result() == Agreement(False, False)
    else:
        assert isinstance(waiting.exception(), LeadUnreachable)
    with pytest.raises(LeadUnreachable, match="lead of this pod"):
        pod.agree(1, key=StepKey("job", 1, 6)).result(WAIT)
    pod.close()


def test_unknown_host_index_is_refused(pod: Pod) -> None:
    stranger = RemoteAgreement(f"127.0.0.1:{pod.server.port}", 7)
    with pytest.raises(LeadUnreachable, match="host 7 is not one of the pod's 3 hosts"):
        stranger.agree(KEY, True)
    stranger.close()


def test_sole_host_agrees_with_itself() -> None:
    sole = SoleAgreement()
    assert sole.agree(KEY, True) == Agreement(True, False)
    sole.request_leave("job", 1)
    assert sole.agree(KEY, False) == Agreement(False, True)
    assert sole.agree(StepKey("job", 2, 1), True) == Agreement(True, False)
    sole.forget("job", 1)
    assert sole.agree(KEY, True) == Agreement(True, False)
