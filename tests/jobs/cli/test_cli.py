"""The whylens command: one clear message for what is wrong, quick help, no traceback."""

import errno
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from whylens.jobs import investigate as investigating
from whylens.jobs.cli import main
from whylens.jobs.cli.commands import TOOLS
from whylens.jobs.cli.running import tool_command
from whylens.jobs.images import embed as embed_job
from whylens.jobs.registry import jobs, named
from whylens.jobs.report.part import limits
from whylens.runs import Run

IMAGES = "planted:linked?count=4"
CLASSIFIER = "planted:biased"


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run the command, which has to be refused before Ray starts; the exit code and its message."""
    monkeypatch.setattr(
        "whylens.cluster.session.start", lambda: pytest.fail("Ray was started for bad input")
    )

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        messages = [line for line in err.splitlines() if line.startswith("whylens: ")]
        assert len(messages) == 1, err
        assert "Traceback" not in out + err
        assert out == ""
        return stop.value.code, messages[0].removeprefix("whylens: ")

    return run


def embed(out: Path, images: object = IMAGES, classifier: str = CLASSIFIER) -> list[str]:
    return ["embed", "--images", str(images), "--classifier", classifier, "--out", str(out)]


def investigate(out: Path, *more: str) -> list[str]:
    return ["investigate", *embed(out)[1:], *more]


def test_an_unknown_classifier_is_named_with_those_there_are(refused, tmp_path):
    code, message = refused(*embed(tmp_path / "run", classifier="planted:nobody"))
    assert code == 2
    assert "'nobody'" in message
    assert "biased" in message
    code, message = refused(*embed(tmp_path / "run", classifier="resnet"))
    assert code == 2
    assert "unknown classifier 'resnet'" in message
    assert "timm:" in message
    # The right name can be given next: nothing was written that would hold the wrong one.
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_is_named(refused, tmp_path):
    code, message = refused(*embed(tmp_path / "run", tmp_path / "photos"))
    assert (code, message) == (2, f"no folder {tmp_path / 'photos'}")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images_tells_what_was_expected(refused, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    code, message = refused(*embed(tmp_path / "run", tmp_path / "photos"))
    assert code == 2
    assert message.startswith(f"no images in {tmp_path / 'photos'} (1 other files)")
    assert ".png" in message


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("clasifier: planted:biased", "unknown setting 'clasifier': do you mean 'classifier'?"),
        ("placement: {wokers: [1, 2]}", "'placement.wokers': do you mean 'workers'?"),
        ("generate: {imagess: 3}", "'generate.imagess': do you mean 'images'?"),
        (
            "generate: {guidance: {chain: {stepps: 3}}}",
            "'generate.guidance.chain.stepps': do you mean 'steps'?",
        ),
        (
            "generate: {guidance: {stepps: 3}}",
            "'generate.guidance.stepps': do you mean 'chain.steps'?",
        ),
        (
            "counterfactuals: {guidance: {held_steps: 3}}",
            "'counterfactuals.guidance.held_steps' is called "
            "'counterfactuals.guidance.chain.segment' now",
        ),
        (
            "zebra: 1",
            "unknown setting 'zebra'; there are: out, placement, retries, tolerate",
        ),
        ("report: {findigs: 3}", "unknown setting 'findigs': do you mean 'findings'?"),
        ("unit: many", "unit: Input should be a valid integer"),
        ("unit: 0", "greater than or equal to 1, not 0"),
        ("placement: {workers: [3, 2]}", "1 <= fewest <= most"),
        ("starts: {prompt_template: a photo}", "must name {class}"),
    ],
)
def test_a_wrong_line_in_a_spec_is_named(refused, tmp_path, line, hint):
    spec = tmp_path / "spec.yaml"
    spec.write_text(line)
    code, message = refused(*investigate(tmp_path / "run", "--spec", str(spec)))
    assert code == 2
    assert hint in message
    assert not (tmp_path / "run").exists()


def test_several_wrong_lines_are_all_named(refused, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("imags: x\nunit: -1\n")
    _, message = refused("embed", "--spec", spec)
    assert all(name in message for name in ("'imags'", "unit:", "'out' is missing", "--classifier"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "can't be read: No such file or directory"),
        (b"a: [1", "is not YAML"),
        (b"- a\n- b\n", "is not a mapping"),
        (b"\x89PNG\r\n\xff\xfe", "is not a text file"),
    ],
)
def test_a_spec_file_that_is_none_is_named(refused, tmp_path, content, reason):
    spec = tmp_path / "spec.yaml"
    if content is not None:
        spec.write_bytes(content)
    code, message = refused("embed", "--spec", spec)
    assert code == 2
    assert f"the spec {spec} {reason}" in message


@pytest.mark.parametrize("setting", ["components.classes", "counterfactuals.target"])
def test_a_class_that_no_classifier_knows_is_named_with_near_ones(refused, tmp_path, setting):
    value = "[bote]" if setting.endswith("classes") else "bote"
    words = investigate(tmp_path / "run", "--set", f"{setting}={value}")
    code, message = refused(*words)
    assert code == 2
    assert "planted:biased has no class 'bote'" in message
    assert "near names: boat" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("job", ["investigate", "disagreements"])
def test_an_unknown_sampler_is_named(refused, tmp_path, job):
    more = {
        "investigate": ["--images", IMAGES],
        "disagreements": ["--against", "planted:balanced", "--set", "disagreements.classes=[boat]"],
    }[job]
    out = tmp_path / "run"
    code, message = refused(
        job, *more, "--classifier", CLASSIFIER, "--sampler", "./nowhere", "--out", out
    )
    assert code == 2
    assert message.startswith("no sampler './nowhere'")
    assert "model_index.json" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("bote", "planted:biased has no class 'bote'"),
        ("near", "the prompt 'my pet' of the image 'a' lacks the word of its class, 'fish'"),
    ],
)
def test_a_counterfactual_that_is_asked_wrongly_leaves_no_run(refused, tmp_path, target, expected):
    spec = {"images": IMAGES, "classifier": CLASSIFIER}
    source = Run.start(str(tmp_path / "source"), "embed", spec)
    rows = [
        {"id": "a", "label": 3, "top5_classes": [3, 1], "collection": "main", "caption": "a fish"}
    ]
    source.table("images").write("0", pa.Table.from_pylist(rows))
    code, message = refused(
        "counterfactuals", "--source", source.folder, "--out", tmp_path / "run",
        "--set", f"counterfactuals.target={target}",
        "--set", "counterfactuals.prompts={a: my pet}",
    )  # fmt: skip
    assert code == 2
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_missing_options_are_named_as_they_are_typed(refused, tmp_path):
    code, message = refused("embed", "--images", IMAGES)
    assert code == 2
    assert "--out" in message
    assert "--classifier" in message
    code, message = refused("components", "--out", tmp_path / "run")
    assert (code, message) == (2, "the setting 'source' is missing (option --source)")


def test_a_source_that_is_no_run_is_named(refused, tmp_path):
    code, message = refused("components", "--source", tmp_path, "--out", tmp_path / "run")
    assert (code, message) == (2, f"{tmp_path} is not a run folder: it has no run.json")
    assert not (tmp_path / "run").exists()


def test_another_spec_in_the_same_folder_is_refused(refused, tmp_path):
    out = tmp_path / "run"
    Run.start(str(out), "embed", {"images": IMAGES, "unit": 256})
    before = (out / "run.json").read_bytes()
    code, message = refused(*embed(out, "planted:linked?count=5"))
    assert code == 2
    assert "images is 'planted:linked?count=4' there and 'planted:linked?count=5' here" in message
    assert "--out" in message
    code, message = refused(*investigate(out))
    assert "holds a run of the job 'embed', not 'investigate'" in message
    assert (out / "run.json").read_bytes() == before


@pytest.mark.parametrize("assignment", ["classifier", "classifier.x=1", "unit=[1"])
def test_a_setting_that_cannot_be_set_is_named(refused, tmp_path, assignment):
    code, message = refused(*embed(tmp_path / "run"), "--set", assignment)
    assert code == 2
    assert assignment in message


def test_an_output_folder_below_a_file_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    code, message = refused(*embed(out))
    assert code == 2
    assert message.startswith(f"the output folder {out} can't be written to")
    assert "--out" in message


def test_a_folder_that_the_system_refuses_is_one_message(refused, monkeypatch):
    monkeypatch.setattr("whylens.runs.storage.WAITS", (0.0,))
    code, message = refused(*embed(Path("/proc/whylens-run")))
    assert code in (1, 2)
    assert "/proc/whylens-run" in message


def test_a_full_disk_is_a_failure_that_can_be_gone_on_from(refused, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, message = refused(*embed(tmp_path / "run"))
    assert code == 1
    assert f"the disk of the output folder {tmp_path / 'run'} is full" in message
    assert "start the same command" in message
    assert list((tmp_path / "run").iterdir()) == []


class Disk:
    """A small filesystem in memory, whose size and mode can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mount("-t", "tmpfs", "-o", "size=256k", "tmpfs")

    def mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.folder)], check=True, capture_output=True)

    def change(self, options: str) -> None:
        self.mount("-o", f"remount,{options}")


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    try:
        made = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"filesystems can't be mounted here: {error}")
    yield made
    subprocess.run(["umount", "--lazy", str(made.folder)], check=True)


