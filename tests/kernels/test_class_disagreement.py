import pytest
import torch
from torch.utils.checkpoint import checkpoint

from whylens.kernels.backend import use_triton
from whylens.kernels.class_disagreement import disagreement, reference

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def problem(batch, classes_a, classes_b, dtype=torch.float32, spread=3.0):
    generator = torch.Generator().manual_seed(batch + classes_a)
    return (
        (torch.randn(batch, classes_a, generator=generator) * spread).to(dtype).requires_grad_(),
        (torch.randn(batch, classes_b, generator=generator) * spread).to(dtype).requires_grad_(),
        torch.randint(classes_a, (batch,), generator=generator),
        torch.randint(classes_b, (batch,), generator=generator),
    )


def compare(inputs):
    weights = torch.linspace(-1, 2, len(inputs[0]))
    results = []
    for operation in (disagreement, reference):
        values = operation(*inputs)
        grads = torch.autograd.grad((values * weights).sum(), inputs[:2])
        results.append((values, *grads))
    for value, true in zip(*results, strict=True):
        assert value.dtype == true.dtype
        tolerance = TOLERANCE[value.dtype]
        torch.testing.assert_close(value, true, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("batch", "classes_a", "classes_b"),
    [(1, 1, 2), (3, 10, 7), (2, 1024, 1025), (5, 1000, 2100), (0, 4, 4)],
)
def test_values_and_gradients_are_the_references(batch, classes_a, classes_b, dtype):
    compare(problem(batch, classes_a, classes_b, dtype))


def test_non_contiguous_logits_and_int32_targets():
    a, b, targets_a, targets_b = problem(4, 6, 9)
    strided = torch.randn(9, 4).t().requires_grad_()
    rows = torch.randn(8, 6)[::2].requires_grad_()
    compare((rows, strided, targets_a.int(), targets_b))
    columns = torch.randn(4, 18)[:, ::2].requires_grad_()
    compare((a.detach()[:1].expand(4, 6).requires_grad_(), columns, targets_a, targets_b))
    compare((a, b.detach().bfloat16().requires_grad_(), targets_a, targets_b))


def test_gradcheck():
    a, b, targets_a, targets_b = problem(3, 4, 6)
    a, b = (t.detach().double().requires_grad_() for t in (a, b))
    assert torch.autograd.gradcheck(lambda a, b: disagreement(a, b, targets_a, targets_b), (a, b))


def test_known_values():
    ln = torch.tensor([1.0, 2.0, 7.0]).log()  # probabilities 0.1, 0.2, 0.7
    values = disagreement(
        torch.stack([ln, ln + 50.0]), torch.zeros(2, 4), torch.tensor([2, 0]), torch.tensor([0, 3])
    )
    torch.testing.assert_close(values, torch.tensor([-0.7 + 0.25, -0.1 + 0.25]))


def test_extreme_and_masked_logits_stay_finite():
    a = torch.tensor([[1e4, -1e4, 0.0], [5.0, 0.0, float("-inf")]], requires_grad=True)
    b = torch.tensor([[-80.0, 90.0], [3.0, 3.0]], requires_grad=True)
    values = disagreement(a, b, torch.tensor([0, 2]), torch.tensor([0, 1]))
    torch.testing.assert_close(values, torch.tensor([-1.0, 0.5]))
    for gradient in torch.autograd.grad(values.sum(), (a, b)):
        assert gradient.isfinite().all()
        # A softmax doesn't see a shift of all logits.
        torch.testing.assert_close(gradient.sum(1), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("frozen", [0, 1])
def test_only_the_wanted_gradient_is_made(frozen):
    inputs = list(problem(3, 5, 8))
    inputs[frozen] = inputs[frozen].detach()
    disagreement(*inputs).sum().backward()
    expected = [t.detach().clone().requires_grad_() for t in inputs[:2]]
    reference(*expected, *inputs[2:]).sum().backward()
    assert inputs[frozen].grad is None
    torch.testing.assert_close(inputs[1 - frozen].grad, expected[1 - frozen].grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_under_a_checkpoint(reentrant):
    inputs = problem(3, 5, 8)
    checkpoint(disagreement, *inputs, use_reentrant=reentrant).sum().backward()
    found = [t.grad for t in inputs[:2]]
    expected = torch.autograd.grad(reference(*inputs).sum(), inputs[:2])
    for value, true in zip(found, expected, strict=True):
        torch.testing.assert_close(value, true)


def test_a_target_that_is_no_class_is_never_read():
    a, b, targets_a, targets_b = problem(2, 5, 8)
    targets_a[1] = 5
    if use_triton(a, b):
        values = disagreement(a, b, targets_a, targets_b)
        assert values.isfinite().tolist() == [True, False]
    else:
        with pytest.raises((IndexError, RuntimeError)):
            disagreement(a, b, targets_a, targets_b)


def test_wrong_arguments_are_named():
    a, b, targets_a, targets_b = problem(3, 5, 8)
    with pytest.raises(ValueError, match="logits_b"):
        disagreement(a, b[:2], targets_a, targets_b)
    with pytest.raises(ValueError, match="targets_a"):
        disagreement(a, b, targets_a[:1], targets_b)
    with pytest.raises(TypeError, match="targets_b"):
        disagreement(a, b, targets_a, targets_b.float())
    with pytest.raises(TypeError, match="logits_a"):
        disagreement(a.int(), b, targets_a, targets_b)
