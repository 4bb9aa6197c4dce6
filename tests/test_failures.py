"""What is said of an error in a network, and what keeps its traceback."""
import pytest
import torch
from torch import nn

from hybrid_mm.failures import explain


class Head(nn.Module):
    """Takes maps of 256 channels; its loss takes scores, boxes and regions, whose sizes say nothing of its channels."""

    def __init__(self, error):
        super().__init__()
        self.in_channels, self.error = 256, error
        self.fc = nn.Linear(256, 5)

    def forward(self, x):
        return self.fc(x)

    def loss(self, scores, boxes, regions):
        raise self.error


class Detector(nn.Module):

    def __init__(self, error):
        super().__init__()
        self.backbone = nn.Identity()
        self.bbox_head = Head(error)

    def forward(self, x):
        scores = self.bbox_head(self.backbone(x))
        self.bbox_head.loss(scores, scores, torch.zeros(2, 5))


def error_of(error=None, channels=256):
    with pytest.raises(Exception) as raised:
        Detector(error)(torch.zeros(2, channels))
    return raised.value


@pytest.mark.parametrize('error', [
    RuntimeError('CUDA error: device-side assert triggered'), torch.cuda.OutOfMemoryError('out of memory'),
    IndexError('Target 8 is out of bounds.'), AssertionError(),
    RuntimeError('The size of tensor a (4) must match the size of tensor b (5)')])
def test_an_error_of_a_loss_is_not_taken_for_channels_that_do_not_meet(error):
    assert explain(error_of(error)) is None


def test_channels_that_do_not_meet_are_named():
    assert explain(error_of(channels=128)) == (
        'model.bbox_head.fc (Linear) expects 256 channels and gets 128; model.bbox_head (Head) has in_channels=256, and gets '
        '2x128; set model.bbox_head.in_channels=128')
