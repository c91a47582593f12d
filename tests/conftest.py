"""A Ray session for a whole file of tests, since starting one takes seconds; the files' order."""

import pytest


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest: `make test` gives files to two processes in turn."""
    items.sort(key=lambda item: item.path.name != "test_resume.py")


@pytest.fixture(scope="module")
def ray():
    """A local session with this machine's cores."""
    import ray

    from whylens.cluster.session import session

    assert not ray.is_initialized(), "another test left its Ray session behind"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with session() as started:
            yield started
