"""One cluster for all tests. Half way through them a node is killed, under load, and nobody may notice."""

import pytest
from floor import Floor


@pytest.fixture(scope="session")
def floor(tmp_path_factory):
    floor = Floor(tmp_path_factory.mktemp("floor"))
    yield floor
    floor.close()


def pytest_collection_modifyitems(items):
    """Every test runs twice: with three members, and after one of them was killed; the killing is the test between."""
    items.sort(key=lambda item: 1 if "killed" in item.name else 0 if members_of(item) == 3 else 2)


def members_of(item):
    """How many members are alive when a test runs. What asks no member is of the first round."""
    return item.callspec.params.get("nodes", 3) if hasattr(item, "callspec") else 3


def pytest_generate_tests(metafunc):
    if "nodes" in metafunc.fixturenames:
        metafunc.parametrize("nodes", [3, 2], scope="session")


@pytest.fixture
def nodes():
    """How many members are alive: given by the two rounds."""


@pytest.fixture(autouse=True)
def round_of_members(request):
    """The rounds are what they say: no test of the second one runs while all members are alive, nor the other way."""
    if "nodes" in request.fixturenames:
        floor, nodes = request.getfixturevalue("floor"), request.getfixturevalue("nodes")
        assert floor.alive() == nodes


@pytest.fixture
def http(floor, nodes):
    return f"127.0.0.1:{floor.http}"


@pytest.fixture
def grpc(floor, nodes):
    return f"127.0.0.1:{floor.grpc}"
