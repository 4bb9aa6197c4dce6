"""A project of its own inherits configs of each kind, by any of their paths: they load, say what they are made of, and build."""
import re

from configs.shipped import CLONE, LEAVES, build, build_model, for_each, load, read
from mmengine import Config

import hybrid_mm

KINDS = ['maskrcnn_transcnn_b.py', 'maskrcnn_glit_t_3x.py', 'cascade_maskrcnn_parc_r50_baseline_3x.py', 'upernet_hatnet_s.py',
         'upernet_setformer_m.py', 'imagenet_parcnet_s.py', 'imagenet_glit_t.py', 'maskrcnn_parc_r50_shapes.py',
         'upernet_setformer_m_softmax_shapes.py', 'fasterrcnn_swin_t_bccd.py', 'maskrcnn_convnext_t_dsb2018_full.py',
         'upernet_mbv2_camvid.py', 'imagenet_glit_t_details.py', 'upernet_glit_shapes_search.py']
PROJECT = '''
_base_ = [{base}]
train_pipeline = [dict(step) for step in _base_.train_pipeline]
train_dataloader = dict(batch_size=3, dataset=dict(pipeline=train_pipeline))
model = dict(backbone=dict(with_cp=True))
train_cfg = dict(val_interval=7)
default_hooks = dict(checkpoint=dict(interval=2))
optim_wrapper = dict(optimizer=dict(lr=2 * _base_.optim_wrapper.optimizer.lr))
scope = _base_.default_scope
'''


def paths(name):
    """All ways to name a config in ``_base_``."""
    family = hybrid_mm.config_path(name)
    old = CLONE / 'configs' / name
    return [f"__import__('hybrid_mm').config_path('{name}')", repr(family), *([repr(str(old))] if old.is_file() else [])]


def test_each_kind_of_config_is_among_those_that_are_inherited():
    ends = '3x|shapes_search|shapes|camvid|dsb2018|bccd|$'
    of_all, of_these = ({(name.split('_')[0], re.search(ends, name)[0]) for name in names} for names in (LEAVES, KINDS))
    assert of_all == of_these


def test_project_inherits_each_kind_of_config_by_each_of_its_paths_and_builds(tmp_path):

    @for_each(name=KINDS)
    def inherit(name):
        base, texts = load(name), set()
        for number, path in enumerate(paths(name)):
            file = tmp_path / f'{number}_{name}'
            file.write_text(PROJECT.format(base=path))
            cfg = (Config.fromfile if name == KINDS[0] else read)(file)
            texts.add(repr(cfg.to_dict()))
            assert cfg.scope == base.default_scope and cfg.train_dataloader.batch_size == 3
            assert cfg.train_dataloader.dataset.pipeline == base.train_dataloader.dataset.pipeline
            assert cfg.optim_wrapper.optimizer.lr == 2 * base.optim_wrapper.optimizer.lr
            assert cfg.default_hooks.checkpoint == {**base.default_hooks.checkpoint, 'interval': 2}
        assert len(texts) == 1
        model, ours = build_model(cfg), build(name)
        assert {key: value.shape for key, value in model.state_dict().items()} == {
            key: value.shape for key, value in ours.state_dict().items()}

    inherit()
