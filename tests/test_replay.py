"""Recorded calls give what plain calls give, in whatever order backward comes."""

import gc

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.guidance import GuidanceSettings, Problems, TargetClass, solve
from whylens.replay import Replayed


def network(x, y):
    return torch.tanh(x) * y.sin() + x


class Simulated:
    """A recording on a CPU: values in memory of its own, which the next call overwrites."""

    made = 0

    def __init__(self, network, inputs):
        type(self).made += 1
        self.network = network
        self.inputs = [one.detach().clone().requires_grad_(one.requires_grad) for one in inputs]
        self.out = torch.empty_like(inputs[0]).detach()
        asking = [one for one in self.inputs if one.requires_grad]
        if asking and torch.is_grad_enabled():  # As a recording warms up.
            torch.autograd.grad(network(*self.inputs).sum(), asking)

    def forward(self, inputs):
        with torch.no_grad():
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given)
        with torch.enable_grad(), saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved):
            self.graph = self.network(*self.inputs)
        self.out.copy_(self.graph.detach())
        return self.out

    def backward(self, gradient):
        asking = [one for one in self.inputs if one.requires_grad]
        found = iter(torch.autograd.grad(self.graph, asking, gradient))
        return [next(found) if one.requires_grad else None for one in self.inputs]


@pytest.fixture(autouse=True)
def _none_made():
    Simulated.made = 0


class Always(set):
    """Every shape is one that repeats."""

    def __contains__(self, key):
        return True


def always(call=network):
    replayed = Replayed(call, Simulated)
    replayed._repeated = Always()
    return replayed


def inputs(size=3, asks=(True, True)):
    return [torch.randn(size, dtype=torch.float64).requires_grad_(a) for a in asks]


def chain(call, x, ys):
    for y in ys:
        x = call(x, y)
    return x


def test_a_chain_that_holds_its_calls_has_the_gradients_of_plain_calls():
    replayed = always()
    for _ in range(3):
        x, *ys = (torch.randn(4, dtype=torch.float64).requires_grad_() for _ in range(6))
        found = torch.autograd.grad(chain(replayed, x, ys).sum(), [x, *ys])
        wanted = torch.autograd.grad(chain(network, x, ys).sum(), [x, *ys])
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    # Five calls are held at once, and are free again after each backward.
    assert Simulated.made == 5


def test_a_checkpoint_drops_its_recordings_and_takes_others_when_it_computes_again():
    replayed = always()
    x, *ys = (torch.randn(4, dtype=torch.float64).requires_grad_() for _ in range(7))
    out = x
    for part in (ys[:3], ys[3:]):
        out = checkpoint(chain, replayed, out, part, use_reentrant=False)
        assert Simulated.made == 1
    found = torch.autograd.grad(out.sum(), [x, *ys])
    wanted = torch.autograd.grad(chain(network, x, ys).sum(), [x, *ys])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert Simulated.made == 3


def test_a_call_that_nobody_goes_back_through_frees_its_recording():
    replayed = always()
    first = replayed(*inputs())
    assert Simulated.made == 1
    del first
    gc.collect()
    second, kept = replayed(*inputs()), replayed(*inputs())
    assert Simulated.made == 2
    assert second.shape == kept.shape


def test_results_are_the_callers_own():
    replayed = always()
    with torch.no_grad():
        (x, y), (u, v) = inputs(), inputs()
        first = replayed(x, y)
        replayed(u, v)
        assert torch.equal(first, network(x, y))
    assert Simulated.made == 1


def test_shapes_and_what_asks_for_gradients_are_recorded_apart_once_they_repeat():
    replayed = Replayed(network, Simulated, after=2)
    for size, asks in [(3, (True, True)), (3, (True, False)), (3, (False, False))]:
        for call in range(4):
            replayed.announce()
            x, y = inputs(size, asks)
            out = replayed(x, y)
            assert torch.equal(out, network(x, y))
            if any(asks):
                asking = [one for one in (x, y) if one.requires_grad]
                found = torch.autograd.grad(out.sum(), asking)
                wanted = torch.autograd.grad(network(x, y).sum(), asking)
                assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            del out
            assert bool(Simulated.made) == (call >= 2)
        assert Simulated.made == 1
        Simulated.made = 0


def test_a_batch_that_shrinks_lets_go_of_the_recordings_of_the_larger_one():
    replayed = always()
    for size in (4, 3):
        x, y = inputs(size)
        torch.autograd.grad(replayed(x, y).sum(), [x, y])
    assert [len(home) for home in replayed._free.values()] == [1]


def test_without_memory_the_chain_ends_and_later_ones_are_plain():
    def full(network, inputs):
        raise torch.OutOfMemoryError

    replayed = Replayed(network, full, after=1)
    x, y = inputs()
    replayed(x, y)
    replayed.announce()
    with pytest.raises(torch.OutOfMemoryError):
        replayed(x, y)
    for _ in range(3):
        replayed.announce()
        assert torch.equal(replayed(x, y), network(x, y))


def test_backward_comes_once():
    replayed = always()
    x, y = inputs()
    out = replayed(x, y)
    torch.autograd.grad(out.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError, match="before"):
        torch.autograd.grad(out.sum(), x)


def test_an_optimisation_of_recorded_calls_is_one_of_plain_calls():
    """Through checkpoints, guidance, and a batch that a problem leaves."""
    classifier = load_classifier("planted:biased").double()
    asked = GuidanceSettings.model_validate(
        {
            "chain": {"steps": 4, "segment": 2},
            "optimiser": {"steps": 5, "stop_below": 0.3},
            "views": {"cutouts": 2, "predictions": 2},
        }
    )
    found = []
    for recorded in (False, True):
        sampler = load_sampler("random:tiny", dtype=torch.float64)
        if recorded:
            sampler.replayed = Replayed(sampler.call_denoiser, Simulated, after=1)
        problems = Problems.from_prompts(sampler, ["a", "b c"], [1, 2])
        objective = TargetClass(classifier, torch.tensor([1, 2]))
        solutions = solve(sampler, problems, objective, asked)
        found.append([solution.loss_trajectory for solution in solutions])
    assert found[0] == found[1]
    lengths = [len(losses) for losses in found[0]]
    assert min(lengths) < max(lengths)
    # A segment of both problems, and one of the problem that is left.
    assert Simulated.made == 4
