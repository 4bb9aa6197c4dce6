"""hybrid_mm.WeightedCrossEntropyLoss: weights of classes where pixels are unlabelled."""
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch.nn import functional as F

from hybrid_mm.errors import SetupError

WEIGHTS = [0.5, 1.0, 4.0]


def build(class_weight, **options):
    return MODELS.build(dict(type='hybrid_mm.WeightedCrossEntropyLoss', class_weight=class_weight, **options))


@pytest.fixture
def case():
    torch.manual_seed(0)
    labels = torch.randint(3, (2, 5, 7))
    labels[0, :2] = 255
    return torch.randn(2, 3, 5, 7, dtype=torch.double, requires_grad=True), labels


def test_weights_are_those_of_pytorch_and_unlabelled_pixels_count_nothing(case):
    scores, labels = case
    expected = F.cross_entropy(scores, labels, torch.tensor(WEIGHTS, dtype=torch.double), ignore_index=255)
    loss = build(WEIGHTS)(scores, labels, ignore_index=255)
    torch.testing.assert_close(loss, expected)
    gradient, reference = (torch.autograd.grad(value, scores, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(gradient, reference)
    assert not gradient[0, :, :2].any() and gradient[1].all()


def test_a_factor_of_all_weights_changes_nothing(case):
    losses = [build([factor * weight for weight in WEIGHTS])(*case) for factor in (1, 9)]
    torch.testing.assert_close(*losses)


def test_the_weight_of_the_loss_is_a_factor(case):
    torch.testing.assert_close(build(WEIGHTS, loss_weight=0.4)(*case), 0.4 * build(WEIGHTS)(*case))


def test_without_labelled_pixels_the_loss_is_zero(case):
    scores, labels = case
    loss = build(WEIGHTS)(scores, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0 and not scores.grad.any()


def test_weights_of_pixels_are_factors_of_their_losses(case):
    """As OHEMPixelSampler gives them."""
    scores, labels = case
    kept = torch.zeros_like(labels, dtype=torch.double)
    kept[:, :, :3] = 1
    weights = torch.tensor(WEIGHTS, dtype=torch.double)
    each = F.cross_entropy(scores, labels, weights, ignore_index=255, reduction='none')
    expected = (each * kept).sum() / weights[labels[labels != 255]].sum()
    torch.testing.assert_close(build(WEIGHTS)(scores, labels, weight=kept), expected)


def test_a_head_of_mmsegmentation_takes_it(case):
    pytest.importorskip('mmseg.models')
    loss = dict(type='hybrid_mm.WeightedCrossEntropyLoss', class_weight=WEIGHTS)
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(type='mmseg.FCNHead', in_channels=4, channels=4, num_convs=0, concat_input=False, num_classes=3,
                                 loss_decode=loss, sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=2)))
    assert list(head.state_dict()) == ['conv_seg.weight', 'conv_seg.bias']  # as with the stock loss
    scores, labels = case
    losses = head.loss_by_feat(scores.float(), [_sample(label) for label in labels])
    assert losses['loss_ce'] > 0 and losses['loss_ce'].requires_grad


def _sample(label):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    return SegDataSample(gt_sem_seg=PixelData(data=label[None]))


@pytest.mark.parametrize('weights', [[], [1., 0., 2.], [1., -1., 2.], [1., float('nan'), 2.]], ids=str)
def test_weights_that_are_no_weights_are_refused(weights):
    with pytest.raises(SetupError, match='class_weight=.* is not allowed; give a number above 0 for each class'):
        build(weights)


def test_another_number_of_weights_than_classes_is_one_sentence(case):
    with pytest.raises(SetupError, match='class_weight has 2 values, but the head has num_classes=3'):
        build([1., 2.])(*case)
