"""Where workers run is checked before anything starts."""

import pytest
from pydantic import ValidationError

from whylens.cluster.placement import Placement


def test_the_default_runs_anywhere():
    placement = Placement()
    assert placement.device == "cpu"
    assert placement.workers == (1, 8)


@pytest.mark.parametrize("gpus", [0.25, 1, 2])
def test_workers_with_gpus_run_on_them(gpus):
    assert Placement(num_gpus=gpus).device == "cuda"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": [0, 2]}, "1 <= fewest <= most"),
        ({"workers": [3, 2]}, r"not \(3, 2\)"),
        ({"workers": [1]}, "workers"),
        ({"num_gpus": -1}, "num_gpus"),
        ({"num_cpus": 0}, "num_cpus"),
        ({"classifiers": "elsewhere"}, "colocated"),
        ({"worker": [1, 2]}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Placement(**settings)
