"""What a launcher tells a process, in each of its spellings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_video.distributed.launch import is_launched, read_launch
from mlx_video.errors import ClusterError


def write(path: Path, value: object) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def test_the_ring_names_every_address_of_every_rank(tmp_path: Path):
    hosts = write(tmp_path / "hosts.json", [["10.0.0.1:5000", "10.0.1.1:5001"], ["10.0.0.2:5000"]])
    launch = read_launch({"MLX_RANK": "1", "MLX_HOSTFILE": hosts})
    assert launch is not None
    assert (launch.rank, launch.size) == (1, 2)
    assert launch.addresses == ((("10.0.0.1", 5000), ("10.0.1.1", 5001)), (("10.0.0.2", 5000),))
    assert launch.meeting == ("10.0.0.1", 5000)


def test_rdma_is_met_at_its_coordinator(tmp_path: Path):
    devices = write(tmp_path / "devices.json", [[None, "rdma_en2"], ["rdma_en3", None]])
    variables = {"MLX_RANK": "1", "MLX_IBV_DEVICES": devices, "MLX_JACCL_COORDINATOR": "10.0.0.1:32323"}
    launch = read_launch(variables)
    assert launch is not None
    assert (launch.rank, launch.size, launch.meeting) == (1, 2, ("10.0.0.1", 32323))


def test_runs_with_other_hosts_have_other_digests(tmp_path: Path):
    digests = set()
    for port in (1, 2):
        hosts = write(tmp_path / "hosts.json", [["10.0.0.1:5000"], [f"10.0.0.2:{port}"]])
        for rank in ("0", "1"):
            launch = read_launch({"MLX_RANK": rank, "MLX_HOSTFILE": hosts})
            assert launch is not None
            digests.add((port, launch.digest))
    assert len(digests) == len({digest for _, digest in digests}) == 2


def test_one_process_alone_and_those_of_mpi():
    assert not is_launched({})
    assert is_launched({"PMI_RANK": "0"})
    assert read_launch({"PMI_RANK": "0"}) is None
    alone = read_launch({"MLX_RANK": "0", "MLX_HOSTFILE": ""})
    assert alone is not None
    assert alone.size == 1


@pytest.mark.parametrize(
    ("rank", "text"), [("zero", "[]"), ("0", "{"), ("0", '[["a"], ["b"]]'), ("0", "[1, 2]")]
)
def test_what_cannot_be_read_is_told(tmp_path: Path, rank: str, text: str):
    path = tmp_path / "hosts.json"
    path.write_text(text)
    with pytest.raises(ClusterError, match=f"MLX_RANK {rank}: what the launcher told .* Start the command"):
        read_launch({"MLX_RANK": rank, "MLX_HOSTFILE": str(path)})
