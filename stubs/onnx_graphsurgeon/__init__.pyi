# The part of onnx_graphsurgeon that graphopt uses.
from collections.abc import MutableMapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx_graphsurgeon import exporters as exporters
from onnx_graphsurgeon import importers as importers
from onnx_graphsurgeon import ir as ir
from onnx_graphsurgeon import logger as logger

class Tensor:
    name: str
    inputs: list[Node]
    outputs: list[Node]
    # A NumPy type, or ONNX's number of one that NumPy lacks; None where nobody knows.
    dtype: Any
    # Numbers, names of dynamic extents, None; or None. Ask `ir.graph.static_shape`.
    shape: Any
    type: str
    def is_empty(self) -> bool: ...
    def to_constant(self, values: NDArray[Any]) -> Constant: ...
    def to_variable(self, dtype: Any = ..., shape: Any = ...) -> Variable: ...
    def copy(self) -> Tensor: ...

class Variable(Tensor):
    def __init__(
        self,
        name: str,
        dtype: Any = ...,
        shape: Sequence[int | str | None] | None = ...,
        type: str = ...,
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    values: NDArray[Any]
    _values: Any
    def __init__(
        self, name: str, values: Any, data_location: int | None = ..., export_dtype: Any = ...
    ) -> None: ...

class Function(Graph):
    domain: str | None

class Node:
    op: str
    name: str
    attrs: MutableMapping[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = ...,
        attrs: MutableMapping[str, Any] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        domain: str | None = ...,
    ) -> None: ...
    def subgraphs(self, recursive: bool = ...) -> Any: ...
    def copy(self, *args: Any, **kwargs: Any) -> Node: ...

class Graph:
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    name: str
    doc_string: str
    opset: int
    import_domains: Any
    producer_name: str
    producer_version: str
    functions: list[Function]
    ir_version: int | None
    def __init__(
        self,
        nodes: Sequence[Node] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        name: str | None = ...,
        doc_string: str | None = ...,
        opset: int | None = ...,
        import_domains: Any = ...,
        producer_name: str | None = ...,
        producer_version: str | None = ...,
        functions: Sequence[Function] | None = ...,
        ir_version: int | None = ...,
    ) -> None: ...
    def _foreign_tensors(self) -> dict[str, Tensor]: ...
    def tensors(self, check_duplicates: bool = ...) -> dict[str, Tensor]: ...
    def copy(self, tensor_map: Any = ...) -> Graph: ...
    def toposort(self, *args: Any, **kwargs: Any) -> Graph: ...
    def cleanup(self, *args: Any, **kwargs: Any) -> Graph: ...
    def subgraphs(self, recursive: bool = ...) -> Any: ...

def import_onnx(model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph, do_type_check: bool = ..., **attributes: Any) -> onnx.ModelProto: ...
