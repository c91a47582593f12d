"""The paper's settings, as its code has them, against a loop written from them.

The loop below knows nothing of whylens: diffusers' pipeline and its own DDIM step, torch's Adam and
autograd from the loss to all that moves, in one graph and float64. Only what is random is taken
from whylens: where crops are, and their noise.
"""

import runpy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from whylens.classifiers import Classifier, Head
from whylens.diffusion import load_sampler
from whylens.guidance.descent import Descent
from whylens.guidance.objectives import Disagreement, TargetClass
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.views import ViewGenerator
from whylens.jobs.guided.disagreement_plan import DisagreementSpec
from whylens.jobs.spec import read_yaml
from whylens.kernels.cutouts import normal

ROOT = Path(__file__).parents[2]
tiny = runpy.run_path(str(ROOT / "tests" / "diffusion" / "tiny_pipeline.py"))
PROMPT, SEED, TARGET, STEPS = "a photograph of a boat", 20, 3, 6


class Small(Classifier):
    """Of 8 x 8 pixels, half of the sampler's side; without kinks."""

    def __init__(self, seed):
        super().__init__(f"small {seed}", tuple("abcdef"), 8)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 16, 3), nn.SiLU(), nn.Flatten()
            )
            self.last = nn.Linear(16 * 16, 6)
        self.double().requires_grad_(False)
        # So that it is sure of something.
        self.last.weight.mul_(8)

    @property
    def head(self):
        return Head(self.last.weight, self.last.bias)

    def preprocess(self, images):
        if images.shape[-1] == 8:
            return images
        return F.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)

    def features(self, images):
        return self.body(self.preprocess(images))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # With Stable Diffusion 1.4's scheduler; of images so pale that no pixel is saturated: there
    # whylens lets gradients pass that lead back, and a clamp does not (docs/reproduce.md).
    made = tiny["save_pipeline"](tmp_path_factory.mktemp("published"), "epsilon")
    weights = made / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        state[name] = state[name] / 4
    save_file(state, weights, metadata={"format": "pt"})
    return made


def published(chain, views, optimiser):
    """The spec's settings, for six steps."""
    given = read_yaml(str(ROOT / "docs" / "specs" / "disagreements-robust.yaml"))
    spec = DisagreementSpec.model_validate(given["disagreements"])
    settings = spec.guidance.model_dump()
    assert settings["chain"]["steps"] == 20
    settings["chain"]["steps"] = chain
    settings["optimiser"] |= {"steps": STEPS, **optimiser}
    settings["views"] |= views
    return GuidanceSettings.model_validate(settings)


# As listed: in the paper's section 3, and by the defaults of its code.
SCALE = 3.0
RATE, LATENTS = 0.01, 0.1
WEIGHTS = (1 / 6, 2 / 6, 3 / 6)
# The code's other choices of an optimiser.
CLIPPED = {"clip": 1e-4, "clipping": "rescale", "cosine": True, "cosine_floor": 0.1}
# Objective, views, optimiser; the chain's 20 steps once, since fewer are walked alike.
WHOLE, FEW = 20, 3
CASES = {
    "cross-entropy, the whole chain": ("cross-entropy", {}, {}, WHOLE),
    "cross-entropy without noise": ("cross-entropy", {"noise": 0.0}, {}, FEW),
    "cross-entropy without crops": ("cross-entropy", {"cutouts": 0}, {}, FEW),
    "disagreement": ("disagreement", {}, {}, FEW),
    "disagreement without noise": ("disagreement", {"noise": 0.0}, {}, FEW),
    "disagreement without crops": ("disagreement", {"cutouts": 0}, {}, FEW),
    "log disagreement": ("log disagreement", {}, {}, FEW),
    "clipped, along a cosine": ("cross-entropy", {"cutouts": 0}, CLIPPED, FEW),
}


@dataclass
class Loop:
    """Images, losses and first gradient of the loop."""

    images: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    first: list = field(default_factory=list)


