"""Which tests are slow, in which order they run, and a Ray session for a whole file of them."""

import sys
from collections import Counter

import pytest

# A Ray session, images that the planted sampler draws and inverts, photos' features.
SLOW_FIXTURES = {"ray", "planted", "real"}


@pytest.hookimpl(tryfirst=True)  # before -m "not slow" is heard
def pytest_collection_modifyitems(items):
    """Mark who asks for something slow, and begin with the files that hold most.

    `make test` gives files to two processes in turn: what is small comes last, so that both end
    together. One test of `test_resume.py` takes longer than most files.
    """
    for item in items:
        if SLOW_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    weights = Counter()
    for item in items:
        weights[item.path] += 10 if item.get_closest_marker("slow") else 1
    items.sort(
        key=lambda item: (item.path.name != "test_resume.py", -weights[item.path], item.path)
    )


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """What whylens keeps on a machine is not this machine's user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHYLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _drawn_as_alone():
    """What a test draws from torch's own generator does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="module")
def ray():
    """A local session with this machine's cores; starting one takes seconds."""
    import ray

    from whylens.cluster.session import session

    assert not ray.is_initialized(), "another test left its Ray session behind"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with session() as started:
            yield started
