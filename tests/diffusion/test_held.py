"""What is counted as held is what autograd saves, without the networks' own tensors."""

import pytest
import torch
from torch import nn

from whylens.diffusion import held
from whylens.diffusion.held import free_bytes, held_by


def test_a_call_s_saved_tensors_are_counted_once_and_parameters_never():
    network = nn.Sequential(nn.Linear(10, 30), nn.SiLU(), nn.Linear(30, 5)).requires_grad_(False)
    rows = torch.randn(7, 10, requires_grad=True)
    # By hand: of two frozen linear layers nothing but their weights, of SiLU its input.
    assert held_by(lambda: network(rows), [network]) == (7 * 30 * 4, 7 * 30 * 4)
    # A tensor that two operations save is one: x * x * x saves x and x * x.
    assert held_by(lambda: rows * rows * rows).kept == 2 * 7 * 10 * 4
    assert held_by(lambda: rows.detach() * 2).kept == 0


def test_it_counts_where_there_is_no_memory_at_all():
    with torch.device("meta"):
        network = nn.Conv2d(3, 8, 3, padding=1)
        images = torch.empty(2, 3, 100, 100, requires_grad=True)
    # Its weight trains, so its input is kept.
    kept = held_by(lambda: network(images).relu(), [network]).kept
    assert kept == 2 * (3 + 8) * 100 * 100 * 4


def test_free_memory_is_this_process_s_part_of_what_is_available(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(held, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(held, "CGROUP", tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 4 * torch.get_num_threads())
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   400 kB\n")
    assert free_bytes(cpu) == 100 * 1024
    # A container may have less than its machine.
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_bytes(cpu) == 100 * 1024
    (tmp_path / "memory.max").write_text("9000\n")
    assert free_bytes(cpu) == 2000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_allocator_is_asked():
    network = nn.Conv2d(3, 8, 3, padding=1).cuda().requires_grad_(False)
    images = torch.randn(2, 3, 256, 256, device="cuda", requires_grad=True)
    found = held_by(lambda: network(images).sigmoid(), [network])
    # The sigmoid's output, at least; backward needs more than that for a while.
    assert 2 * 8 * 256 * 256 * 4 <= found.kept <= found.peak
    assert 0 < free_bytes(images.device) <= torch.cuda.mem_get_info()[1]
