"""The same seed twice: the same weights, bit for bit, without and with worker processes."""
import pytest
import torch

from hybrid_mm.compat import allow_training_checkpoints

allow_training_checkpoints()

NETWORKS = ['transcnn_s', 'hatnet_t', 'setformer_t', 'glit_t', 'parcnet_xs', 'parc_mbv2', 'parc_r50', 'parc_convnext_xt']
CONFIG = '''
_base_ = [__import__('hybrid_mm').config_path('imagenet_{network}.py')]

model = dict(head=dict(num_classes=2), train_cfg=None)
data_preprocessor = dict(num_classes=2)
train_dataloader = dict(
    batch_size=2,
    num_workers={workers},
    persistent_workers={workers} > 0,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='{pictures}',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=64),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type='PackInputs')
        ]))
val_dataloader = val_evaluator = val_cfg = None
train_cfg = dict(max_epochs=2)
custom_hooks = []
randomness = dict(seed=1)
'''


def check(run_tool, pictures, folder, network, workers):
    config = folder / 'config.py'
    config.write_text(CONFIG.format(network=network, workers=workers, pictures=pictures))
    ends = []
    for name in ('first', 'second'):
        run_tool('train.py', config, '--work-dir', folder / name)
        ends.append(torch.load(folder / name / 'epoch_2.pth'))
    assert ends[0]['meta']['iter'] == 20
    assert [key for key, weight in ends[0]['state_dict'].items() if not torch.equal(ends[1]['state_dict'][key], weight)] == []


def test_a_training_with_worker_processes_ends_the_same_twice(run_tool, pictures, tmp_path):
    check(run_tool, pictures, tmp_path, 'parc_mbv2', 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('network', NETWORKS)
def test_every_network_ends_the_same_twice(run_tool, pictures, tmp_path, network, workers):
    check(run_tool, pictures, tmp_path, network, workers)
