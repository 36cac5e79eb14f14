import pathlib

import pytest

from workers.config import WorkerConfig
from workers.main import serve


def config(**fields: str) -> WorkerConfig:
    return WorkerConfig("127.0.0.1:1", "pod-0", 0, pathlib.Path("unused"), **fields)


def test_worker_that_peers_cannot_dial_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="add --advertise HOST:PORT"):
        serve(config(listen="0.0.0.0:8410", join_token="secret"))


def test_worker_open_to_other_machines_without_a_token_is_refused():
    with pytest.raises(ValueError, match="set LANDBRIDGE_JOIN_TOKEN"):
        serve(config(listen="10.0.0.1:8410"))
