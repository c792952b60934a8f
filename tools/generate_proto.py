"""Generate the protobuf modules from their `.proto` files: `make generate`.

The `.proto` files in `src/certplane/wire/pb` are written by hand. The compiler in `grpcio-tools` generates `*_pb2.py`
and `*_pb2.pyi` from them; these are committed, so neither an installation nor a test needs the compiler.
`tests/house/test_generated.py` generates them again in an empty directory and compares.
"""

from __future__ import annotations

import pathlib
import sys

from grpc_tools import protoc

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src"
FOLDER = pathlib.Path("certplane/wire/pb")
#: The generated stubs lack the arguments of `Mapping` and a few annotations, which mypy's strict mode requires.
_STUB_HEAD = '# mypy: disable-error-code="type-arg,no-untyped-def"\n'


def generate(target: pathlib.Path) -> None:
    """Write the modules below `target`, as below `src`. Raises SystemExit if a file does not compile."""
    protos = sorted(str(path.relative_to(SOURCE)) for path in (SOURCE / FOLDER).glob("*.proto"))
    # These paths are part of the generated code, so they are relative to the include path.
    arguments = ["protoc", f"--proto_path={SOURCE}", f"--python_out={target}", f"--pyi_out={target}", *protos]
    code = protoc.main(arguments)
    if code != 0:
        raise SystemExit(code)
    for stub in sorted((target / FOLDER).glob("*_pb2.pyi")):
        stub.write_text(_STUB_HEAD + stub.read_text("utf-8"), "utf-8")


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)
