from typing import Any

class OnnxExporter:
    @staticmethod
    def export_tensor_proto(tensor: Any) -> Any: ...
    @staticmethod
    def export_node(node: Any, *args: Any, **kwargs: Any) -> Any: ...
