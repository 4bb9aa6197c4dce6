"""What a training process of the benchmark measures itself; its config imports this file."""
import json
import time
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric

from hybrid_mm.output import whole_file

FILE = 'training.json'  # in the work folder
_KEY = 'real_pictures'


@HOOKS.register_module()
class TrainingMeter(Hook):
    """Seconds and memory of the training alone, in `FILE` when the last step is done.

    The seconds are those of the steps, with the loading of pictures and the writing of checkpoints, without start and
    validation. They are kept in the checkpoints: a training that was killed goes on counting from the one that it resumes,
    so that steps that it does again count once. The memory is the most that the process had resident so far, behind the last
    step, and on a GPU the most that torch had taken.
    """

    priority = 'LOW'  # in front of the hooks that write checkpoints

    def before_train(self, runner: Runner) -> None:
        self.state: Dict[str, Any] = dict(seconds=0., samples=0, parts=0, memory_mib=0)
        self.state.update(runner.message_hub.runtime_info.get(_KEY) or {})
        self.state['parts'] += 1
        runner.message_hub.update_info(_KEY, self.state)  # which is written with each checkpoint
        self.clock = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        self.state['seconds'] += now - self.clock
        self.clock = now
        self.state['samples'] += len(data_batch['inputs'])
        if (runner.iter + 1) % 50 == 0 or runner.iter + 1 == runner.max_iters:
            self.state['memory_mib'] = max(self.state['memory_mib'], resident_mib())

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        self.state['val'] = {name: float(value) for name, value in (metrics or {}).items()}
        self.clock = time.perf_counter()

    @master_only
    def after_train(self, runner: Runner) -> None:
        if runner.iter < runner.max_iters:
            return
        record = dict(self.state, steps=runner.max_iters, torch=torch.__version__)
        if torch.cuda.is_available():
            record.update(gpu=torch.cuda.get_device_name(), gpu_memory_mib=round(torch.cuda.max_memory_allocated() / 2**20))
        with whole_file(Path(runner.work_dir, FILE)) as partial:
            partial.write_text(json.dumps(record))


@METRICS.register_module()
class IoUOfEachClass(IoUMetric):
    """MMSegmentation's metric, which prints the IoU of each class, with these among its values, as ``IoU/<class>``."""

    def compute_metrics(self, results: list) -> Dict[str, float]:
        intersection, union = (sum(areas) for areas in list(zip(*results))[:2])
        each = {f'IoU/{name}': 100 * value for name, value in zip(self.dataset_meta['classes'], (intersection / union).tolist())}
        return {**super().compute_metrics(results), **each}


def resident_mib() -> int:
    """The most memory that this process has had resident; of getrusage where there is no /proc, which also counts what the
    process had that started it."""
    status = Path('/proc/self/status')
    if status.exists():
        return int(status.read_text().split('VmHWM:')[1].split()[0]) // 2**10
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
