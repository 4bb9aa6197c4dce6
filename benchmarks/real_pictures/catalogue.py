"""The tasks, the networks, the pairs and the experiments of the benchmark."""
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple


class Task(NamedTuple):
    """What is learned from which pictures."""
    title: str
    config: str  # name of the config for a network, below configs/real
    folder: str  # below the folder of the data
    size: Tuple[int, int]  # height and width of a picture in the test, for the multiply-adds
    part: str  # that the metrics are of
    metrics: Dict[str, str]  # name in a table -> name in the log; the first one counts
    digits: int  # behind the point
    validates: bool  # whether there is another part for validation
    changes: Dict[str, Any] = {}  # of the config


_BOXES = {'box AP': 'coco/bbox_mAP', 'box AP50': 'coco/bbox_mAP_50'}
_MASKS = {'mask AP': 'coco/segm_mAP', 'mask AP50': 'coco/segm_mAP_50', **_BOXES}
TASKS = {
    'camvid': Task('CamVid', 'upernet_{}_camvid', 'camvid', (360, 480), 'test', {'mIoU': 'mIoU'}, 1, True),
    # most pictures have 256 x 256 pixels, and the config tests at 1.5 times the size
    'dsb2018': Task('Data Science Bowl 2018', 'maskrcnn_{}_dsb2018', 'dsb2018', (384, 384), 'val', _MASKS, 3, False),
    'bccd': Task('BCCD', 'fasterrcnn_{}_bccd', 'bccd', (288, 384), 'test', _BOXES, 3, True),
}

# Drawn shapes, for pre-training: the heads and the recipe of a task, with the pictures of tools/datasets/make_shapes.py.
_SHAPES_SIZE = 192, 256
SHAPES: Dict[str, Any] = dict(train=2000, val=100, size=_SHAPES_SIZE, seed=0)
SHAPES_CLASSES = ('disc', 'triangle', 'striped square', 'checked diamond')


def _drawn_maps(part: str) -> Dict[str, Any]:
    prefix = dict(img_path=f'images/{part}', seg_map_path=f'annotations/{part}')
    classes = ('background', *SHAPES_CLASSES)
    return dict(dataset=dict(data_prefix=prefix, reduce_zero_label=True, metainfo=dict(_delete_=True, classes=classes)))


def _drawn_instances(part: str) -> Dict[str, Any]:
    return dict(dataset=dict(ann_file=f'annotations/instances_{part}.json', data_prefix=dict(img=f'{part}/'),
                             metainfo=dict(_delete_=True, classes=SHAPES_CLASSES)))


PRETRAINING_TASKS = {
    'shapes_camvid': TASKS['camvid']._replace(
        title='drawn shapes, as CamVid', folder='shapes/ade/ADEChallengeData2016', size=_SHAPES_SIZE, part='val',
        validates=False, changes=dict(
            model=dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5)),
            train_dataloader=_drawn_maps('training'), val_dataloader=_drawn_maps('validation'),
            test_dataloader=_drawn_maps('validation'))),
    'shapes_dsb2018': TASKS['dsb2018']._replace(
        title='drawn shapes, as Data Science Bowl 2018', folder='shapes/coco', size=_SHAPES_SIZE, changes=dict(
            model=dict(roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4))),
            train_dataloader=_drawn_instances('train2017'), val_dataloader=_drawn_instances('val2017'),
            test_dataloader=_drawn_instances('val2017'),
            val_evaluator=dict(ann_file='data/dsb2018/annotations/instances_val2017.json'),
            test_evaluator=dict(ann_file='data/dsb2018/annotations/instances_val2017.json'))),
}
ALL_TASKS = {**TASKS, **PRETRAINING_TASKS}


class Network(NamedTuple):
    """A backbone, with the config that it is trained by."""
    title: str
    family: str
    group: str  # 'ours'; 'stock', which people would take instead; 'baseline' of a pair; 'mark' to reach
    config: str  # whose heads and recipe it has: its own, or that of another
    backbone: Optional[Dict[str, Any]] = None  # changes of the backbone in that config
    channels: Optional[Sequence[int]] = None  # of its four outputs, where they are others than in that config
    changes: Dict[str, Any] = {}  # of the config


def _own(name: str, title: str, family: str, group: str = 'ours') -> Network:
    return Network(title, family, group, name)


def _other(title: str, family: str, channels: Sequence[int], **backbone: Any) -> Network:
    return Network(title, family, 'baseline', 'parc_mbv2', dict(backbone, _delete_=True), channels)


_PIXELS_OF_LITE = dict(mean=[127.] * 3, std=[128.] * 3)  # of TensorFlow's EfficientNet-Lite, whose weights these are
_NARROW_MOBILEVIT = dict(
    _delete_=True, stem_channels=16, stem_kernel_size=3, stem_out_channels=32, depths=(2, 1, 1, 1, 1), expansion=4, concat=False,
    base_sizes=(0, 32, 16, 8, 0), channels=(64, 96, 128, 160, 640), parc_channels=(0, 96, 128, 160, 0),
    parc_depths=(0, 2, 3, 2, 0), transformer_channels=(0, 80, 104, 128, 0), transformer_depths=(0, 2, 4, 3, 0),
    baseline_channels=(40, 56, 72, 88, 352))
