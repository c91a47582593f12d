import pytest
from pydantic import ValidationError

from whylens.guidance.settings import GuidanceSettings


def test_the_defaults_go_together():
    assert GuidanceSettings().optimisation_steps == 20


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rte": 0.1}, "learning_rte"),
        ({"steps": 0}, "steps"),
        ({"guidance_scale": -0.5}, "guidance_scale"),
        ({"held_steps": 0}, "held_steps"),
        ({"gradient_steps": 2, "last_predictions": 3}, "last_predictions is 3.*last 2 steps"),
        ({"cutout_min": 1.5}, "cutout_min"),
        ({"steps": 2, "last_predictions": 3}, "last_predictions is 3.*has 2 steps"),
        ({"latents_factor": 0, "text_factor": 0, "null_factor": 0}, "nothing is left to optimise"),
        (
            {"latents_factor": 0, "text_factor": 0, "guidance_scale": 1},
            "nothing is left to optimise",
        ),
        (
            {"latents_factor": 0, "text_factor": 0, "guidance_scale": 0},
            "nothing is left to optimise",
        ),
    ],
)
def test_settings_that_can_not_work_are_refused_before_any_work(wrong, said):
    with pytest.raises(ValidationError, match=said):
        GuidanceSettings(**wrong)


def test_nothing_has_to_be_optimised_where_no_steps_are_asked_for():
    settings = GuidanceSettings(
        optimisation_steps=0, latents_factor=0, text_factor=0, null_factor=0, last_predictions=10
    )
    assert settings.last_predictions == settings.steps
