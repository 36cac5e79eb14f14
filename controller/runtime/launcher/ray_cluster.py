"""A Ray cluster on this machine for as long as the controller lives.

A process of its own starts it (`ray_head`). Ray forks its servers, and a fork of a controller that
serves gRPC can leave the child waiting for a lock that no thread of it holds: it was seen to hang.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys

STOP_SECONDS = 20.0
"""Ray gives its servers up to 10 s to leave."""

ADDRESS_MARK = "ray is ready: "


class RayCluster:
    """A running cluster."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address

    @classmethod
    async def start(cls, num_cpus: int, log: pathlib.Path) -> RayCluster:
        """Takes 5 to 20 s. Raises OSError when Ray does not start."""
        # Ray's own choice for a new cluster; named so that the controller connects with it too.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "controller.runtime.launcher.ray_head", str(num_cpus)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert process.stdout is not None
        async for line in process.stdout:
            before, mark, address = line.decode().strip().partition(ADDRESS_MARK)
            if mark and not before:
                return cls(process, address)
        await process.wait()
        raise OSError(f"no Ray cluster starts on this machine; {log} tells why")

    async def stop(self) -> None:
        """Returns when all its processes are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            # The kernel ends Ray's servers together with the process that started them.
            self._process.kill()
            await self._process.wait()
