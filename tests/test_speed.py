"""The benchmark of speed, `benchmarks/speed.py`: what is planned, resumed and shown; and a run of the smallest network."""
import json

import pytest
import torch

from benchmarks.speed import command, figures, forms, measuring, page, records, running
from benchmarks.speed.catalogue import BASE, GOALS, NETWORKS, Entry
from benchmarks.speed.measuring import MATMUL, TRIAD, Cell
from hybrid_mm.errors import SetupError

CELL = Cell(((1, 768, 1280), ), 'training', 'fp32', 'cpu', 1)


def entry_of(network, seconds, form='eager', macs=10**9, **more):
    return dict(dict(network=network, form=form, type='x', parameters=5, weights=2**20, macs=macs, moved=10**6, step_memory=2**20,
                     seconds=seconds), **more)


def synthetic(cell=CELL, rounds=3, **networks):
    record = records.new(cell, rounds)
    record.update(networks={key.replace('__', ':').replace('_at_', '@'): entry for key, entry in networks.items()}, limits={
        MATMUL: dict(work=4 * 10**9, seconds=[1.] * rounds), TRIAD: dict(work=10**6, seconds=[2.] * rounds)})
    return record


@pytest.fixture
def speed(tmp_path, capsys):
    """Run the command with results of its own; returns exit status and output."""

    def run(*words):
        argv = ['--device', 'cpu', '--sizes', '32', '--modes', 'inference', '--dtypes', 'fp32', '--rounds', '2', '--threads', '1',
                '--out', tmp_path / 'speed.json', *words]
        threads = torch.get_num_threads()
        try:
            command.main([str(word) for word in argv])
            status = 0
        except SystemExit as end:
            status = end.code
        finally:
            torch.set_num_threads(threads)
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def sent(monkeypatch):
    """In the place of processes: what each was to do, and rounds of one second each, as many as `rounds` allows."""
    calls, state = [], dict(rounds=99)

    def messages(work, job):
        calls.append((work.__name__, [entry.key for entry in job.entries], job.rounds))
        keys = [entry.key for entry in job.entries]
        if work is running.measure_memory:
            yield 'facts', keys[0], dict(step_memory=7)
            return
        yield from (('facts', key, {}) for key in keys)
        yield from (('facts', limit, dict(work=5)) for limit in (MATMUL, TRIAD))
        for _ in range(job.rounds):
            if not state['rounds']:
                raise KeyboardInterrupt
            state['rounds'] -= 1
            yield 'round', '', dict.fromkeys([*keys, MATMUL, TRIAD], 1.)

    monkeypatch.setattr(running, '_messages', messages)
    monkeypatch.setattr(running, '_facts', lambda name, shape: dict(type='x', macs=5, parameters=1, weights=1))
    monkeypatch.setattr(command, 'build', lambda name: None)
    return calls, state


# ---- what runs ----


def test_smallest_network_is_measured_beside_swin_and_not_again(speed, tmp_path):
    status, out = speed('--networks', 'parc_mbv2')
    assert status == 0 and '| ParC-MobileNetV2, plain |' in out and '| Swin-T |' in out, out
    record, = json.loads((tmp_path / 'speed.json').read_text())
    assert set(record['networks']) == {'swin_t', 'parc_mbv2', 'parc_mbv2:plain'} and not record['left_out']
    own = record['networks']['parc_mbv2']
    assert len(own['seconds']) == 2 and min(own['seconds']) > 0 and own['parameters'] == 2251136
    assert 1e6 < own['macs'] < 1e8 and own['moved'] > own['macs'] / 100 and own['step_memory'] > 0 and own['weights'] > 8e6
    assert len(record['limits'][MATMUL]['seconds']) == len(record['limits'][TRIAD]['seconds']) == 2
    before = (tmp_path / 'speed.json').read_bytes()
    assert speed('--networks', 'parc_mbv2') == (0, '32, batch of 1, inference, fp32, cpu: done before\n')
    assert (tmp_path / 'speed.json').read_bytes() == before


