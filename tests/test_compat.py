import io
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

import hybrid_mm.registry  # noqa: F401  (lets torch read training checkpoints)


def reload(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_training_checkpoint_of_mmengine_loads_with_weights_only():
    hub = MessageHub.get_instance('test_compat')
    hub.update_scalar('train/loss', 0.5)
    hub.update_scalar('train/loss', np.float64(0.25))
    hub.update_scalar('train/lr', np.float32(0.1))
    hub.update_info('epoch', np.int64(3))
    hub.update_info('counts', np.arange(3))
    back = reload(dict(state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict(), meta=dict(seed=1)))
    buffer = back['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.mean() == 0.375 and buffer.min() == 0.25 and buffer.current() == 0.25
    assert back['message_hub']['runtime_info']['epoch'] == 3
    assert back['message_hub']['runtime_info']['counts'].tolist() == [0, 1, 2]


def test_training_checkpoint_loads_after_another_library_has_allowed_the_same_for_a_while():
    hub = MessageHub.get_instance('test_compat_after')
    hub.update_scalar('train/loss', np.float64(0.25))
    kinds = [type(np.dtype(name)) for name in ('uint32', 'float64', 'int64')]
    with torch.serialization.safe_globals([getattr, HistoryBuffer, np.ndarray, np.dtype, *kinds]):  # as onedl-mmengine loads
        pass
    back = reload(dict(state_dict={}, message_hub=hub.state_dict()))
    assert back['message_hub']['log_scalars']['train/loss'].current() == 0.25


class Attack:
    """A pickle that asks for an attribute of something else than a HistoryBuffer."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize('owner, name', [(HistoryBuffer, '__init__'), (HistoryBuffer, '__globals__'),
                                         (np.ndarray, 'tofile'), (torch.Tensor, '__reduce_ex__')])
def test_getattr_answers_for_nothing_but_the_history(owner, name):
    with pytest.raises((pickle.UnpicklingError, AttributeError)):
        reload(dict(state_dict={}, x=Attack(owner, name)))


def test_arbitrary_functions_stay_refused():
    class Call:

        def __reduce__(self):
            return print, ('run', )

    with pytest.raises(pickle.UnpicklingError):
        reload(Call())


@pytest.mark.parametrize('base', ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmseg::_base_/models/fcn_r50-d8.py',
                                  'mmpretrain::_base_/models/resnet50.py'])
def test_configs_of_the_libraries_are_found_whatever_distribution_they_came_with(base, run_python, tmp_path):
    (tmp_path / 'config.py').write_text(f'_base_ = [{base!r}]\n')
    done = run_python(f'''
        import hybrid_mm.registry
        from mmengine.config import Config
        print(Config.fromfile({str(tmp_path / 'config.py')!r}).model.backbone.depth)
    ''')
    assert done.stdout.strip() == '50', done.stderr


def test_mended_torchvision_imports_and_its_operators_work_or_raise(run_python):
    done = run_python('''
        from hybrid_mm.compat import mend_torchvision
        mend_torchvision(); mend_torchvision()
        import torch, torchvision, mmdet.models, mmpretrain.models
        boxes, scores = torch.tensor([[0., 0., 1., 1.], [5., 5., 6., 6.]]), torch.tensor([0.5, 0.9])
        try:
            print('kept', torchvision.ops.nms(boxes, scores, 0.5).tolist())
        except RuntimeError:  # its own word that the operators are missing
            print('raised')
    ''')
    assert done.stdout.split('\n')[-2] in ('raised', 'kept [1, 0]'), done.stderr


def test_mending_is_idle_without_torchvision_and_hides_no_other_error(run_python):
    idle = run_python('''
        import sys
        sys.modules['torchvision'] = None
        from hybrid_mm.compat import mend_torchvision
        mend_torchvision()
        print('torch' in sys.modules)
    ''')
    assert idle.stdout.strip() == 'False', idle.stderr
    other = run_python('''
        import sys
        class Finder:
            def find_spec(self, name, *args):
                if name == 'torchvision':
                    raise RuntimeError('disk on fire')
        sys.meta_path.insert(0, Finder())
        from hybrid_mm.compat import mend_torchvision
        mend_torchvision()
    ''')
    assert 'RuntimeError: disk on fire' in other.stderr


def test_denormals_are_flushed_on_every_thread_of_a_cpu(run_python):
    done = run_python('''
        import torch
        from hybrid_mm.compat import flush_denormals
        torch.set_num_threads(2)
        flush_denormals()
        x = torch.full((1 << 20, ), 1e-30) * 1e-10
        print(torch.cuda.is_available() or int((x != 0).sum()))
    ''')
    assert done.stdout.strip() in ('0', 'True'), done.stderr
