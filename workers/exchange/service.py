"""LinkService, the receiving side on the wire: decodes into inbox and agreement calls."""

import hmac
from collections.abc import Iterator

import grpc

from protos import faults, link_pb2
from workers.exchange.agreement import StepAgreement
from workers.exchange.base import StepKey
from workers.exchange.channel import TOKEN_KEY
from workers.exchange.emulator import LinkEmulator
from workers.exchange.frames import read
from workers.exchange.inbox import ArrivedChunk, CorruptChunk, Inbox, MalformedChunk
from workers.exchange.round_trips import Crossing


class LinkServicer:
    def __init__(
        self,
        inbox: Inbox,
        agreement: StepAgreement | None,
        join_token: str = "",
        emulator: LinkEmulator | None = None,
    ) -> None:
        """Answers to probes go over the emulated link, if there is one."""
        self._inbox = inbox
        self._agreement = agreement
        self._join_token = join_token.encode()
        self._crossing = Crossing(emulator)

    def Send(
        self, request_iterator: Iterator[bytes], context: grpc.ServicerContext
    ) -> link_pb2.SendSummary:
        self._admit(context)
        context.add_callback(self._inbox.wake)
        accepted = 0
        try:
            for wire in request_iterator:
                fault = faults.at("receive")
                if fault is not None:
                    wire = _after(fault, wire, context)
                accepted += self._inbox.offer(_arrived(wire), context.is_active)
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

    def Probe(
        self, _request: link_pb2.ProbeRequest, context: grpc.ServicerContext
    ) -> link_pb2.ProbeResponse:
        self._admit(context)
        context.add_callback(self._crossing.wake)
        self._crossing.wait(context.is_active)
        return link_pb2.ProbeResponse()

    def _admit(self, context: grpc.ServicerContext) -> None:
        """Gradients are taken from hosts of the fleet only."""
        shown = dict(context.invocation_metadata()).get(TOKEN_KEY, "")
        if not hmac.compare_digest(str(shown).encode(), self._join_token):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the join token is wrong")


def add_to_server(servicer: LinkServicer, server: grpc.Server) -> None:
    """Serve LinkService, with chunks left as the bytes they came in: data is copied once, to where
    it belongs."""
    full_name = link_pb2.DESCRIPTOR.services_by_name["LinkService"].full_name
    handlers = {
        "Send": grpc.stream_unary_rpc_method_handler(
            servicer.Send,
            request_deserializer=None,
            response_serializer=link_pb2.SendSummary.SerializeToString,
        ),
        "AgreeStep": grpc.unary_unary_rpc_method_handler(
            servicer.AgreeStep,
            request_deserializer=link_pb2.AgreeStepRequest.FromString,
            response_serializer=link_pb2.AgreeStepResponse.SerializeToString,
        ),
        "Probe": grpc.unary_unary_rpc_method_handler(
            servicer.Probe,
            request_deserializer=link_pb2.ProbeRequest.FromString,
            response_serializer=link_pb2.ProbeResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(full_name, handlers),))


def _after(fault: faults.Fault, wire: bytes, context: grpc.ServicerContext) -> bytes:
    """What is left of a frame on a bad wire."""
    if fault.kind == "drop":
        context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")
    if fault.kind == "corrupt":
        return wire[:-1] + bytes([wire[-1] ^ 1])
    return wire


def _arrived(wire: bytes) -> ArrivedChunk:
    try:
        chunk, data = read(wire)
    except ValueError as error:
        raise MalformedChunk(str(error)) from error
    return ArrivedChunk(
        key=StepKey(chunk.job, chunk.generation, chunk.step, chunk.segment, chunk.round),
        member_index=chunk.member_index,
        offset_bytes=chunk.offset_bytes,
        total_bytes=chunk.total_bytes,
        crc32=chunk.crc32,
        data=data,
    )
