"""A checkpoint that is damaged, hostile or poisoned is known before it is used, and a training goes on from the one before it."""
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

import hybrid_mm.registry  # noqa: F401  training checkpoints can be read
from hybrid_mm.checkpoints import contents, integrity
from hybrid_mm.checkpoints.contents import check_usable, fault_in, first_nonfinite, outline
from hybrid_mm.checkpoints.integrity import NOT_WHOLE, fault_of
from hybrid_mm.checkpoints.resumable import check_resumable, find_newest, folders_of, tell
from hybrid_mm.errors import SetupError


def training(iteration, epoch=0, saved=None, **changes):
    """What a training checkpoint of mmengine holds."""
    generator = torch.Generator().manual_seed(iteration)
    weights = {f'layers.{i}.weight': torch.rand(64, 64, generator=generator) for i in range(4)}
    meta = dict(iter=iteration, epoch=epoch, **({} if saved is None else dict(saved=float(saved))))
    hub = dict(log_scalars={'loss': HistoryBuffer([1.], [1])})
    moments = {i: dict(exp_avg=torch.rand(64, 64, generator=generator)) for i in range(4)}
    return {**dict(meta=meta, state_dict=weights, message_hub=hub, optimizer=dict(state=moments), param_schedulers=[]), **changes}


def save(folder, name, checkpoint, **options):
    torch.save(checkpoint, folder / name, **options)
    return str(folder / name)


def data_of_tensors(path):
    """Offsets of the first and the last byte of each tensor in an archive."""
    with zipfile.ZipFile(path) as archive, open(path, 'rb') as file:
        for entry in archive.infolist():
            if '/data/' in entry.filename and entry.file_size:
                file.seek(entry.header_offset + 26)
                names = file.read(4)
                start = entry.header_offset + 30 + int.from_bytes(names[:2], 'little') + int.from_bytes(names[2:], 'little')
                yield start, start + entry.file_size - 1


def mutations():
    """Twenty places to cut a file, in parts of its length, and twenty bytes of tensors, by tensor and place in it."""
    return [('cut', i / 20) for i in range(20)] + [('flip', (i % 8, i / 19)) for i in range(20)]


@pytest.mark.parametrize('kind, where', mutations())
def test_a_cut_file_and_a_flipped_byte_are_recognised_and_the_one_before_is_taken(tmp_path, kind, where):
    whole, newest = (save(tmp_path, f'epoch_{i}.pth', training(10 * i, i, saved=i)) for i in (1, 2))
    assert find_newest([tmp_path]) == (newest, [])
    content = bytearray(Path(newest).read_bytes())
    if kind == 'cut':
        del content[int(where * len(content)):]
    else:
        first, last = list(data_of_tensors(newest))[where[0]]
        content[first + int(where[1] * (last - first))] ^= 1
    Path(newest).write_bytes(content)

    fault = 'is empty' if not content else NOT_WHOLE if kind == 'cut' else f'is damaged: data/{where[0]} in it differs'
    assert fault_of(newest).startswith(fault)
    path, passed = find_newest([tmp_path])
    assert path == whole and [name for name, _ in passed] == [newest]
    with pytest.raises(SetupError, match=f'--resume {newest} is .*; the newest whole checkpoint of its folder is {whole}$'):
        check_resumable(newest, '--resume')


@pytest.mark.exhaustive
@pytest.mark.parametrize('bit', range(8))
def test_a_flipped_byte_anywhere_is_a_fault_or_changes_no_value(tmp_path, bit):
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict={'a': torch.arange(40.), 'b': torch.ones(3)}, meta=dict(iter=3)), path)
    content, expected = path.read_bytes(), torch.load(path, weights_only=True)
    kept = 0
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << bit]) + content[i + 1:])
        integrity._known.clear()
        if fault_in(str(path)) is None:
            found = torch.load(path, weights_only=True)
            assert found['meta'] == expected['meta'] and found['state_dict'].keys() == expected['state_dict'].keys()
            assert all(torch.equal(found['state_dict'][key], value) for key, value in expected['state_dict'].items()), i
            kept += 1
    assert kept < len(content) / 2


