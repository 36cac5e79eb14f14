"""Has programs lowered: runs `python -m model.lower` with a deadline and keeps what comes out.

The controller imports no jax; the subprocess does. Bundles are cached by the digest of everything
that decides their bytes: the request, the platform, the versions of the packages that lower, and
the sources of model/.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from controller.core import commands, events
from controller.core.cluster import Assignment
from controller.core.program import Program
from controller.runtime.launcher.command import leashed

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 300.0
"""palm-540b for 3,072 devices lowers in under a second once jax is imported; minutes mean a
hang."""

_ERROR_LINES = 12
_VERSIONED_PACKAGES = ("landbridge", "jax", "jaxlib", "flax", "optax")


class LoweringError(Exception):
    """The lowerer refused or died; the message is what a person needs of its output."""


class Lowerer:
    """Runs at most one subprocess per assignment; results are posted as events."""

    def __init__(self, bundles: pathlib.Path, post: Callable[[events.Event], None]) -> None:
        self._bundles = bundles
        self._post = post
        self._tasks: dict[Assignment, asyncio.Task[None]] = {}

    def start(self, command: commands.LowerProgram) -> None:
        """Begin; ProgramLowered or LoweringFailed is posted in the end."""
        task = asyncio.create_task(self._lower(command))
        self._tasks[command.assignment] = task
        task.add_done_callback(lambda _: self._tasks.pop(command.assignment, None))

    def abandon(self, assignment: Assignment) -> None:
        """Kill the subprocess of an assignment nobody wants any more."""
        task = self._tasks.get(assignment)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Kill all and wait for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _lower(self, command: commands.LowerProgram) -> None:
        try:
            program = await self._program(command)
        except LoweringError as error:
            self._post(events.LoweringFailed(command.assignment, str(error)))
        except Exception as error:
            # Whatever it is, a job that holds pods must hear of it.
            logger.exception("%s cannot be lowered", command.assignment.job)
            detail = f"{type(error).__name__}: {error}"
            self._post(events.LoweringFailed(command.assignment, detail))
        else:
            self._post(events.ProgramLowered(command.assignment, program))

    async def _program(self, command: commands.LowerProgram) -> Program:
        request = {**json.loads(command.request), "platform": command.platform}
        cached = self._bundles / f"{_cache_key(request)}.json"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            result = json.loads(await asyncio.to_thread(cached.read_text))
            if (self._bundles / pathlib.Path(result["path"]).name).is_file():
                return _program_of(result)
        result = await self._run(request)
        partial = cached.with_suffix(f".{command.assignment.job}.partial")
        await asyncio.to_thread(partial.write_text, json.dumps(result))
        await asyncio.to_thread(partial.replace, cached)
        return _program_of(result)

    async def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        request_path = self._bundles / f"{_cache_key(request)}.request.json"
        await asyncio.to_thread(request_path.write_text, json.dumps(request, sort_keys=True))
        lower = [sys.executable, "-m", "model.lower", str(request_path), "--out", self._bundles]
        process = await asyncio.create_subprocess_exec(
            # It would go on for a controller that was killed.
            *leashed([str(word) for word in lower]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # The lowerer needs no accelerator and must not take one from the workers.
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            raise LoweringError(f"lowering took more than {DEADLINE_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            raise LoweringError(_useful_lines(stdout.decode(), stderr.decode()))
        return json.loads(stdout.decode().strip().splitlines()[-1])


def _cache_key(request: Mapping[str, Any]) -> str:
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED_PACKAGES}
    identity = json.dumps([request, versions, _sources_digest()], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def _sources_digest() -> str:
    """Of model/, so that an edit during development is never answered from the cache."""
    import model

    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(next(iter(model.__path__))).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _program_of(result: Mapping[str, Any]) -> Program:
    manifest = result["manifest"]
    return Program(
        digest=result["digest"],
        parameters=manifest["parameters"],
        model_flops_per_token=manifest["model_flops_per_token"],
        hardware_flops_per_token=manifest["hardware_flops_per_token"],
        gradient_bytes=sum(
            _bytes_of(buffer)
            for segment in manifest["segments"]
            for group in segment["groups"]
            for buffer in manifest["groups"][group]
        ),
    )


def _bytes_of(buffer: Mapping[str, Any]) -> int:
    size = {"bfloat16": 2, "float16": 2, "float64": 8}.get(buffer["dtype"], 4)
    for extent in buffer["shape"]:
        size *= extent
    return size


def _useful_lines(stdout: str, stderr: str) -> str:
    """Problems when the lowerer named them, else the end of its traceback."""
    lines = stdout.strip().splitlines()
    with contextlib.suppress(json.JSONDecodeError, KeyError, IndexError, TypeError):
        problems = json.loads(lines[-1])["problems"]
        return "; ".join(f"{p['pointer']}: {p['detail']} ({p['hint']})" for p in problems)
    return "\n".join((stderr.strip() or stdout.strip()).splitlines()[-_ERROR_LINES:])
