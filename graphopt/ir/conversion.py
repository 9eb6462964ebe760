"""ONNX messages as graphs of onnx_graphsurgeon, and back, without its log.

It logs to stdout, where results go; what matters in its warnings is checked by `graphopt.ir`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_graphsurgeon as gs


def import_message(model: onnx.ModelProto) -> gs.Graph:
    """The graph of a message."""
    with _silence():
        return gs.import_onnx(model)


def export_message(graph: gs.Graph, *, check_types: bool = True) -> onnx.ModelProto:
    """The message of a graph.

    Args:
        graph: what to write.
        check_types: refuse inputs and outputs without an element type.
    """
    with _silence():
        return gs.export_onnx(graph, do_type_check=check_types)


@contextmanager
def _silence() -> Iterator[None]:
    """Let the log say no more than errors for a while; whoever else uses it has set its level."""
    log = gs.logger.G_LOGGER
    before, log.severity = log.severity, log.ERROR
    try:
        yield
    finally:
        log.severity = before
