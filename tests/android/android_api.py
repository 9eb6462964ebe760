"""Android's API as Java sources that javac can check an app against, where there is no android.jar.

    python android_api.py STUBS SOURCES OUTPUT

They are made of the Python stubs of chaquopy-stubs-android, which were made of an android.jar, and
hold only what is mentioned in the app. What Python's stubs do not say is here: which methods are
protected, and what they throw. They do not tell an `int` that is returned from a `long`, nor an
abstract method from another.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROTECTED = {"onCreate", "onResume", "onPause", "onDestroy", "onDraw"}
CAMERA, JSON = "android.hardware.camera2.CameraAccessException", "org.json.JSONException"
THROWS = {
    "getCameraIdList": CAMERA,
    "getCameraCharacteristics": CAMERA,
    "openCamera": CAMERA,
    "createCaptureRequest": CAMERA,
    "createCaptureSession": CAMERA,
    "setRepeatingRequest": CAMERA,
    "getJSONObject": JSON,
    "getJSONArray": JSON,
    "getString": JSON,
    "getBoolean": JSON,
    "org.json.JSONObject": JSON,
    "open": "java.io.IOException",
}
PRIMITIVES = {
    "typing.Type": "java.lang.Class",
    "int": "int",
    "float": "float",
    "bool": "boolean",
    "str": "java.lang.String",
}
NUMBERS = ("boolean", "byte", "char", "short", "int", "long", "float", "double")
PRIMITIVES |= {f"java.j{name}": name for name in NUMBERS}
ARRAYS = {f"java.chaquopy.JavaArrayJ{name.capitalize()}": f"{name}[]" for name in NUMBERS}


class Api:
    """The stubs in a folder, and the Java that was asked for."""

    def __init__(self, stubs: Path, app: str) -> None:
        self.stubs, self.words = stubs, set(re.findall(r"\w+", app))
        self.modules: dict[str, dict[str, ast.ClassDef]] = {}
        self.wanted = re.findall(r"^import ((?:android|org\.json)\.[\w.]+);", app, re.MULTILINE)

    def write(self, folder: Path) -> None:
        """Write a source for each class that the app needs."""
        done: set[str] = set()
        while self.wanted:
            package, _, name = self.find(self.wanted.pop()).rpartition(".")
            if f"{package}.{name}" not in done:
                done.add(f"{package}.{name}")
                source = "\n".join(self.java(package, name, self.module(package)[name], ""))
                place = folder.joinpath(*package.split("."), f"{name}.java")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(f"package {package};\n{source}\n")

    def module(self, package: str) -> dict[str, ast.ClassDef]:
        if package not in self.modules:
            first, *rest = package.split(".")
            file = self.stubs.joinpath(f"{first}-stubs", *rest, "__init__.pyi")
            nodes = ast.parse(file.read_text()).body if file.exists() else []
            self.modules[package] = {n.name: n for n in nodes if isinstance(n, ast.ClassDef)}
        return self.modules[package]

    def find(self, name: str) -> str:
        """The class at the top that a class belongs to."""
        parts = name.split(".")
        for i in range(1, len(parts)):
            if parts[i] in self.module(".".join(parts[:i])):
                return ".".join(parts[: i + 1])
        raise LookupError(f"Android has no {name}")

    def type(self, package: str, node: ast.expr, variables: set[str]) -> str:
        """A type in Java; the classes in it are wanted from now on."""
        if isinstance(node, ast.BinOp):
            options = [self.type(package, side, variables) for side in (node.left, node.right)]
            # None, and what Chaquopy converts by itself, stand beside the real type.
            return next((o for o in options if o in NUMBERS), options[options[0] == "void"])
        if isinstance(node, ast.Constant):
            return "void"
        if isinstance(node, ast.Subscript):
            base = ast.unparse(node.value)
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            arguments = [self.type(package, item, variables) for item in items]
            if base == "java.chaquopy.JavaArray":
                return f"{arguments[0]}[]"
            outer = "java.lang.Class" if base == "typing.Type" else self.named(package, base)
            return f"{outer}<{', '.join(arguments)}>"
        name = ast.unparse(node)
        if name.startswith("_"):
            variables.add(name)
            return name
        return PRIMITIVES.get(name) or ARRAYS.get(name) or self.named(package, name)

    def named(self, package: str, name: str) -> str:
        """A class by its full name; it is wanted from now on."""
        if name.partition(".")[0] in self.module(package):
            name = f"{package}.{name}"
        if name.startswith(("android.", "org.json.")):
            self.wanted.append(name)
        return name

    def is_interface(self, package: str, node: ast.ClassDef) -> bool:
        made = any(isinstance(n, ast.FunctionDef) and n.name == "__init__" for n in node.body)
        return not made and not self.classes(package, node)

    def classes(self, package: str, node: ast.ClassDef) -> list[str]:
        """The class that it extends, if that is not Object."""
        return [
            self.type(package, base, set())
            for base in node.bases
            if self.is_class(self.named(package, ast.unparse(base).partition("[")[0]))
        ]

    def is_class(self, name: str) -> bool:
        if not name.startswith("android."):
            return name.endswith(("Exception", "Stream", "Thread"))
        package, _, top = self.find(name).rpartition(".")
        found = self.module(package)[top]
        for part in name.removeprefix(f"{package}.{top}").split(".")[1:]:
            found = next(n for n in found.body if isinstance(n, ast.ClassDef) and n.name == part)
        return not self.is_interface(package, found)

    def java(self, package: str, name: str, node: ast.ClassDef, static: str) -> Iterator[str]:
        own: set[str] = set()
        for base in node.bases:
            if isinstance(base, ast.Subscript) and ast.unparse(base.value) == "typing.Generic":
                self.type(package, base.slice, own)
        extended = self.classes(package, node)
        interface = self.is_interface(package, node)
        # What else it is. Of a class, what the app can know: the rest of its methods is not here.
        others = [
            full
            for base in node.bases
            if (full := self.named(package, ast.unparse(base).partition("[")[0])) not in extended
            and full not in ("java.lang.Object", "java.lang.Enum", "typing.Generic")
            and (interface or full.rpartition(".")[2] in self.words)
        ]
        # A lambda does not mention what it implements.
        functions = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
        words = self.words | set(functions if interface and len(functions) == 1 else ["__init__"])
        generic = f"<{', '.join(sorted(own))}>" if own else ""
        bases = f" extends {extended[0]}" if extended else ""
        if others:
            verb = "extends" if interface else "implements"
            bases += f" {verb} {', '.join(others)}"
        kind = "interface" if interface else "class"
        yield f"public {static}{kind} {name}{generic}{bases} {{"
        methods: dict[str, str] = {}
        if not interface:
            methods[f"{name}("] = f"protected {name}() {{}}"  # for those that extend it
        for part in node.body:
            if isinstance(part, ast.ClassDef):
                yield from self.java(package, part.name, part, "static ")
            elif isinstance(part, ast.AnnAssign) and ast.unparse(part.target) in self.words:
                yield self.field(package, part, own)
            elif isinstance(part, ast.FunctionDef) and part.name in words:
                method = self.method(package, name, part, own, interface)
                signature = re.sub(r" a\d+", "", method.partition(")")[0])
                methods[signature.removeprefix("public ")] = method
        yield from methods.values()
        yield "}"

    def field(self, package: str, part: ast.AnnAssign, own: set[str]) -> str:
        static, annotation = "", part.annotation
        if ast.unparse(annotation).startswith("typing.ClassVar["):
            assert isinstance(annotation, ast.Subscript)
            static, annotation = "static ", annotation.slice
        kind = self.type(package, annotation, own)
        value = {"boolean": "false"}.get(kind, "0" if kind in NUMBERS else "null")
        return f"public {static}{kind} {ast.unparse(part.target)} = {value};"

    def method(
        self, package: str, name: str, part: ast.FunctionDef, own: set[str], interface: bool
    ) -> str:
        decorators = {ast.unparse(d) for d in part.decorator_list}
        static = "static " if "staticmethod" in decorators else ""
        variables: set[str] = set()
        listed = [*part.args.posonlyargs, *part.args.args]
        parameters = [a for a in listed if a.arg != "self" and a.annotation]
        types = [self.type(package, a.annotation, variables) for a in parameters if a.annotation]
        if part.args.vararg and part.args.vararg.annotation:
            types.append(self.type(package, part.args.vararg.annotation, variables) + "...")
        arguments = ", ".join(f"{t} a{i}" for i, t in enumerate(types))
        made = part.name == "__init__"
        returned = part.returns or ast.Constant(None)
        result = "" if made else self.type(package, returned, variables) + " "
        generic = f"<{', '.join(sorted(variables - own))}> " if variables - own else ""
        thrown = THROWS.get(f"{package}.{name}" if made else part.name)
        throws = f" throws {self.named(package, thrown)}" if thrown else ""
        body = ";" if interface and not static else " { throw new RuntimeException(); }"
        access = "protected" if part.name in PROTECTED and not interface else "public"
        head = f"{access} {static}{generic}{result}{name if made else part.name}"
        return f"{head}({arguments}){throws}{body}"


if __name__ == "__main__":
    stubs, sources, output = map(Path, sys.argv[1:])
    Api(stubs, "\n".join(file.read_text() for file in sources.rglob("*.java"))).write(output)