def test_a_read_only_disk_is_refused(refused, disk):
    disk.change("ro")
    code, message = refused(*embed(disk.folder / "run"))
    assert code == 2
    assert "can't be written to (Read-only file system)" in message


def command(*words: object, **settings: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | settings
    return subprocess.run(
        [sys.executable, "-m", "whylens.jobs.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_midway_keeps_what_is_finished(disk):
    out = disk.folder / "run"
    words = embed(out, "planted:linked?count=200")
    words += ["--set", "unit=20", "--set", "placement.workers=[1,1]"]
    result = command(*words)
    assert result.returncode == 1, result.stderr
    assert f"whylens: the disk of the output folder {out} is full" in result.stderr
    assert "Traceback" not in result.stderr
    finished = {path: path.stat().st_ino for path in out.glob("tables/images/*.parquet")}
    assert 0 < len(finished) < 10
    assert list(out.rglob(".aside-*")) == []
    disk.change("size=20m")
    result = command(*words)
    assert result.returncode == 0, result.stderr
    assert len(Run.open(str(out)).table("images").read()) == 200
    assert {path: path.stat().st_ino for path in finished} == finished


@pytest.mark.slow
def test_the_real_command_shows_a_traceback_only_when_asked(tmp_path):
    words = embed(tmp_path / "run", tmp_path / "photos")
    plain = command(*words)
    assert plain.returncode == 2
    assert plain.stderr.strip() == f"whylens: no folder {tmp_path / 'photos'}"
    debug = command(*words, "--debug")
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "UsageError" in debug.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "--clasifier", "x"], "No such option: --clasifier"),
        (["embed", "--unit", "many"], "Invalid value for '--unit'"),
        (["embedd"], "No such command 'embedd'"),
        (["report"], "Missing argument"),
    ],
)
def test_words_that_the_command_line_does_not_know(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_submit_refuses_what_cannot_work_before_it_looks_for_a_server(refused, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"images: {IMAGES}\nclassifier: {CLASSIFIER}\nout: runs/mine\n")
    code, message = refused("submit", "embd", spec)
    assert code == 2
    assert "unknown job 'embd'; jobs: investigate, embed" in message
    code, message = refused("submit", "embed", spec)
    assert code == 2
    assert "out: runs/mine would be lost" in message
    spec.write_text(spec.read_text() + "units: 3\n")
    assert "do you mean 'unit'" in refused("submit", "embed", spec)[1]


def test_no_cluster_at_the_address_is_one_message(capsys, tmp_path, monkeypatch):
    def nobody(**options: object) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    monkeypatch.setattr("ray.init", nobody)
    with pytest.raises(SystemExit) as stop:
        main(embed(tmp_path / "run"))
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "no Ray cluster answers at RAY_ADDRESS=192.0.2.1:6379" in err
    assert "Traceback" not in err


def test_ctrl_c_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def interrupted(spec: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embed_job, "JOB", replace(embed_job.JOB, run=interrupted))
    with pytest.raises(SystemExit) as stop:
        main(embed(tmp_path / "run"))
    assert stop.value.code == 130
    assert "start the same command again" in capsys.readouterr().err


def test_the_demo_takes_settings_as_any_job_does(tmp_path, monkeypatch):
    asked = []

    def begun(spec: object) -> None:
        asked.append(spec)
        raise KeyboardInterrupt

    job = replace(investigating.JOB, run=begun)
    monkeypatch.setattr(investigating, "JOB", job)
    file = tmp_path / "spec.yaml"
    file.write_text("generate: {images: 9}\nclassifier: planted:robust\n")
    for more in (
        [],
        ["--spec", str(file), "--set", "generate.guidance.chain.steps=7", "--unit", "5"],
    ):
        with pytest.raises(SystemExit):
            main(["demo", *more, "--set", "placement.workers=[1,3]"])
    plain, changed = asked
    assert (plain.out, plain.classifier, plain.unit) == ("out/demo", "planted:biased", 256)
    assert (changed.out, changed.classifier, changed.unit) == ("out/demo", "planted:robust", 5)
    assert plain.placement.workers == changed.placement.workers == (1, 3)
    # What is said of a stage counts, the rest of it stays the demo's.
    assert (changed.generate.images, changed.generate.findings) == (9, plain.generate.findings)
    assert changed.generate.guidance.chain.steps == 7
    assert changed.counterfactuals == plain.counterfactuals


@pytest.mark.parametrize("words", [["--help"], ["embed", "--help"]])
def test_help_loads_nothing_heavy(words):
    heavy = {"torch", "ray", "diffusers", "transformers", "timm", "streamlit", "faiss", "pyarrow"}
    if words != ["--help"]:
        heavy -= {"pyarrow", "ray"}
    look = (
        "import sys\nfrom whylens.jobs.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print(sorted({heavy!r} & sys.modules.keys()), file=sys.stderr)"
    )
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() == "[]", f"{result.stderr} after {time.monotonic() - began:.1f} s"
    assert "Usage: whylens" in result.stdout


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tool_takes_every_setting_of_its_spec(tool):
    taken = inspect.signature(tool_command(tool)).parameters
    settings = set(named(tool.spec).model_fields)
    shown = set(limits().model_fields) if "limits" in settings else set()
    json = {"as_json"} if tool.show else set()
    assert set(taken) == (settings - {"limits"}) | shown | json
    by_place = [name for name, one in taken.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert by_place == ([tool.given_by_place] if tool.given_by_place else [])


def listed(capsys, monkeypatch, *words: str) -> str:
    """What help says, on a terminal that is wide enough for every option's name."""
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 220)
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert not stop.value.code
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_help_shows_defaults(capsys, monkeypatch):
    assert "Images a unit. [default: 256]" in listed(capsys, monkeypatch, "embed")
    assert "[default: planted:biased]" in listed(capsys, monkeypatch, "demo")


def test_help_lists_every_job(capsys, monkeypatch):
    text = listed(capsys, monkeypatch)
    assert [name for name, job in jobs().items() if name not in text or job.help not in text] == []
    for name in ("demo", "report", "search", "dashboard", "submit", "planted"):
        assert re.search(rf"\b{name}\b", text)


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("embed", "--images --second --classifier --unit --batch --out"),
        ("index", "--source --out"),
        ("components", "--source --out"),
        ("exemplars", "--source --out"),
        ("generate", "--source --sampler --out"),
        ("counterfactuals", "--source --sampler --against --out"),
        ("disagreements", "--source --sampler --classifier --against --out"),
        ("neurons", "--source --sampler --against --out"),
        ("score", "--classifiers --images --spurious --spurious-column --unit --batch --out"),
        ("investigate", "--images --second --classifier --against --sampler --unit --batch --out"),
    ],
)
def test_every_job_lists_its_options(capsys, monkeypatch, job, options):
    text = listed(capsys, monkeypatch, job)
    flags = set(re.findall(r"(--[a-z-]+)", text))
    assert {*options.split(), "--spec", "--set"} <= flags
    # Settings that are no options are named, so that --set can be used for them.
    assert "placement" in text


def test_the_installed_command_is_this_one():
    program = Path(sys.executable).parent / "whylens"
    if not program.exists():
        program = Path(shutil.which("whylens") or pytest.fail("whylens is not installed"))
    assert "from whylens.jobs.cli import main" in program.read_text()