# ---- Formats ----

@pytest.mark.parametrize('options', [dict(), dict(_use_new_zipfile_serialization=False)])
def test_both_formats_of_torch_are_whole_and_a_part_of_either_is_not(tmp_path, options):
    path = save(tmp_path, 'a.pth', training(1), **options)
    assert fault_in(path) is None and outline(path).resumable
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:len(content) // 2])
    assert fault_in(path) == NOT_WHOLE


def test_archives_without_checksums_and_compressed_ones_are_read(tmp_path):
    path = save(tmp_path, 'a.pth', training(1))
    packed = str(tmp_path / 'packed.pth')
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as other:
        for entry in archive.infolist():
            other.writestr(entry.filename, archive.read(entry))
    assert fault_of(packed) is None
    if hasattr(torch.serialization, 'set_crc32_options'):
        torch.serialization.set_crc32_options(False)
        try:
            assert fault_in(save(tmp_path, 'bare.pth', training(1))) is None
        finally:
            torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize('content, fault', [
    (b'', 'is empty'), (b'<html>not found</html>', NOT_WHOLE), (b'PK\x03\x04', NOT_WHOLE), (bytes(64), NOT_WHOLE),
    (b'\x80\x02', NOT_WHOLE)])
def test_something_else_is_no_checkpoint(tmp_path, content, fault):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    assert fault_in(str(path)) == fault
    with pytest.raises(SetupError, match=f'^load_from {path} {fault}; give another file$'):
        check_usable(str(path), 'load_from')
    assert fault_of(str(tmp_path / 'none.pth')) == 'cannot be read: No such file or directory'


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path, read = save(tmp_path, 'a.pth', training(1)), []
    monkeypatch.setattr(integrity, '_is_whole', lambda archive, entry: read.append(entry.filename) or True)
    for _ in range(3):
        assert fault_of(path) is None
    assert len(read) == len(set(read)) > 8
    save(tmp_path, 'a.pth', training(2))
    assert fault_of(path) is None and len(read) > len(set(read))


# ---- Values ----

@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_bad_value_is_seen_and_its_tensor_named(value, dtype):
    bad = torch.ones(1000, dtype=dtype)
    bad[77] = value
    assert first_nonfinite(dict(good=torch.ones(3), bad=bad)) == 'bad has NaN or infinite values'
    assert first_nonfinite(dict(bad=bad, good=torch.ones(3), worse=bad)) == (
        'bad has NaN or infinite values, and so have 1 more tensors')


def test_what_is_finite_is_let_pass():
    """Sums that overflow, counts, a mask of attention, an empty tensor, and what is no tensor."""
    forbidden = torch.full((4, 4), -torch.inf).triu(1)
    assert first_nonfinite(dict(
        large=torch.full((1000, ), 3e38), half=torch.full((1000, ), 6e4, dtype=torch.float16), count=torch.tensor(3),
        mask=forbidden, empty=torch.ones(0), version=1)) is None
    assert first_nonfinite(dict(mask=torch.full((4, ), -torch.inf)))


def test_poisoned_weights_are_passed_over_and_refused(tmp_path):
    good = save(tmp_path, 'epoch_1.pth', training(10, 1, saved=1))
    for key in ('state_dict', 'ema_state_dict'):
        bad = save(tmp_path, 'epoch_2.pth', training(20, 2, saved=2, **{key: dict(weight=torch.tensor([1., float('nan')]))}))
        path, passed = find_newest([tmp_path])
        assert path == good and 'holds weights that are not finite' in passed[0][1]
        with pytest.raises(SetupError, match=f'checkpoint {bad} holds weights that are not finite: .*weight has NaN'):
            check_usable(bad, 'checkpoint')


class RunsCode:

    def __reduce__(self):
        return os.mkdir, ('made_by_a_checkpoint', )


