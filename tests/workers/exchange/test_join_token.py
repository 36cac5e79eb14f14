import grpc
import pytest

from protos import link_pb2, link_pb2_grpc
from workers.exchange.agreement import LeadUnreachable, RemoteAgreement, StepAgreement
from workers.exchange.base import StepKey
from workers.exchange.grpc_exchange import GrpcExchange


@pytest.fixture
def lead():
    exchange = GrpcExchange("127.0.0.1:0", agreement=StepAgreement(2), join_token="secret")
    yield exchange
    exchange.close()


def test_chunks_of_a_stranger_are_refused(lead):
    with grpc.insecure_channel(f"127.0.0.1:{lead.port}") as channel:
        send = link_pb2_grpc.LinkServiceStub(channel).Send
        with pytest.raises(grpc.RpcError) as refused:
            send(iter([link_pb2.Chunk(job="job", generation=1, total_bytes=1 << 40)]), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_stranger_has_no_say_in_an_agreement(lead):
    stranger = RemoteAgreement(f"127.0.0.1:{lead.port}", 1, "guessed")
    with pytest.raises(LeadUnreachable, match="UNAUTHENTICATED"):
        stranger.agree(StepKey("job", 1, 1), holds_all=True)
    stranger.close()
