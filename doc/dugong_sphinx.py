"""What the pages need of Sphinx: links for single backticks, and `.. state-diagram:: NAME`.

*Single backticks*, here and in docstrings: a name of the public interface is a link to its
description, any other one is shown as code. A name that looks like one of the interface and is
none shows up as a missing target, as the pages are built with `-n`.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from docutils import nodes
from docutils.parsers.rst import Directive
from dugong_states import DIAGRAMS, svg
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxRole

import dugong

#: The class whose attributes are also found without its name.
_CONNECTION = dugong.HTTPConnection


def target(name: str) -> Optional[str]:
    """Return the full name of what *name* means, `None` if it is not of this package."""
    first, _, rest = (name[:-2] if name.endswith('()') else name).partition('.')
    if first == 'dugong':
        return f'dugong.{rest}' if rest else None
    if first == 'HTTPResponse':
        # Its attributes are described together.
        return 'dugong.HTTPResponse'
    if first in dugong.__all__ and not first.startswith('_'):
        return f'dugong.{first}.{rest}' if rest else f'dugong.{first}'
    if not rest and first in _MEMBERS:
        return f'dugong.HTTPConnection.{first}'
    return None


#: Names that mean a method of other objects as often as not.
_COMMON = {'close', 'closed', 'flush', 'name', 'port', 'proxy', 'timeout'}

_MEMBERS = {name for name in vars(_CONNECTION) if not name.startswith('_')} - _COMMON


class NameRole(SphinxRole):
    """The default role."""

    def run(self) -> Tuple[List[nodes.Node], List[Any]]:
        short = self.text.startswith('~')
        name = self.text.lstrip('~')
        found = target(name)
        if found is None:
            return [nodes.literal(self.rawtext, name, classes=['code'])], []
        title = name.rpartition('.')[2] if short else name
        role = XRefRole(innernodeclass=nodes.literal)
        return role(
            'py:obj', self.rawtext, f'{title} <{found}>', self.lineno, self.inliner, {}, []
        )


class StateDiagram(Directive):
    """The drawing, and tables of the states and, where there are no drawings, of the steps."""

    required_arguments = 1

    def run(self) -> List[nodes.Node]:
        diagram = DIAGRAMS[self.arguments[0]]()
        diagram.check()
        steps = [(a, b, diagram.names[a, b]) for a, b in sorted(diagram.steps)]
        without_drawings = addnodes.only(expr='not html')
        without_drawings += _table(('From', 'To', 'When'), steps, 2)
        return [
            nodes.raw('', svg(diagram), format='html'),
            without_drawings,
            _table(('State', 'Meaning'), list(diagram.states.items()), 1),
        ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> nodes.table:
    """Make a table; the first *names* columns hold names of states."""
    group = nodes.tgroup(cols=len(head))
    for number in range(len(head)):
        group += nodes.colspec(colwidth=1 if number < names else 4)
    table_head, table_body = nodes.thead(), nodes.tbody()
    for part, lines in ((table_head, [head]), (table_body, rows)):
        for line in lines:
            row = nodes.row()
            for number, text in enumerate(line):
                is_name = number < names and part is table_body
                kind = nodes.literal if is_name else nodes.inline
                row += nodes.entry('', nodes.paragraph('', '', kind(text, text)))
            part += row
    group += [table_head, table_body]
    return nodes.table('', group)


def setup(app: Sphinx) -> Dict[str, bool]:
    app.add_role('name', NameRole())
    app.add_directive('state-diagram', StateDiagram)
    return {'parallel_read_safe': True}
