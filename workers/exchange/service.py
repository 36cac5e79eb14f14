"""LinkService, the receiving side on the wire: decodes into inbox and agreement calls."""

import hmac
from collections.abc import Iterator

import grpc

from protos import link_pb2, link_pb2_grpc
from workers.exchange.agreement import StepAgreement
from workers.exchange.base import StepKey
from workers.exchange.channel import TOKEN_KEY
from workers.exchange.inbox import ArrivedChunk, CorruptChunk, Inbox, MalformedChunk


class LinkServicer(link_pb2_grpc.LinkServiceServicer):
    def __init__(self, inbox: Inbox, agreement: StepAgreement | None, join_token: str = "") -> None:
        self._inbox = inbox
        self._agreement = agreement
        self._join_token = join_token.encode()

    def Send(
        self, request_iterator: Iterator[link_pb2.Chunk], context: grpc.ServicerContext
    ) -> link_pb2.SendSummary:
        self._admit(context)
        context.add_callback(self._inbox.wake)
        accepted = 0
        try:
            for chunk in request_iterator:
                accepted += self._inbox.offer(_arrived(chunk), context.is_active)
        except CorruptChunk as error:
            context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except MalformedChunk as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return link_pb2.SendSummary(accepted_bytes=accepted)

    def AgreeStep(
        self, request: link_pb2.AgreeStepRequest, context: grpc.ServicerContext
    ) -> link_pb2.AgreeStepResponse:
        self._admit(context)
        if self._agreement is None:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "this host is not the lead of a pod of several hosts; ask host 0 of your pod",
            )
        context.add_callback(self._agreement.wake)
        key = StepKey(request.job, request.generation, request.step)
        try:
            answer = self._agreement.answer(
                key, request.host_index, request.holds_all, context.is_active
            )
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return link_pb2.AgreeStepResponse(apply=answer.apply, leave=answer.leave)

    def _admit(self, context: grpc.ServicerContext) -> None:
        """Gradients are taken from hosts of the fleet only."""
        shown = dict(context.invocation_metadata()).get(TOKEN_KEY, "")
        if not hmac.compare_digest(str(shown).encode(), self._join_token):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the join token is wrong")


def _arrived(chunk: link_pb2.Chunk) -> ArrivedChunk:
    return ArrivedChunk(
        key=StepKey(chunk.job, chunk.generation, chunk.step, chunk.segment),
        member_index=chunk.member_index,
        offset_bytes=chunk.offset_bytes,
        total_bytes=chunk.total_bytes,
        crc32=chunk.crc32,
        data=chunk.data,
    )