def test_stopped_run_goes_on_behind_its_last_round(speed, sent, tmp_path):
    calls, state = sent
    state['rounds'] = 3
    status, out = speed('--networks', 'glit_s', 'r50', '--rounds', 5, '--no-plain')
    assert status == 130 and out.endswith('stopped; the same command goes on from here\n')
    state['rounds'] = 99
    assert speed('--networks', 'glit_s', 'r50', '--rounds', 5, '--no-plain')[0] == 0
    keys = ['swin_t', 'glit_s', 'r50']
    assert calls == [('time_in_turn', keys, 5), ('time_in_turn', keys, 2), *(('measure_memory', [key], 0) for key in keys)]
    record, = records.read(tmp_path / 'speed.json')
    assert {len(entry['seconds']) for entry in [*record['networks'].values(), *record['limits'].values()]} == {5}


def test_only_what_is_missing_runs_with_what_it_is_compared_with(speed, sent, tmp_path):
    calls, _ = sent
    speed('--networks', 'glit_s', 'r50', '--no-plain')
    del calls[:]
    speed('--networks', 'glit_s', 'r50', 'mbv2', '--no-plain', '--no-memory')
    speed('--networks', 'glit_s', '--no-plain', '--compile', '--no-memory')
    assert calls == [('time_in_turn', ['swin_t', 'mbv2'], 2), ('time_in_turn', ['swin_t', 'glit_s', 'glit_s:compiled'], 2)]
    assert speed('--networks', 'mbv2', '--no-plain', '--plan')[1].endswith('swin_t, mbv2\n')  # without its memory
    assert speed('--networks', 'mbv2', '--no-plain', '--no-memory')[1].endswith('done before\n')
    del calls[:]
    speed('--networks', 'mbv2', '--no-plain', '--again', '--no-memory')
    assert calls == [('time_in_turn', ['swin_t', 'mbv2'], 2)]
    # the older run of mbv2 is gone, whose place the new one takes
    assert sorted(sorted(record['networks']) for record in records.read(tmp_path / 'speed.json')) == [
        ['glit_s', 'glit_s:compiled', 'swin_t'], ['glit_s', 'r50', 'swin_t'], ['mbv2', 'swin_t']]


def test_changed_code_is_measured_again(speed, sent, monkeypatch):
    calls, _ = sent
    speed('--networks', 'r50')
    monkeypatch.setattr(records, 'code', lambda: 'another')
    assert speed('--networks', 'r50', '--plan')[1].endswith(': swin_t, r50\n')


def test_network_that_fails_is_left_out_with_its_sentence(tmp_path, monkeypatch):
    def fail(network, entry, cell):
        raise MemoryError('no memory today\nat all')

    monkeypatch.setattr(measuring, '_step', fail)
    cell, told = CELL._replace(sizes=((1, 32, 32), )), []
    record = running.measure(cell, [Entry('parc_mbv2')], None, running.Settings(tmp_path / 'out.json', 1), None, told.append)
    assert told == [f'{cell.name}: parc_mbv2 left out: no memory today'] and not record['networks']
    assert record['left_out'] == {'parc_mbv2': 'no memory today'}


def test_process_that_dies_leaves_the_rest_to_the_next(tmp_path):
    found = list(running._messages(die, measuring.Job(CELL, [Entry('r50'), Entry('mbv2')], 1)))
    sentence = 'its process ended with status 3; -9 says that memory was short'
    assert found == [('left out', key, sentence) for key in ('r50', 'mbv2')]


def die(pipe, job):
    raise SystemExit(3)


@pytest.mark.parametrize('words, message', [
    (['--sizes', '16x64'], '--sizes 16x64 is not allowed; give height and width in pixels, each 32 or more'),
    (['--sizes', '64:0'], '--sizes 64:0 is not allowed'),
    (['--dtypes', 'fp16'], '--dtypes fp16 is not there on device cpu; choose from fp32, bf16'),
    (['--rounds', '0'], '--rounds 0 is not allowed'),
])
def test_bad_input_is_named_before_anything_runs(words, message, speed, sent):
    status, _ = speed(*words)
    assert f'Error: {message}' in status and not sent[0]


