"""One cluster for all tests. Half way through them a node is killed, under load, and nobody may notice."""

import pytest
from floor import Floor


@pytest.fixture(scope="session")
def floor(tmp_path_factory):
    floor = Floor(tmp_path_factory.mktemp("floor"))
    yield floor
    floor.close()


def pytest_collection_modifyitems(items):
    """Every test runs twice: with three nodes, and after one of them was killed; the killing is a test between."""
    before = [item for item in items if "killed" not in item.name]
    killing = [item for item in items if "killed" in item.name]
    items[:] = sorted(before, key=rounds) + []
    half = next((at for at, item in enumerate(items) if rounds(item) == 1), len(items))
    items[half:half] = killing


def rounds(item):
    return item.callspec.params["nodes"] == 2 if hasattr(item, "callspec") and "nodes" in item.callspec.params else 0


def pytest_generate_tests(metafunc):
    if "nodes" in metafunc.fixturenames:
        metafunc.parametrize("nodes", [3, 2], scope="session")


@pytest.fixture
def nodes():
    """How many nodes are alive: overridden by the two rounds."""


@pytest.fixture
def http(floor, nodes):
    return f"127.0.0.1:{floor.http}"


@pytest.fixture
def grpc(floor, nodes):
    return f"127.0.0.1:{floor.grpc}"
