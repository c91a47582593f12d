import pytest

from whylens.compiled import PAYS_AFTER
from whylens.diffusion import load_sampler
from whylens.errors import UsageError
from whylens.execution import Execution, execution


def test_auto_is_on_where_there_is_a_gpu():
    assert execution("planted", {}, "cpu") == Execution(False, False, None)
    assert execution("planted", {}, "cuda:1") == Execution(True, True, PAYS_AFTER)
    assert execution("planted", {"kernels": "off"}, "cuda") == Execution(False, True, PAYS_AFTER)
    assert execution("planted", {"channels_last": "on"}, "cpu") == Execution(False, True, None)
    assert execution("planted", {"compile": "on"}, "cpu") == Execution(False, False, 0)
    assert execution("planted", {"compile": "off"}, "cuda") == Execution(True, True, None)


def test_another_choice_is_a_usage_error_before_anything_is_loaded():
    with pytest.raises(UsageError, match="kernels is one of auto, on, off, not 'yes'"):
        load_sampler("planted?kernels=yes")
