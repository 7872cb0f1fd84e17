"""`edgeq boards`: the file it writes, what it refuses, and probing real and simulated boards."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.boards.entries import FILE_VARIABLE, Entry, add_entry, read_entries
from edgeq.boards.probe import facts_of
from edgeq.errors import UsageError
from tests.command_line import edgeq
from tests.ssh_server import SshServer, running


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """boards.toml of this test."""
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "config" / "boards.toml"))
    return tmp_path / "config" / "boards.toml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with running(SshServer(tmp_path_factory.mktemp("sshd"))) as started:
        yield started


def test_add_list_remove(file: Path) -> None:
    added = edgeq("boards", "add", "pi5", "--host", "pi.local", "--user", "pi", "--label", "arm", "--label", "desk")
    assert added.exit == 0 and added.stdout == f"described in {file}\nNext: edgeq boards probe pi5\n"
    assert tomllib.loads(file.read_text()) == {"pi5": {"host": "pi.local", "user": "pi", "labels": ["arm", "desk"]}}
    again = edgeq("boards", "add", "pi5", "--host", "other")
    assert (again.exit, again.stderr) == (
        2, "error: there is a board of this name; got pi5. Add --replace to change it.\n"
    )  # fmt: skip
    assert edgeq("boards", "add", "pi5", "--host", "other", "--port", 2222, "--replace").exit == 0
    listed = edgeq("boards", "list", "--json").document
    assert listed["boards"][-1]["host"] == "other" and listed["boards"][-1]["port"] == 2222
    assert {"local", "rv32imc-sim", "pi5"} <= {board["name"] for board in listed["boards"]}
    assert "pi5               other:2222\n" in edgeq("boards", "list").stdout
    removed = edgeq("boards", "remove", "pi4")
    assert removed.exit == 2 and "Did you mean pi5?" in removed.stderr
    assert edgeq("boards", "remove", "pi5").exit == 0 and read_entries() == {}


def test_names_and_values_survive_the_file() -> None:
    entry = Entry("a.b", "host", key='~/my "keys"\\é', labels=('it\'s "x"',), known_hosts="/a b")
    add_entry(entry)
    assert read_entries() == {"a.b": entry}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "local"}, "cannot be the name of a board; got local"),
        ({"name": "rv32imc-sim"}, "cannot be the name of a board"),
        ({"name": "a b"}, "cannot be the name of a board"),
        ({"host": "-oProxyCommand=x"}, "cannot be a host"),
        ({"host": ""}, "cannot be a host"),
        ({"port": 0}, "cannot be a port"),
        ({"work": "tmp"}, "must be an absolute path"),
    ],
)
def test_entries_that_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        add_entry(Entry(**{"name": "pi", "host": "pi", **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pi]\nhost = 'a'\npassword = 'b'", "passwords are not stored"),
        ("[pi]\nhost = 'a'\nprot = 22", "Did you mean port?"),
        ("[pi]\nhost = 'a'\nport = '22'", "wrong type; at .*port; got 22"),
        ("[pi]\nhost = 'a'\nlabels = [1]", "wrong type"),
        ("pi = 1", "one table per board"),
        ("[pi", "cannot be read"),
    ],
)
def test_files_that_are_refused(file: Path, text: str, message: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_entries()


def test_probe_of_a_board_behind_ssh(server: SshServer) -> None:
    add_entry(server.entry("pi", python=sys.executable))
    ran = edgeq("boards", "probe", "pi", "rv32imc-sim", "--json")
    assert ran.exit == 0, ran.stderr
    pi, simulated = ran.document["boards"]
    assert pi["name"] == "pi" and pi["cores"] >= 1 and pi["packages"]["onnxruntime"] and pi["free_bytes"] > 0
    assert simulated["model"] == "RISC-V RV32IMC"
    told = edgeq("boards", "probe", "pi").stdout
    assert told.startswith("pi\n") and "onnxruntime" in told and sys.executable in told
    assert server.left() == []


def test_probe_of_a_board_that_is_not_there(server: SshServer) -> None:
    add_entry(server.entry("pi", known_hosts="/nowhere"))
    ran = edgeq("boards", "probe", "pi", "--json")
    assert ran.exit == 6 and ran.document["exit"] == 6
    assert ran.document["error"].startswith("the host key is unknown; at pi ") and ran.document["command"] == "boards"
    unknown = edgeq("boards", "probe", "pi4")
    assert unknown.exit == 2 and "Did you mean pi?" in unknown.stderr


JETSON = """model=NVIDIA Jetson Orin Nano Developer Kit
soc=nvidia,tegra234
cpu=ARMv8 Processor rev 1 (v8l)
machine=aarch64
cores=6
memory_kb=7802392
l4t=# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64
jetpack=6.2+b77
governor=schedutil
clock_khz=1510400
max_clock_khz=1510400
temperature:cpu-thermal=49312
temperature:gpu-thermal=50062
nvpmodel=15W
jetson_clocks=1510400 1510400
trtexec=/usr/src/tensorrt/bin/trtexec
tensorrt=100300
free_kb=1024
throttled=0x50000
package:tensorrt=10.3.0
"""


def test_what_the_lines_of_a_probe_mean() -> None:
    facts = facts_of(JETSON + "a warning without the sign\n")
    assert (facts.model, facts.soc, facts.cores) == ("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,tegra234", 6)
    assert (facts.tensorrt, facts.jetpack, facts.nvpmodel, facts.clocks_locked) == ("10.3.0", "6.2+b77", "15W", True)
    assert facts.temperatures_c == {"cpu-thermal": 49.312, "gpu-thermal": 50.062}
    assert facts.memory_bytes == 7802392 * 1024 and facts.packages == {"tensorrt": "10.3.0"}
    assert facts.throttling == ("under-voltage has occurred", "throttling has occurred")
    assert facts_of("").clocks_locked is None and facts_of("cores=many").cores == 0
    json.dumps(facts.document())