NETWORKS = {
    'transcnn_s': _own('transcnn_s', 'TransCNN small', 'TransCNN'),
    'hatnet_t': _own('hatnet_t', 'HAT-Net tiny', 'HAT-Net'),
    'setformer_m': _own('setformer_m', 'SeTformer mini', 'SeTformer'),
    'glit_t': _own('glit_t', 'GLiT tiny', 'GLiT'),
    'parc_r50': _own('parc_r50', 'ParC-ResNet50', 'ParC'),
    'parc_mbv2': _own('parc_mbv2', 'ParC-MobileNetV2', 'ParC'),
    'parc_convnext_xt': _own('parc_convnext_xt', 'ParC-ConvNeXt-XT', 'ParC'),
    'parcnet_xs': _own('parcnet_xs', 'ParC-Net-XS', 'ParC'),
    'r50': _own('r50', 'ResNet-50', 'ResNet', 'stock'),
    'swin_t': _own('swin_t', 'Swin-T', 'Swin', 'stock'),
    'convnext_t': _own('convnext_t', 'ConvNeXt-T', 'ConvNeXt', 'stock'),
    'mbv2': _own('mbv2', 'MobileNetV2', 'MobileNetV2', 'stock'),
    # what the pairs compare with, see PAIRS
    'r18_72': _other('ResNet-18, 72 channels', 'TransCNN', (72, 144, 288, 576), type='mmdet.ResNet', depth=18,
                     base_channels=72, stem_channels=64, norm_eval=False),
    'pvtv2_b1': _other('PVTv2-B1', 'HAT-Net', (64, 128, 320, 512), type='mmdet.PyramidVisionTransformerV2', embed_dims=64,
                       num_layers=[2, 2, 2, 2]),
    'swin_72': _other('Swin, 72 channels, depths 2 2 4 2', 'SeTformer', (72, 144, 288, 576), type='mmdet.SwinTransformer',
                      embed_dims=72, depths=[2, 2, 4, 2], num_heads=[3, 6, 12, 24], window_size=7),
    'setformer_m_softmax': Network('SeTformer mini with softmax attention', 'SeTformer', 'baseline', 'setformer_m',
                                   dict(attention='softmax')),
    'glit_global': Network('GLiT of attention alone (DeiT), 201 channels', 'GLiT', 'baseline', 'glit_t', dict(
        arch=dict(_delete_=True, embed_dims=201, num_heads=3, blocks=[(3, 0, None, None, 1, 4)] * 12)), [201] * 4),
    'parc_r50_without': Network('ResNet-50', 'ParC', 'baseline', 'parc_r50', dict(insert_locations=())),
    'parc_mbv2_without': Network('MobileNetV2', 'ParC', 'baseline', 'parc_mbv2', dict(insert_locations=())),
    'parc_convnext_xt_without': Network('ConvNeXt-XT', 'ParC', 'baseline', 'parc_convnext_xt', dict(insert_locations=())),
    'mobilevit_40': Network('MobileViT-XS, 40 to 88 channels', 'ParC', 'baseline', 'parcnet_xs', dict(
        insert_locations=(), arch=_NARROW_MOBILEVIT), (40, 56, 72, 88)),
    'efficientnet_lite0': Network('EfficientNet-Lite0', 'EfficientNet', 'mark', 'parc_mbv2', dict(
        type='EfficientNetLite0', _delete_=True), (24, 40, 112, 320), dict(
            custom_imports=dict(imports=['benchmarks.real_pictures.efficientnet_lite']),
            model=dict(data_preprocessor=_PIXELS_OF_LITE))),
}
MAIN = [name for name, network in NETWORKS.items() if network.group in ('ours', 'stock')]


class Pair(NamedTuple):
    """A network of ours beside what its family claims to improve on."""
    ours: str
    baseline: str
    claim: str
    equal: bool = True  # the multiply-adds of the backbones differ by a tenth at most


PAIRS = [
    Pair('transcnn_s', 'r18_72', 'hierarchical attention in a convolutional network, against the convolutions alone'),
    Pair('hatnet_t', 'pvtv2_b1', 'hierarchical attention, against attention to a reduced map'),
    Pair('setformer_m', 'swin_72', 'optimal transport over the map, against softmax attention in windows'),
    Pair('setformer_m', 'setformer_m_softmax', 'the same network with softmax attention over the map', equal=False),
    Pair('glit_t', 'glit_global', 'attention and convolution side by side, against attention alone'),
    Pair('parc_r50', 'parc_r50_without', 'ParC in the place of convolutions of 3x3'),
    Pair('parc_mbv2', 'parc_mbv2_without', 'ParC in the place of convolutions of 3x3'),
    Pair('parc_convnext_xt', 'parc_convnext_xt_without', 'ParC in the place of convolutions of 7x7'),
    Pair('parcnet_xs', 'mobilevit_40', 'ParC in the place of the attention of MobileViT'),
]


class Experiment(NamedTuple):
    """What a network learns from before."""
    starts: Sequence[Tuple[str, str]]  # task and what was seen before; each is compared with 'none'
    network: str = 'parc_mbv2'  # unless --networks says another


EXPERIMENTS = {
    'from_shapes': Experiment([('camvid', 'shapes'), ('dsb2018', 'shapes')]),
    'from_other': Experiment([('camvid', 'dsb2018'), ('dsb2018', 'camvid'), ('bccd', 'dsb2018')]),
    'efficientnet_lite0': Experiment([(task, 'imagenet') for task in TASKS], 'efficientnet_lite0'),
}