def loop(folder, loss, views, variant, chain):
    """One image, as the settings say. `views` gives the crops of an image; None: itself."""
    pipeline = DiffusionPipeline.from_pretrained(folder).to(torch.float64)
    # As Stable Diffusion 1.4's configuration has it, which the small one lacks.
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(chain)
    with torch.no_grad():
        text, null = pipeline.encode_prompt(PROMPT, "cpu", 1, True)
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(SEED)).double()
    latents = z.requires_grad_()
    text_delta, null_delta = (
        torch.zeros(chain, *text.shape, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    adam = torch.optim.Adam(
        [
            {"params": [latents], "lr": RATE * LATENTS},
            {"params": [text_delta], "lr": RATE},
            {"params": [null_delta], "lr": RATE},
        ]
    )
    rates = None
    if "cosine" in variant:
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS, eta_min=RATE / 10)
    norm, found = latents.detach().norm(), Loop()
    for step in range(STEPS + 1):
        z, decoded = latents, []
        for index, time in enumerate(scheduler.timesteps):
            embeddings = torch.cat([null + null_delta[index], text + text_delta[index]])
            both = pipeline.unet(torch.cat([z, z]), time, encoder_hidden_states=embeddings).sample
            without, with_text = both.chunk(2)
            noise = without + SCALE * (with_text - without)
            taken = scheduler.step(noise, time, z)
            z = taken.prev_sample
            if index >= chain - len(WEIGHTS):
                x0 = taken.pred_original_sample / pipeline.vae.config.scaling_factor
                decoded.append((pipeline.vae.decode(x0).sample / 2 + 0.5).clamp(0, 1))
        found.images.append(decoded[-1].detach())
        found.losses.append(float(loss(decoded[-1]).mean().detach()))
        if step == STEPS:
            return found
        seen = decoded if views is None else [views(image) for image in decoded]
        adam.zero_grad()
        sum(w * loss(one).mean() for w, one in zip(WEIGHTS, seen, strict=True)).backward()
        variables = [latents, text_delta, null_delta]
        if step == 0:
            found.first = [variable.grad.clone() for variable in variables]
        if "clip" in variant:
            for variable in variables:
                torch.nn.utils.clip_grad_norm_(variable, variant["clip"], "inf")
        adam.step()
        with torch.no_grad():
            latents.mul_(norm / latents.norm())
        if rates is not None:
            rates.step()


def pooled(image, box, size):
    """A crop [1, 3, size, size]: the mean of the image over each of its parts, by integrals."""
    top, left, tall, wide = (float(value) for value in box)

    def means(start, side, pixels):
        """[size, pixels]: how much of a pixel is in each part."""
        edges = start + side / size * torch.arange(size + 1, dtype=torch.float64)
        # The integral of pixel p from 0 to t is min(max(t - p, 0), 1).
        up_to = (edges[:, None] - torch.arange(pixels, dtype=torch.float64)).clamp(0, 1)
        return up_to.diff(dim=0) * size / side

    rows, columns = means(top, tall, image.shape[2]), means(left, wide, image.shape[3])
    return rows @ image @ columns.T


class GivenViews:
    """The crops and the noise that whylens' views of the problem would be, in their order."""

    def __init__(self, settings):
        self.settings = settings.views
        self.drawn = ViewGenerator([SEED], settings.views)

    def __call__(self, image):
        views = self.drawn.draw([0], image.device)
        boxes = views.boxes[0].double() * image.shape[-1]
        crops = torch.cat([pooled(image, box, 8) for box in boxes])
        noise = normal(views.keys, len(boxes), 3, 8)[:, 0]
        return crops + self.settings.noise * noise.double()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_a_loop_written_from_the_settings_comes_to(folder, monkeypatch, case):
    kind, views, variant, chain = CASES[case]
    a, b = Small(0), Small(1)
    target = torch.tensor([TARGET])

    def loss(images):
        logits_a, logits_b = a.logits(images), b.logits(images)
        if kind == "cross-entropy":
            return F.cross_entropy(logits_a, target.expand(len(images)), reduction="none")
        if kind == "disagreement":
            return -logits_a.softmax(1)[:, TARGET] + logits_b.softmax(1)[:, TARGET]
        return -logits_a.log_softmax(1)[:, TARGET] + logits_b.log_softmax(1)[:, TARGET]

    settings = published(chain, views, variant)
    drawn = None if settings.views.cutouts == 0 else GivenViews(settings)
    expected = loop(folder, loss, drawn, variant, chain)
    objective = {
        "cross-entropy": TargetClass(a, target),
        "disagreement": Disagreement(a, b, target, target),
        "log disagreement": Disagreement(a, b, target, target, "log_ratio"),
    }[kind]
    gradients = []
    moved = Descent.moved

    def watched(self, step, variables, slopes):
        gradients.append({name: slope.clone() for name, slope in slopes.items()})
        return moved(self, step, variables, slopes)

    monkeypatch.setattr(Descent, "moved", watched)
    sampler = load_sampler(f"{folder}?set_alpha_to_one=true", dtype=torch.float64)
    problems = Problems.from_prompts(sampler, [PROMPT], [SEED])
    states = list(optimise(sampler, problems, objective, settings))
    # Image 0.
    assert 0 < states[0].images.min() < states[0].images.max() < 1
    torch.testing.assert_close(states[0].images, expected.images[0], rtol=0, atol=1e-6)
    # The first gradient, of each variable to a millionth of its largest entry.
    latents, text, null = expected.first
    for name, own in (
        ("latents", latents), ("text_delta", text.transpose(0, 1)),
        ("null_delta", null.transpose(0, 1)),
    ):  # fmt: skip
        largest = float(own.abs().max())
        assert largest > 0
        torch.testing.assert_close(gradients[0][name], own, rtol=0, atol=1e-6 * largest)
    losses = [float(state.losses) for state in states]
    assert len(losses) == STEPS + 1
    assert losses == pytest.approx(expected.losses, abs=1e-6)
    assert abs(losses[-1] - losses[0]) > 1e-4
    assert float((states[-1].images - expected.images[-1]).abs().max()) < 1e-6
