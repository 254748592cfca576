#!/usr/bin/env python3
"""Draw what `run.py --save` wrote: `python3 test/bench/plot.py RESULTS.json [DIRECTORY]`.

Makes one SVG file for each group of workloads, `benchmark-GROUP.svg`, with a panel of bars
for each workload: the shorter, the better; `benchmark-overview.svg` has the most important ones.
Writes `performance-results.txt` for the documentation, with the charts, the numbers, and the bars.
"""

import argparse
import json
import os
import sys
from typing import Any, Dict, Iterator, List, NamedTuple

from clients import CLIENTS, OURS
from environment import Environment, default_directory
from run import NEAR, bar_table, format_seconds
from workloads import KIB, WORKLOADS, Workload

#: Bars longer than this many times ours are cut, their numbers tell.
CUT = 8.0


class Chart(NamedTuple):
    """A file with a panel for each workload, or two for that of memory."""

    title: str
    workloads: List[Workload]
    columns: int = 2


def all_of(group: str) -> List[Workload]:
    return [load for load in WORKLOADS.values() if load.group == group]


CHARTS = {
    'requests': Chart('Small requests (time per request)', all_of('requests')),
    'bodies': Chart('Downloads (time per body)', all_of('bodies')),
    'uploads': Chart('Uploads (time per body)', all_of('uploads')),
    'tls': Chart('Over TLS (time per request or body)', all_of('tls')),
    'footprint': Chart('Footprint', all_of('footprint')),
}
OVERVIEW = Chart(
    'Time per request or body',
    [WORKLOADS[name] for name in ('get', 'pipeline-coroutines', 'readall-64M')],
    columns=3,
)

COLOURS = {OURS: '#c2410c', 'raw': '#9ca3af', 'pycurl': '#0f766e'}
OTHERS = '#60a5fa'


def panels(document: Dict[str, Any], chart: Chart) -> List[Dict[str, Any]]:
    """The panels of a chart: title, and the value and the text of each client's bar."""
    found = []
    for load in chart.workloads:
        measured = document['medians'].get(load.name)
        if not measured:
            continue
        if load.method == 'memory':
            for quantity, state in (('idle', 'unused'), ('used', 'after one answer')):
                values = {name: value[quantity] for name, value in measured.items()}
                title = f'Python memory per connection, {state}'
                texts = {name: f'{value / KIB:.2f} KiB' for name, value in values.items()}
                found.append({'title': title, 'values': values, 'texts': texts})
        else:
            values = {name: value['wall'] for name, value in measured.items()}
            texts = {name: format_seconds(value) for name, value in values.items()}
            found.append({'title': load.title, 'values': values, 'texts': texts})
    return found


def draw(pyplot: Any, document: Dict[str, Any], chart: Chart, path: str) -> bool:
    """Draw one chart into the file *path*; False if there is nothing to draw."""
    found = panels(document, chart)
    if not found:
        return False
    columns = min(chart.columns, len(found))
    rows = -(-len(found) // columns)
    longest = max(len(panel['values']) for panel in found)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(5.5 * columns, rows * (0.9 + 0.24 * longest)),
        layout='constrained',
    )
    figure.suptitle(f'{chart.title}: shorter is better')
    flat = [axis for row in axes for axis in row]
    for axis, panel in zip(flat, found):
        draw_panel(axis, panel, longest)
    for axis in flat[len(found) :]:
        axis.axis('off')
    machine = document['machine']
    figure.supxlabel(
        f'{document["implementation"]} {document["python"]}, {machine["cpu"]}, '
        f'{machine["cores"]} cores, {document["server"]}',
        fontsize='small',
    )
    # No date, so that the same results give the same file.
    figure.savefig(path, metadata={'Date': None})
    pyplot.close(figure)
    print(path)
    return True


def draw_panel(axis: Any, panel: Dict[str, Any], longest: int) -> None:
    """Draw one panel; the bars are as thick as where there are *longest* of them."""
    values = panel['values']
    names = sorted(values, key=values.get, reverse=True)
    reference = values.get(OURS, min(values.values()))
    end = min(max(values.values()), CUT * reference)
    axis.barh(
        names,
        [min(values[name], end) for name in names],
        color=[COLOURS.get(name.partition('@')[0], OTHERS) for name in names],
    )
    for place, name in enumerate(names):
        cut = values[name] > end
        text = f' {panel["texts"][name]}' + (' →' if cut else '')
        axis.text(min(values[name], end), place, text, va='center', fontsize='small')
    axis.set_title(panel['title'], fontsize='medium')
    # Room for the text beside the longest bar.
    axis.set_xlim(0, end * 1.3)
    axis.set_ylim(len(names) - longest - 0.6, len(names) - 0.4)
    axis.xaxis.set_visible(False)
    for side in ('top', 'right', 'bottom'):
        axis.spines[side].set_visible(False)


def results(document: Dict[str, Any], drawn: List[str]) -> Iterator[str]:
    """The lines of the file with all results."""
    machine = document['machine']
    yield f'{document["implementation"]} {document["python"]}, {document["server"]};'
    yield f'{machine["cpu"]}, {machine["cores"]} cores; medians of {document["rounds"]} rounds.'
    if document['more_rounds']:
        more = f'{document["more_rounds"]} more rounds'
        yield f'Bars: with {more} for those who are within {NEAR:.0%} of one.'
    for name in drawn:
        yield ''
        yield f'.. image:: benchmark-{name}.svg'
        yield f'   :alt: {CHARTS[name].title}, beside other clients'
    yield ''
    yield 'Wall-clock time of dugong, and how many times as long the others took::'
    yield ''
    names = [name for name in CLIENTS if name in document['versions'] and name != OURS]
    header = ''.join(f'{name:>13}' for name in names)
    yield f'   {"":25}{OURS:>10}{header}'
    for load in WORKLOADS.values():
        measured = document['medians'].get(load.name, {})
        if load.method == 'memory' or OURS not in measured:
            continue
        ours = measured[OURS]['wall']
        ratios = ''.join(
            f'{measured[name]["wall"] / ours:13.2f}' if name in measured else f'{"-":>13}'
            for name in names
        )
        yield f'   {load.name:25}{format_seconds(ours):>10}{ratios}'
    yield ''
    yield 'What was aimed at, and what was reached::'
    for line in bar_table(document['bars']):
        yield f'   {line}'.rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', help='file that run.py saved')
    parser.add_argument('directory', nargs='?', default='.', help='where to put the charts')
    parser.add_argument('--venv', metavar='DIR', default=default_directory())
    options = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        environment = Environment(options.venv)
        if not environment.add('matplotlib') or sys.executable == environment.python:
            print('matplotlib cannot be installed here')
            return 1
        os.execv(environment.python, [environment.python, *sys.argv])
    matplotlib.use('svg')
    # Text stays text, and names inside the file do not change from run to run.
    matplotlib.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'dugong'})
    from matplotlib import pyplot

    with open(options.results) as fh:
        document = json.load(fh)
    os.makedirs(options.directory, exist_ok=True)
    pattern = os.path.join(options.directory, 'benchmark-{}.svg')
    drawn = [
        name
        for name, chart in CHARTS.items()
        if draw(pyplot, document, chart, pattern.format(name))
    ]
    draw(pyplot, document, OVERVIEW, pattern.format('overview'))
    path = os.path.join(options.directory, 'performance-results.txt')
    with open(path, 'w', encoding='utf-8') as fh:
        fh.writelines(f'{line}\n' for line in results(document, drawn))
    print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
