import pytest
import torch
from torch import nn

from examples.tiny_model.muon import BatchedMuon


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_steps_equal_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    batched = BatchedMuon(ours, lr=0.02, weight_decay=0.1)
    single = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = [weight.detach().clone() for weight in ours]
    for _ in range(3):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = torch.randn(shape)
            right.grad = left.grad.clone()
        batched.step()
        single.step()
    # Both round to bfloat16 on the way, each in its own order.
    for left, right, before in zip(ours, theirs, start, strict=True):
        assert (left - before).norm() > 0.01
        assert (left - right).norm() < 0.08 * (right - before).norm()
