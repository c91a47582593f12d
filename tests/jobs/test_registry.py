"""The registry: what it reads of a job's module is what the module says."""

import pytest

from whylens.errors import UsageError
from whylens.jobs.registry import find, jobs, named
from whylens.jobs.spec import JobSpec


@pytest.mark.parametrize("name", list(jobs()))
def test_a_job_is_what_its_module_says(name):
    listed = jobs()[name]
    job = listed.job()
    assert (job.name, job.help) == (name, listed.help)
    assert issubclass(job.spec, JobSpec)
    assert job.tables
    assert job.show is None or callable(named(job.show))


def test_the_order_is_that_in_which_images_go_through_them():
    names = list(jobs())
    order = ["investigate", "embed", "components", "exemplars", "counterfactuals", "evaluate"]
    assert sorted(order, key=names.index) == order


def test_an_unknown_job_is_told_which_there_are():
    with pytest.raises(UsageError, match="unknown job 'embd'; jobs: investigate, embed"):
        find("embd")