def test_plain_forms_are_those_of_the_definition():
    network = forms.build('parc_mbv2').eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain = forms.in_form(network, Entry('parc_mbv2', 'plain'), 'fp32')
        torch.testing.assert_close(plain(x), network(x), rtol=1e-3, atol=1e-4)
    layers = [module for module in network.modules() if isinstance(module, forms.ParC2d)]
    with forms.plain(network):
        assert {layer.backend for layer in layers} == {'direct'}
    assert {layer.backend for layer in layers} == {'auto'}


def test_peers_are_those_of_mmpretrain_where_mmdet_is_missing(monkeypatch):
    monkeypatch.setattr(forms, 'has_mmdet', lambda: True)
    named = {name: forms.config_of(name) for name in NETWORKS}
    monkeypatch.setattr(forms, 'has_mmdet', lambda: False)
    for name in NETWORKS:
        assert forms.config_of(name)['type'].partition('.')[0] in ('hybrid_mm', 'mmpretrain')
        if forms.config_of(name) != named[name]:
            maps = forms.build(name)(torch.zeros(1, 3, 64, 96))
            assert [tuple(map_.shape[2:]) for map_ in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_form_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(forms.hybrid_mm.deploy, 'optimise', None, raising=False)
    with pytest.raises(SetupError, match='hybrid_mm.deploy has no optimise; leave --optimise out'):
        forms.in_form(torch.nn.Identity(), Entry('transcnn_b', 'optimised'), 'fp32')


def test_optimised_form_has_its_number_format_itself(monkeypatch):
    class Identity(torch.nn.Module):
        def forward(self, x):
            seen.append((x.dtype, torch.is_autocast_enabled('cpu')))
            return x

    seen = []
    monkeypatch.setattr(forms.hybrid_mm.deploy, 'optimise', lambda network, dtype: seen.append(dtype) or network, raising=False)
    cell = CELL._replace(sizes=((1, 32, 32), ), mode='inference', dtype='bf16')
    for form in ('optimised', 'eager'):
        measuring._step(Identity(), Entry('glit_s', form), cell)()
    assert seen == ['bfloat16', (torch.float32, False), (torch.float32, True)]


# ---- tables ----


def rows(text):
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line.startswith('|')]


def test_goals_are_ratios_of_one_run():
    record = synthetic(
        swin_t=entry_of(BASE, [2., 1., 4.]), transcnn_b=entry_of('transcnn_b', [4., 1., 4.], macs=2 * 10**9, step_memory=2**21),
        setformer_t=entry_of('setformer_t', [1., 2., 2.]))
    older = synthetic(swin_t=entry_of(BASE, [1.] * 3), transcnn_b=entry_of('transcnn_b', [9.] * 3))
    found = {row[0]: row for row in rows(page.goals_table([dict(older, date='2001'), record]))[2:]}
    assert found["TransCNN base, training, MACs a second over Swin-T's"] == [
        "TransCNN base, training, MACs a second over Swin-T's", '0.72 and 0.85', '2.00 (1.50 to 2.00)', '≥ 1.05', 'yes']
    assert found["TransCNN base, training, memory over Swin-T's"][2:] == ['1.50 (1.50 to 1.50)', '≤ 1.3', 'no']
    assert found["SeTformer tiny, a training step over Swin-T's"][2] == '0.50 (0.50 to 1.25)' and len(found) == 3
    inference = synthetic(CELL._replace(mode='inference'), swin_t=entry_of(BASE, [1.] * 3), **{
        name: entry_of(name, [1., 2., 3.]) for name in ('glit_s', 'parc_r50', 'transcnn_b')}, **{
        f'{name}__compiled': entry_of(name, [1. + i, 2., 3.], 'compiled')
        for i, name in enumerate(('glit_s', 'parc_r50', 'transcnn_b'))},
        transcnn_b__optimised=entry_of('transcnn_b', [.5, 1., 1.]))
    found = {row[0]: row[2] for row in rows(page.goals_table([inference]))[2:]}
    assert found['TransCNN base, compiled over eager, inference'] == '1.00 (1.00 to 2.00)'
    assert found['TransCNN base, `optimise` over plain eager, fp32'] == '0.50 (0.42 to 0.50)'
    assert found['the median of these'].startswith('1.00')


