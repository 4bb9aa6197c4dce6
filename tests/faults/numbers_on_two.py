"""Two processes train on a CPU, and one of them meets a picture that makes the loss infinite: ``FOLDER stop`` or ``skip``."""
import hashlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from engine.test_numerics_guard_hook import Net, Pictures  # noqa: E402

from hybrid_mm.errors import SetupError  # noqa: E402


def train(rank: int, folder: str, on_fault: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    dist.init_process_group('gloo', init_method=f'file://{folder}/{on_fault}', rank=rank, world_size=2)
    torch.manual_seed(0)
    runner = Runner(
        model=Net('module'),
        work_dir=folder,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)),
        train_dataloader=dict(dataset=Pictures(), batch_size=2, num_workers=0, collate_fn=dict(type='pseudo_collate'),
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        custom_hooks=[dict(type='hybrid_mm.NumericsGuardHook', on_fault=on_fault)],
        experiment_name=on_fault,
        log_level='ERROR')
    try:
        runner.train()
        said = hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in runner.model.parameters())).hexdigest()
    except SetupError as error:
        said = str(error)
    Path(folder, f'{on_fault}_{rank}.txt').write_text(f'{runner.iter} {said}')


if __name__ == '__main__':
    mp.start_processes(train, sys.argv[1:], nprocs=2, start_method='fork')
