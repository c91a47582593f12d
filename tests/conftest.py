"""One Ray session for all the pool's tests: starting one takes seconds."""

import pytest


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
