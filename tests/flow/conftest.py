"""What tests of the flow share: a real SSH server that plays the boards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ssh_server import SshServer, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with running(SshServer(tmp_path_factory.mktemp("sshd"))) as started:
        yield started
