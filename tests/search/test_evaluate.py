"""BatchNorm's statistics are estimated anew, and nothing else of a model is touched."""
import pytest
import torch
from torch import nn

from hybrid_mm.search.evaluate import reestimate_batchnorm


class Net(nn.Module):
    """A norm behind a dropout that would change everything, and a record of the modes in each pass."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.norm = nn.BatchNorm2d(3, momentum=0.1)
        self.last = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GroupNorm(1, 3))
        self.modes = []

    def forward(self, inputs, mode):
        assert mode == 'tensor' and not torch.is_grad_enabled()
        self.modes.append({name: module.training for name, module in self.named_modules()})
        return self.last(self.norm(self.drop(inputs)))


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return [dict(inputs=3 * torch.randn(4, 3, 5, 6) + k) for k in range(4)]


def test_statistics_are_the_mean_over_the_batches(batches):
    net = Net().train()
    net.norm.running_mean.fill_(7)
    net.norm.running_var.fill_(7)
    reestimate_batchnorm(net, iter(batches))
    inputs = [batch['inputs'].transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(net.norm.running_mean, torch.stack([x.mean(1) for x in inputs]).mean(0))
    torch.testing.assert_close(net.norm.running_var, torch.stack([x.var(1) for x in inputs]).mean(0))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    reestimate_batchnorm(net, iter(batches))  # nothing is left of the first time
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_batchnorm_alone_is_in_training_mode(batches):
    net = Net().train()
    reestimate_batchnorm(net, iter(batches))
    assert len(net.modes) == 4
    for modes in net.modes:
        assert {name for name, training in modes.items() if training} == {'norm', 'last.1'}
    assert not any(module.training for module in net.modules())
    assert [net.norm.momentum, net.last[1].momentum] == [0.1, 0.1]


def test_modes_and_momentum_are_put_back_after_an_error(batches):
    net = Net().train()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(net, [*batches[:1], dict(inputs=torch.zeros(1, 5, 2, 2))])
    assert not any(module.training for module in net.modules()) and net.norm.momentum == 0.1


def test_network_without_batchnorm_is_not_run():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3))
    reestimate_batchnorm(net, iter([dict(inputs=None)]))
    assert not net.training
