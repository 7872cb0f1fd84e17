"""The passes that every graph of reals goes through before it is quantized, to a fixed point."""

from __future__ import annotations

from edgeq.ir.graph import Graph
from edgeq.passes.attention import ATTENTION
from edgeq.passes.fold import FOLD
from edgeq.passes.fuse import FUSE
from edgeq.passes.layout import LAYOUT
from edgeq.passes.rewrite import rewrite

RULES = (*LAYOUT, *FUSE, *FOLD, *ATTENTION)


def simplify(graph: Graph) -> Graph:
    """`graph` with constant arithmetic folded into weights and spelled-out functions as one operator.

    The real-valued function, the inputs and the names and order of the outputs stay. A graph of codes is exact as it
    is and stays.
    """
    if any(type_.scale for type_ in graph.types.values()):
        return graph
    return rewrite(graph, RULES)
