"""Effective receptive fields of networks whose fields are known, and ParC-ResNet50's against ResNet-50's."""
import copy

import pytest
import torch
from torch import nn

from hybrid_mm.analysis import area, effective_receptive_field, square_side
from hybrid_mm.backbones import ParCResNet


def convolution(kernel_size, stride=1, dilation=1):
    conv = nn.Conv2d(3, 2, kernel_size, stride=stride, padding=dilation * (kernel_size // 2), dilation=dilation)
    nn.init.ones_(conv.weight)
    return conv


def test_convolution_has_the_field_of_its_kernel():
    field = effective_receptive_field(convolution(5), 21, num_images=2)
    assert field.centre == (10, 10)
    torch.testing.assert_close(field.gradient[8:13, 8:13], torch.full((5, 5), 1 / 25, dtype=torch.float64))
    assert field.gradient.sum() == pytest.approx(1) and field.gradient.count_nonzero() == 25
    assert area(field.gradient, 1) == 25 / 441
    assert area(field.gradient, 0.95) == 24 / 441
    assert area(field.gradient, 0.2) == 5 / 441
    assert [square_side(field.gradient, f, field.centre) for f in (0.04, 0.36, 0.5, 1)] == [1, 3, 5, 5]


def test_strided_map_has_its_centre_where_it_looks():
    field = effective_receptive_field(convolution(4, stride=4), (16, 24), num_images=1)
    rows, columns = field.gradient.sum(1).nonzero(), field.gradient.sum(0).nonzero()
    # 5 x 7 positions, so the middle one looks at the middle of the image
    assert (rows.min(), rows.max()) == (6, 9) and (columns.min(), columns.max()) == (10, 13)
    assert field.centre == (7.5, 11.5)


def test_even_gradient_needs_its_own_share():
    even = torch.full((10, 10), 0.01)
    assert area(even, 0.5) == pytest.approx(0.5, abs=0.01)
    assert square_side(even, 1, (4.5, 4.5)) == 10
    assert square_side(even, 0.36, (4.5, 4.5)) == 6


def test_layers_and_outputs_can_be_chosen_and_the_module_stays_as_it_was():

    class Pyramid(nn.Module):

        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = convolution(3), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1)
            self.second.weight.requires_grad_(False)

        def forward(self, x):
            x = self.norm(self.first(x))
            return x, self.second(x)

    pyramid = Pyramid().train()
    pyramid.second.eval()
    before = copy.deepcopy(pyramid)
    sides = [int(effective_receptive_field(pyramid, 15, feature, 1).gradient.count_nonzero()) for feature in ('first', 0, 1)]
    assert sides == [9, 9, 25]
    assert all(torch.equal(a, b) for a, b in zip(pyramid.state_dict().values(), before.state_dict().values()))
    assert [m.training for m in pyramid.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in pyramid.parameters()] == [p.requires_grad for p in before.parameters()]


def test_field_of_parc_resnet_is_larger_than_resnets():
    areas = []
    for insert_locations in [(), (3, 4, 3, 2)]:
        torch.manual_seed(0)
        model = ParCResNet(50, insert_locations=insert_locations, out_indices=(2, ))
        model.init_weights()
        areas.append(area(effective_receptive_field(model, 224, num_images=2).gradient, 0.95))
    assert areas[1] > 1.1 * areas[0]


@pytest.mark.parametrize('feature, message', [
    (None, 'returns 2 maps'),
    (2, 'returns 2 maps'),
    ('nothing', "feature='nothing' is no layer"),
    ('1', 'not a map'),
])
def test_unknown_features_are_named(feature, message):

    class Two(nn.Sequential):

        def forward(self, x):
            x = self[0](x)
            return x, self[1](x)

    with pytest.raises(ValueError, match=message):
        effective_receptive_field(Two(convolution(3), nn.Flatten()), 8, feature)


def test_bad_fractions_and_dead_maps_are_errors():
    with pytest.raises(ValueError, match='fraction=0 is not allowed'):
        area(torch.ones(3, 3), 0)
    dead = convolution(3)
    nn.init.zeros_(dead.weight)
    with pytest.raises(ValueError, match='no influence'):
        effective_receptive_field(dead, 8)
