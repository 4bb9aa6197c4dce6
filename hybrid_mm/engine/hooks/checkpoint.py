"""Checkpoints that are whole, hold finite weights, and are not lost for others; and which of them a training goes on from."""
import functools
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from hybrid_mm.checkpoints.contents import all_weights, check_usable, first_nonfinite
from hybrid_mm.checkpoints.fit import starting_weights
from hybrid_mm.checkpoints.resumable import check_resumable, find_newest, folders_of, tell
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file
from hybrid_mm.registry import HOOKS

_ADVICE = '; the checkpoints before it are there; make room, and go on with --resume'
_SPARE = 1 << 20  # bytes beside the tensors of a checkpoint: its directory, the log's last values, the config


@HOOKS.register_module()
class CheckpointHook(StockCheckpointHook):
    """mmengine's CheckpointHook, with checkpoints that a full disk, a kill or a diverged training does not take away.

    - A checkpoint is written under another name in its folder, flushed to the disk and renamed, whoever asks the runner for it.
      Free space is looked at before. What ``max_keep_ckpts`` and ``save_best`` remove goes when the new file is whole, so that
      there is one checkpoint more for a moment. If it cannot be written, the run ends and the others are there.
    - Weights with NaN or infinite values are not written: the run ends.
    - ``last_checkpoint`` holds a name without a folder, and is not needed. Resuming without a file (``resume=True`` and no
      ``load_from``) takes the checkpoint that was saved last and is whole, and the log says which were passed over and why. All
      processes take that of the first.
    - Before training or testing, ``load_from`` and the starting weights of the model, ``init_cfg.checkpoint``, are looked at:
      whole, weights alone, finite.
    - A folder that is a copy, and a training that resumes from another folder, leave the best checkpoint of the other alone.
    - An evaluation that does not give the metric of ``save_best`` is no error, as in a project that inherits a config: a warning
      names the metrics, and no best checkpoint is kept.

    All of it happens in the runner, with the libraries' own tools, too. Checkpoints that are not on a local disk mmengine writes
    and finds as ever.

    Raises:
        SetupError: a file cannot be written, or not be used; the weights are not finite.
    """

    file_backend: Any
    _target: Optional[Path] = None  # what is being written

    def before_run(self, runner: Runner) -> None:
        if not isinstance(runner, Runner):  # FlexibleRunner has its own ways
            return
        _write_whole(runner, self)
        training = isinstance(runner._train_loop, BaseLoop)
        if not runner._has_loaded:
            if training and self._is_local(runner):
                self._choose(runner)
            if runner._load_from is not None:
                check = check_resumable if training and runner._resume else check_usable
                check(runner._load_from, 'the checkpoint')
        if training:
            for path, name, command_line in starting_weights(runner.cfg.get('model'), 'model'):
                check_usable(path, name, command_line)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        poison = first_nonfinite(all_weights(checkpoint))  # of a URL, which could not be looked at before
        if poison:
            raise SetupError(f'the checkpoint {runner._load_from} holds weights that are not finite: {poison}; give another file')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if not self._is_local(runner):
            return
        # mmengine deletes the best checkpoint that the file it resumed from names, in whatever folder that was
        for key, path in list(runner.message_hub.runtime_info.items()):
            if key.startswith('best_ckpt') and isinstance(path, str):
                runner.message_hub.update_info(key, os.path.join(self.out_dir, os.path.basename(path)))
        if getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = runner.message_hub.get_info('best_ckpt')
        for name, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[name] = path and runner.message_hub.get_info(f'best_ckpt_{name}')
        if is_main_process():
            for folder in {runner.work_dir, self.out_dir}:
                for left in Path(folder).glob('*.pth.*.partial'):
                    runner.logger.info(f'{left}, half a checkpoint of a run that was killed, is removed.')
                    left.unlink()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # behind the hooks that exchange weights or add to the checkpoint, by the priority
        name = 'the checkpoint' if self._target is None else self._target.name
        poison = first_nonfinite(all_weights(checkpoint))
        if poison:
            good = find_newest(checkpoint_folders(runner, self))[0]
            raise SetupError(f'the weights are no longer finite after {checkpoint["meta"]["iter"]} iterations: {poison}; '
                             f'{name} is not written, ' + (f'the last good checkpoint is {good}' if good else
                                                           'and there is none before it') + '; lower the learning rate')
        checkpoint['meta']['saved'] = time.time()
        if self._target is not None:
            needed, free = _size(checkpoint) + _SPARE, shutil.disk_usage(self._target.parent).free
            if needed > free:
                raise OSError(0, f'{needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free')

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]]) -> None:
        missing = set(self.save_best or ()) - {'auto', *(metrics or ())}
        if metrics and missing:
            runner.logger.warning(
                f'No best checkpoint is kept: default_hooks.checkpoint.save_best names {", ".join(sorted(missing))}, and the '
                f'evaluation gives {", ".join(metrics)}; choose from these')
        else:
            super().after_val_epoch(runner, metrics)

    def _choose(self, runner: Runner) -> None:
        """Whether and what to resume from, the same for all processes."""
        if runner._resume and runner._load_from is None and is_main_process():
            folders = checkpoint_folders(runner, self)
            runner._load_from, passed = find_newest(folders)
            for sentence in tell(runner._load_from, passed, folders):
                runner.logger.warning(sentence)
            runner._resume = runner._load_from is not None
        choice = [runner._resume, runner._load_from]
        broadcast_object_list(choice)
        runner._resume, runner._load_from = choice

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)
            if self._is_local(runner) and is_main_process():
                with whole_file(Path(runner.work_dir, 'last_checkpoint')) as partial:
                    partial.write_text(os.path.relpath(self.last_ckpt, runner.work_dir))

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        if not is_main_process() or not self._is_local(runner):
            return super()._publish_model(runner, ckpt_path)
        source = Path(ckpt_path).resolve()
        try:
            # mmengine writes beside the file that it is given; which name, it finds while it does
            with TemporaryDirectory(prefix='published.', dir=source.parent) as folder:
                link = Path(folder, source.name)
                link.symlink_to(source)
                super()._publish_model(runner, str(link))
                for path in set(Path(folder).iterdir()) - {link}:
                    with whole_file(source.with_name(path.name), _ADVICE) as partial:
                        os.replace(path, partial)
        except OSError as error:
            raise SetupError(f'{ckpt_path} cannot be published: {error.strerror or error}{_ADVICE}') from error

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        """What mmengine removes in this block, in front of writing, goes at its end instead."""
        backend: Any = self.file_backend
        self.file_backend = postponing = _Postponing(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', None) or {'': getattr(self, 'best_ckpt_path', None)}
        for name, path in postponing.removals:
            if path not in (self.last_ckpt, *best.values()):  # a training that was resumed writes some names once more
                getattr(backend, name)(path)

    def _is_local(self, runner: Runner) -> bool:
        return _is_local(str(self.out_dir or runner.work_dir), self.file_client_args, self.backend_args)


def checkpoint_folders(runner: Runner, hook: StockCheckpointHook) -> List[str]:
    """Where the checkpoints of a hook, also of mmengine's own, lie."""
    if hasattr(hook, 'file_backend'):  # `before_train` has completed out_dir
        return list(dict.fromkeys((runner.work_dir, str(hook.out_dir))))
    return folders_of(runner.work_dir, hook.out_dir)


class _Postponing:
    """A file backend that notes what it is to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removals: List[Tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self.removals.append(('rmtree', path))


def _write_whole(runner: Runner, hook: CheckpointHook) -> None:
    """Let all checkpoints of a runner be written whole or not at all, also those that other hooks ask for."""
    stock = runner.save_checkpoint
    if hasattr(stock, 'writes_whole'):
        return

    @functools.wraps(stock)
    def save_checkpoint(out_dir: str, filename: str, file_client_args: Optional[dict] = None, *args, **kwargs) -> None:
        if not is_main_process() or not _is_local(out_dir, file_client_args, kwargs.get('backend_args')):
            stock(out_dir, filename, file_client_args, *args, **kwargs)
            return
        hook._target = Path(out_dir, filename)
        try:
            with whole_file(hook._target, _ADVICE) as partial:
                partial.parent.mkdir(parents=True, exist_ok=True)
                stock(out_dir, partial.name, file_client_args, *args, **kwargs)
        finally:
            hook._target = None

    save_checkpoint.writes_whole = True  # type: ignore[attr-defined]
    runner.save_checkpoint = save_checkpoint


def _is_local(folder: str, file_client_args: Optional[dict], backend_args: Optional[dict]) -> bool:
    return file_client_args is None and isinstance(get_file_backend(folder, backend_args=backend_args), LocalBackend)


def _size(node: Any) -> int:
    """Bytes of the tensors in a checkpoint, each storage once, as torch writes them."""
    storages, nodes = {}, [node]
    while nodes:
        part = nodes.pop()
        if isinstance(part, Tensor):
            storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, (dict, list, tuple)):
            nodes += part.values() if isinstance(part, dict) else part
    return sum(storages.values())
