"""Which tests are slow, the files' order, and a Ray session for a whole file of tests."""

import pytest

# A Ray session, and images that the planted sampler draws and inverts.
SLOW_FIXTURES = {"ray", "planted"}


@pytest.hookimpl(tryfirst=True)  # before -m "not slow" is heard
def pytest_collection_modifyitems(items):
    """Mark who asks for something slow, and begin with the files that have slow tests.

    `make test` gives files to two processes in turn: what is small comes last, so that both end
    together, and what takes longest is first.
    """
    for item in items:
        if SLOW_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_resume.py", item.path not in slow))


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