class AsksForAttribute:

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('extra, asked', [(RunsCode(), r'\w+.mkdir'), (AsksForAttribute(), "attribute '__init__'")])
def test_a_file_that_asks_for_more_than_weights_is_refused_in_one_sentence(tmp_path, monkeypatch, zipped, extra, asked):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, 'a.pth', training(1, extra=extra), _use_new_zipfile_serialization=zipped)
    with pytest.raises(SetupError, match=f'^load_from {path} holds more than weights: it asks for {asked}, which may run code '
                       'and is not loaded; give a file with the state dict alone$'):
        check_usable(path, 'load_from')
    assert not Path('made_by_a_checkpoint').exists()


# ---- Which one is the newest ----

def test_the_last_one_that_was_saved_is_the_newest(tmp_path):
    """Not the furthest: whoever went back to the first epoch goes on with what came of it."""
    save(tmp_path, 'epoch_3.pth', training(30, 3, saved=100))
    again = save(tmp_path, 'epoch_2.pth', training(20, 2, saved=200))
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    assert find_newest([tmp_path])[0] == again
    middle = save(tmp_path, 'iter_25.pth', training(25, 2, saved=200))  # within the same moment the furthest
    assert find_newest([tmp_path])[0] == middle


def test_older_versions_say_it_to_the_second(tmp_path):
    for name, text in (('a', '20240101_000003'), ('b', '20240101_000001')):
        checkpoint = training(1)
        checkpoint['meta']['time'] = text
        save(tmp_path, f'{name}.pth', checkpoint)
    assert find_newest([tmp_path])[0].endswith('a.pth')


def test_the_hint_is_not_needed_and_a_copy_stays_in_its_folder(tmp_path):
    first, copy = tmp_path / 'first', tmp_path / 'copy'
    first.mkdir()
    for i in (1, 2):
        save(first, f'epoch_{i}.pth', training(10 * i, i, saved=i))
    (first / 'last_checkpoint').write_text(str(first / 'epoch_2.pth'))
    shutil.copytree(first, copy)
    assert find_newest([copy])[0] == str(copy / 'epoch_2.pth')
    (first / 'last_checkpoint').unlink()
    assert find_newest([first])[0] == str(first / 'epoch_2.pth')


def test_what_has_no_optimizer_is_named_only_if_there_is_nothing_else(tmp_path):
    best = training(20, 2, saved=2)
    del best['optimizer'], best['param_schedulers']
    best = save(tmp_path, 'best_mIoU_iter_20.pth', best)
    bare = save(tmp_path, 'weights.pth', dict(weight=torch.ones(1)))
    path, passed = find_newest([tmp_path])
    assert path is None and sorted(passed) == [(name, 'holds no state of an optimizer to go on with') for name in (best, bare)]
    assert find_newest([tmp_path], resume=False)[0] == best
    for name in (best, bare):
        with pytest.raises(SetupError, match=f'--resume {name} holds weights, but no state of a training to go on with; '):
            check_resumable(name, '--resume')
    whole = save(tmp_path, 'epoch_1.pth', training(10, 1, saved=1))
    assert find_newest([tmp_path]) == (whole, [])


def test_folders_and_sentences(tmp_path):
    assert folders_of('work/net') == folders_of('work/net', 's3://bucket') == folders_of('work/net', 'work/net') == ['work/net']
    assert folders_of('work/net/', '/large') == ['work/net/', '/large/net']
    assert find_newest([tmp_path / 'none']) == (None, [])
    assert tell(None, [('a.pth', 'is empty')], ['a', 'b']) == [
        'Passed over: a.pth is empty.', 'There is no checkpoint to go on from in a or b; the training starts from the beginning.']
    assert tell('a.pth', [], ['a']) == ['The training goes on from a.pth.']


def test_a_torch_that_would_run_the_code_goes_by_the_names(tmp_path, monkeypatch):
    """Below 2.6 nothing can be allowed, so that training checkpoints cannot be looked into."""
    contents._outline.cache_clear()
    monkeypatch.setattr(contents, '_TORCH_READS_WEIGHTS_ALONE', False)
    for i in (9, 10):
        os.utime(save(tmp_path, f'epoch_{i}.pth', training(i, extra=RunsCode())), (1, 1))
    save(tmp_path, 'best_mIoU_epoch_11.pth', training(11, extra=RunsCode()))
    assert find_newest([tmp_path])[0].endswith('epoch_10.pth')
