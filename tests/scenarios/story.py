"""A history as text: each event, what was noted and ordered, and what changed."""

from __future__ import annotations

from controller.core import commands, events
from controller.core.cluster import HostRef
from controller.core.turn import Outcome, State
from tests.controller.core.world import World


class Story:
    """Watches a world and writes down what matters; heartbeats and idle ticks do not."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lines: list[str] = []

    def __call__(self, before: State, event: events.Event, outcome: Outcome) -> None:
        details = [f"  noted   {entry.kind}: {entry.message}" for entry in outcome.entries]
        details += [f"  ordered {_order(command)}" for command in outcome.commands]
        details += [
            f"  merged  {job.id} steps {steps[0].record.step}..{steps[-1].record.step}"
            for job, steps in outcome.steps
        ]
        details += [
            f"  job     {job.id} {job.state} generation {job.generation} ({job.reason.code})"
            for job in outcome.changed_jobs
        ]
        details += [
            f"  pod     {pod.name} {pod.state}"
            for pod in outcome.state.pods.values()
            if pod.name not in before.pods or before.pods[pod.name].state is not pod.state
        ]
        if details or not isinstance(event, events.HostHeard | events.Ticked):
            moment = f"{self._world.now - 1000.0:8.2f} s"
            self._lines += [f"{moment}  {_event(event)}", *details]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _event(event: events.Event) -> str:
    name = type(event).__name__
    match event:
        case events.JobSubmitted(job_id, spec):
            return f"{name} {job_id}: {spec.min_pods}..{spec.max_pods} x {spec.devices_per_pod}"
        case events.JobReloaded(job):
            return f"{name} {job.id}, {job.state}"
        case events.CancelRequested(job_id, actor):
            return f"{name} {job_id} by {actor}"
        case events.ProgramLowered(assignment) | events.LoweringFailed(assignment):
            return f"{name} {assignment.job}/{assignment.generation}"
        case events.StepsApplied(host, assignment, records):
            steps = f"{records[0].step}..{records[-1].step}"
            return f"{name} {steps} of {assignment.job}/{assignment.generation} at {_host(host)}"
        case events.ProgramReady(host, assignment) | events.JobFaulted(host, assignment):
            return f"{name} {assignment.job}/{assignment.generation} at {_host(host)}"
        case events.JobReleased(host, assignment, step):
            what = f"{assignment.job}/{assignment.generation}"
            return f"{name} {what} after {step} at {_host(host)}"
        case events.JobHeld(host, assignment, step):
            what = f"{assignment.job}/{assignment.generation}"
            return f"{name} {what} after {step} at {_host(host)}"
        case events.Ticked():
            return name
        case _:
            return f"{name} {_host(event.host)}"


def _order(command: commands.Command) -> str:
    name = type(command).__name__
    match command:
        case commands.LowerProgram(assignment) | commands.AbandonLowering(assignment):
            return f"{name} {assignment.job}/{assignment.generation}"
        case commands.PrepareHost(host, assignment):
            (phase, *_) = command.phases
            gang = ", ".join(
                f"{member.pod} {first}..{end - 1}"
                for member, (first, end) in zip(command.members, phase.ranges, strict=True)
            )
            what = f"{assignment.job}/{assignment.generation}"
            start = ""
            if command.resume is not None:
                lacking = ", ".join(command.members[i].pod for i in command.resume.lacking)
                start = f" after step {command.resume.step}"
                start += f", which {lacking} lacks" if lacking else ""
            return f"{name} {_host(host)} {what} as {command.member_index} of [{gang}]{start}"
        case commands.GrantWindow(host, assignment, last_step):
            what = f"{assignment.job}/{assignment.generation}"
            return f"{name} {_host(host)} {what} up to {last_step}"
        case commands.ChangeExchange(host, assignment, first_step, rule):
            what = f"{assignment.job}/{assignment.generation}"
            return f"{name} {_host(host)} {what} to {rule.dtype} from {first_step} on"
        case commands.StopHost(host, assignment) | commands.HoldHost(host, assignment):
            return f"{name} {_host(host)} {assignment.job}/{assignment.generation}"
        case commands.RestartPod(pod, pids):
            return f"{name} {pod} {list(pids)}"
        case _:
            return f"{name} {_host(command.host)}"


def _host(host: HostRef) -> str:
    return f"{host.pod}/{host.index}{host.incarnation}"
