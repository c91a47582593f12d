import pytest
from pydantic import ValidationError

from whylens.guidance.settings import GuidanceSettings


def test_the_defaults_go_together():
    assert GuidanceSettings().optimiser.steps == 20


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimiser": {"learning_rte": 0.1}}, "learning_rte"),
        ({"chain": {"steps": 0}}, "steps"),
        ({"chain": {"guidance_scale": -0.5}}, "guidance_scale"),
        ({"chain": {"segment": 0}}, "segment"),
        (
            {"chain": {"gradient_steps": 2}, "views": {"predictions": 3}},
            r"views\.predictions is 3.*last 2 steps",
        ),
        ({"views": {"smallest": 1.5}}, "smallest"),
        (
            {"chain": {"steps": 2}, "views": {"predictions": 3}},
            r"views\.predictions is 3.*has 2 steps",
        ),
        ({"optimiser": {"cosine_floor": 0.1}}, "set optimiser.cosine"),
        ({"editing": {"outside": "held", "mask": "none"}}, "there is no outside"),
        ({"optimiser": {"clipping": "rescale"}}, "set clip"),
        (
            {"optimiser": {"latents_factor": 0, "text_factor": 0, "null_factor": 0}},
            "nothing is left to optimise",
        ),
        (
            {
                "optimiser": {"latents_factor": 0, "text_factor": 0},
                "chain": {"guidance_scale": 1},
            },
            "nothing is left to optimise",
        ),
        (
            {
                "optimiser": {"latents_factor": 0, "text_factor": 0},
                "chain": {"guidance_scale": 0},
            },
            "nothing is left to optimise",
        ),
    ],
)
def test_settings_that_can_not_work_are_refused_before_any_work(wrong, said):
    with pytest.raises(ValidationError, match=said):
        GuidanceSettings(**wrong)


def test_nothing_has_to_be_optimised_where_no_steps_are_asked_for():
    settings = GuidanceSettings(
        optimiser={"steps": 0, "latents_factor": 0, "text_factor": 0, "null_factor": 0},
        views={"predictions": 10},
    )
    assert settings.views.predictions == settings.chain.steps
