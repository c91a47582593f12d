"""Every job of the registry, through the command, on a planted run as small as it gets."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest

from whylens.jobs.cli import main
from whylens.jobs.registry import find, jobs
from whylens.runs import Run

Unit = TypeVar("Unit")
GUIDANCE = "{chain: {steps: 2}, optimiser: {steps: 1}, views: {cutouts: 1}}"
IMAGES = "planted:linked?count=90&seed=7"
SECOND = "planted:unlinked?count=60&seed=8"
CHANGES = f"counterfactuals={{images: 1, guidance: {GUIDANCE}}}"
MADE = f"generate={{findings: 1, images: 1, guidance: {GUIDANCE}}}"
APART = f"disagreements={{classes: [fish], scout: 1, images: 1, guidance: {GUIDANCE}}}"
COMPONENTS = "components={top: 2, mined: 8, min_images: 3, classes: [fish, boat]}"
FINDINGS = "exemplars={findings: 1, at_least: 1, exemplars: 1}"
NEURONS = (
    "neurons={neurons: [3], words: 1, samples: 1, images: 1, changed: 1, exemplars: 4, "
    f"guidance: {GUIDANCE}, changing: {GUIDANCE}}}"
)
VISUALISED = "visualisations={steps: 1}"
SETS = ("starts.images=1", COMPONENTS, FINDINGS, VISUALISED, MADE, CHANGES, APART)
BIASED = "--classifier planted:biased"
SCORED = f"--classifiers planted:biased --images {SECOND}"
# What each job is asked for; <job> is the folder of that job's run.
ASKED = {
    "embed": [f"--images {IMAGES} --second {SECOND} {BIASED}"],
    "index": ["--source <embed>"],
    "components": ["--source <embed>", COMPONENTS],
    "exemplars": ["--source <components>", FINDINGS, VISUALISED],
    "visualisations": ["--source <exemplars>", VISUALISED],
    "generate": ["--source <exemplars>", "starts.images=1", MADE],
    "counterfactuals": ["--source <embed>", CHANGES],
    "disagreements": [f"{BIASED} --against planted:balanced", "starts.images=1", APART],
    "neurons": ["--source <embed>", NEURONS],
    "evaluate": ["--runs <counterfactuals> --independent planted:robust"],
    "confirm": ["--source <investigate>", "confirm={judge: planted:balanced, least: 2}"],
    "groups": ["--source <components>", "groups={collection: second, least: 2}"],
    "errors": ["--source <components>", "errors={collection: second, least: 2}"],
    "names": ["--source <exemplars> --model planted:clip", "names={images: 2, others: 4}"],
    "foreground": [f"{BIASED} --images planted:linked?count=8&seed=7", "foreground={trials: 1}"],
    "map": ["--source <components>"],
    "score": [f"{SCORED} --spurious planted:spurious?count=60"],
    "investigate": [
        f"--images {IMAGES} --second {SECOND} {BIASED} --against planted:balanced", *SETS
    ],
}  # fmt: skip
# What the terminal says at the end, of jobs that say more than what was written.
SAID = {
    "exemplars": "What the classifier relies on",
    "investigate": "What the classifier relies on",
    "evaluate": "Counterfactuals, measured",
    "confirm": "systematic error",
    "groups": "Accuracy by group",
    "errors": "mistakes",
    "names": "is named",
    "score": "Spurious score: who relies least",
}


class Runs:
    """Runs of jobs, made when they are asked for, once, and what the command said of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[str, str] = {}

    def of(self, job: str) -> str:
        """The folder of the job's run."""
        out = str(self.folder / job)
        if job not in self.said:
            options, *settings = ASKED[job]
            for other in ASKED:
                if f"<{other}>" in options:
                    options = options.replace(f"<{other}>", self.of(other))
            settings = ["placement.workers=[1,1]", *settings]
            sets = [word for setting in settings for word in ("--set", setting)]
            with redirect_stdout(StringIO()) as said, pytest.raises(SystemExit) as stop:
                main([job, *options.split(), *sets, "--out", out])
            assert not stop.value.code
            self.said[job] = said.getvalue()
        return out


class InProcess(Generic[Unit]):
    """A pool whose one worker is this process: starting others would take most of the time."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any], placement: Any) -> None:
        self.make, self.arguments = make, arguments

    def map(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        worker = self.make(*self.arguments)
        return ((unit, worker(unit)) for unit in units)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whylens.cluster.session.start", lambda: SimpleNamespace(nodes=list))
        patch.setattr("whylens.cluster.pool.WorkerPool", InProcess)
        yield Runs(tmp_path_factory.mktemp("runs"))


def test_every_job_is_tried():
    assert set(ASKED) == set(jobs())


@pytest.mark.slow
@pytest.mark.parametrize("job", ASKED)
def test_a_job_is_done_and_says_so(job, runs):
    run, tables = Run.open(runs.of(job)), find(job).tables
    assert (run.record()["job"], run.record()["state"]) == (job, "finished")
    assert f"The run is in {run.folder}" in runs.said[job]
    assert SAID.get(job, f"{tables[-1]}: ") in runs.said[job]
    # It writes the tables that it is said to write.
    there = {path.name for path in Path(run.folder, "tables").iterdir()}
    assert tables[-1] in there
    assert there <= set(tables)
