"""Every backbone takes images of any size, and what it makes of one does not depend on the others of its batch."""
import pytest
import torch
from backbones.features import BACKBONES
from hypothesis import strategies as st
from properties.drawn import drawn

from hybrid_mm.registry import MODELS


@pytest.mark.parametrize('name', BACKBONES)
def test_a_batch_of_any_size_is_its_images_one_by_one(name):
    torch.manual_seed(0)
    backbone = MODELS.build(BACKBONES[name]).double()
    for value in backbone.state_dict().values():  # statistics and factors unlike their start
        if value.is_floating_point() and value.ndim <= 1:
            value.add_(0.1 * torch.rand_like(value))
    backbone.eval()
    last = getattr(backbone, 'stage_stride', lambda index: 32)(3)

    @drawn(5, batch=st.integers(1, 4), height=st.integers(last, 120), width=st.integers(last, 120), order=st.randoms(),
           memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]))
    def one_by_one(batch, height, width, order, memory_format):
        images = torch.randn(batch, 3, height, width, dtype=torch.float64).contiguous(memory_format=memory_format)
        places = list(range(batch))
        order.shuffle(places)
        with torch.no_grad():
            together = backbone(images)
            alone = zip(*(backbone(image[None]) for image in images))
            shuffled = backbone(images[places])
        for whole, parts, mixed in zip(together, alone, shuffled, strict=True):
            assert whole.isfinite().all() and whole.shape[0] == batch
            # two orders of the same sums
            tolerance = dict(rtol=1e-8, atol=1e-8 * max(1., whole.abs().max().item()))
            torch.testing.assert_close(whole, torch.cat(parts), **tolerance)
            torch.testing.assert_close(whole[places], mixed, **tolerance)

    one_by_one()
