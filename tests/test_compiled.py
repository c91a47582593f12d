import pytest
import torch
from torch import nn

from whylens.compiled import SIZES, CompiledBlocks, repeated_blocks, uncompiled
from whylens.kernels import frozen_conv, geglu, group_norm_silu


class Counting:
    """A backend that runs a graph as it is, and counts graphs and their runs."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*given):
            self.runs += 1
            return graph.forward(*given)

        return run


@pytest.fixture(autouse=True)
def _no_graphs_of_others():
    torch._dynamo.reset()


def layers(count=2):
    made = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(count))
    return made.requires_grad_(False)


def called(network, rows, *, grad=True):
    x = torch.randn(rows, 3, requires_grad=grad)
    for block in network:
        x = block(x)
    return x


@pytest.mark.slow
def test_the_operations_are_whole_graphs_with_the_same_results():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 5, 4, generator=generator).to(memory_format=torch.channels_last)
    scale, shift, kernel = (torch.randn(s, generator=generator) for s in (8, 8, (8, 8, 3, 3)))
    wide, bias = (torch.randn(s, generator=generator) for s in ((12, 8), 12))

    def network(x):
        h = frozen_conv(group_norm_silu(x, scale, shift, groups=2), kernel, shift, padding=(1, 1))
        return geglu(h.flatten(2).transpose(1, 2), wide, bias)

    found = []
    for run in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        found.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    for value, true in zip(*found, strict=True):
        size = float(true.detach().abs().max())
        torch.testing.assert_close(value, true, rtol=1e-5, atol=1e-5 * size)


class ByName(nn.Module):
    """A block that is called by its inputs' names, as those of Stable Diffusion 3 are."""

    def forward(self, states, other=None):
        return states * 2


def test_inputs_may_be_given_by_name():
    block, backend = ByName(), Counting()
    CompiledBlocks([block], backend=backend).announce(1)
    x = torch.randn(2, 3, requires_grad=True)
    torch.testing.assert_close(block(states=x, other=None), 2 * x)
    torch.testing.assert_close(block(states=x.detach()), 2 * x)
    # The second is not differentiated.
    assert (backend.graphs, backend.runs) == (1, 1)


def test_calls_that_are_differentiated_are_compiled_once_for_all_blocks_alike():
    network, backend = layers(), Counting()
    compiled = CompiledBlocks(network, backend=backend)
    compiled.announce(1)
    called(network, 4)
    assert (backend.graphs, backend.runs) == (1, 2)
    called(network, 4, grad=False)
    with torch.no_grad():
        called(network, 4)
    with uncompiled():
        called(network, 4)
    assert (backend.graphs, backend.runs) == (1, 2)


def test_only_the_first_sizes_are_compiled():
    network, backend = layers(1), Counting()
    CompiledBlocks(network, backend=backend).announce(1)
    for rows in (4, 2, 3, 5, 4):
        called(network, rows)
    assert (backend.graphs, backend.runs) == (SIZES, SIZES + 1)


def test_it_waits_until_it_pays_and_changes_between_calls_alone():
    network, backend = layers(1), Counting()
    compiled = CompiledBlocks(network, after=10, backend=backend)
    compiled.announce(20)
    for _ in range(20):
        called(network, 4)
    assert backend.runs == 0
    compiled.announce(20)
    called(network, 4)
    assert backend.runs == 1
    network, backend = layers(), Counting()
    CompiledBlocks(network, after=3, announced=False, backend=backend)
    for _ in range(5):
        called(network, 4)
    assert backend.runs == 2 * 2


def test_a_size_that_comes_seldom_is_not_compiled():
    """Such as the last unit's: its blocks would be compiled again for a few calls."""
    network, backend = layers(1), Counting()
    compiled = CompiledBlocks(network, after=10, backend=backend)
    for rows, runs in ((4, 0), (4, 5), (2, 5), (4, 10), (3, 10), (2, 10), (2, 15)):
        compiled.announce(10 if rows == 4 else 5)
        for _ in range(5):
            called(network, rows)
        assert backend.runs == runs
    assert backend.graphs == 2


def test_the_blocks_that_a_network_has_most_of_are_found():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(*layers(1)), layers(3))
    assert repeated_blocks(network) == []

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2))

    stages = nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block()), nn.Linear(2, 2))
    assert [type(block) for block in repeated_blocks(stages)] == [Block] * 3