def test_every_goal_can_be_told():
    names = {goal.network for goal in GOALS} - {'median'}
    assert names < set(NETWORKS) and {goal.figure for goal in GOALS} == set(figures.FIGURES)


def test_rows_have_rates_and_shares_of_their_round():
    record = synthetic(r50=entry_of('r50', [1., 1., 2.]), swin_t=entry_of(BASE, [1.] * 3),
                       transcnn_b__plain=entry_of('transcnn_b', [2.] * 3, 'plain'))
    text = page.results([record])
    table = {row[0]: row[1:] for row in rows(text)[2:]}
    assert list(table) == ['TransCNN base, plain', 'Swin-T', 'ResNet-50'] and '### 768×1280, batch of 1, training, fp32' in text
    # three multiply-adds in training, two operations each: 6 over the 4 of the product; the sum took 2 seconds
    assert table['ResNet-50'] == ['1.0', '1.0000 (1.0000 to 1.5000)', '1.00', '1.00', '3.0', '0.006', '1.50', '2.00', '2', '1.00']
    assert table['TransCNN base, plain'][6:8] == ['0.75', '1.00']


def test_growth_is_of_one_run():
    cell = CELL._replace(sizes=((1, 512, 512), (1, 1024, 1024)))
    record = synthetic(cell, r50=entry_of('r50', [1.] * 3), r50_at_1=entry_of('r50', [4.5, 4., 4.8], macs=4 * 10**9))
    row, = rows(page.growth_table([record]))[2:]
    assert row[0] == 'ResNet-50' and row[2:] == ['4.00', '4.50', '1.12 (1.06 to 1.16)', 'no']
    assert 'ResNet' not in page.results([record]) and figures.newest([record])


def test_plot_is_small(root, tmp_path):
    (tmp_path / 'docs').mkdir()
    (tmp_path / page.PAGE).write_text((root / page.PAGE).read_text())
    found = [synthetic(CELL._replace(mode=mode), **{
        name: entry_of(name, [1. + i, 2. + i, 2. + i], macs=10**9 * (i + 1)) for i, name in enumerate(NETWORKS)})
        for mode in ('training', 'inference')]
    written = page.write_page(tmp_path, found)
    assert written == [page.PAGE, 'docs/images/speed_cpu_fp32.png']
    assert 5000 < (tmp_path / written[1]).stat().st_size < 60000
    assert '(images/speed_cpu_fp32.png)' in (tmp_path / page.PAGE).read_text()


def test_page_is_what_the_results_give(root):
    found = records.read(root / 'benchmarks' / 'speed.json')
    text = (root / page.PAGE).read_text()
    assert page.render(text, found) == text, 'run python benchmarks/speed.py --write'
    assert all((root / 'docs' / name).is_file() for name in page.plots_of(found))


def test_results_of_another_machine_are_added(speed, tmp_path):
    ours, other = synthetic(r50=entry_of('r50', [1.] * 3)), synthetic(r50=entry_of('r50', [2.] * 3))
    records.write(tmp_path / 'speed.json', ours)
    records.write(tmp_path / 'other.json', dict(other, machine='another', device='cuda'))
    assert speed('--add', tmp_path / 'other.json')[0] == 0 and len(records.read(tmp_path / 'speed.json')) == 2
    assert 'is not there; give a file that --out wrote' in speed('--add', tmp_path / 'none.json')[0]


def test_file_of_something_else_is_named(tmp_path):
    (tmp_path / 'out.json').write_text('{"a": 1}')
    with pytest.raises(SetupError, match='holds no results of this benchmark'):
        records.read(tmp_path / 'out.json')
