"""Generate the protobuf modules from their `.proto` files: `make generate`.

The `.proto` files in `src/certplane/wire/pb` are written by hand; the `*_pb2.py` and `*_pb2.pyi` beside them are made
by the compiler in `grpcio-tools` and are committed, so that neither an installation nor a test needs a compiler.
`tests/house/test_generated.py` runs this into an empty folder and compares.
"""

from __future__ import annotations

import pathlib
import sys

from grpc_tools import protoc

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src"
FOLDER = pathlib.Path("certplane/wire/pb")
#: The compiler leaves out the arguments of `Mapping` and a few annotations, which mypy's strict mode does not allow.
_STUB_HEAD = '# mypy: disable-error-code="type-arg,no-untyped-def"\n'


def generate(target: pathlib.Path) -> None:
    """Write the modules below `target`, which stands for `src`. Raises SystemExit if a file does not compile."""
    protos = sorted(str(each.relative_to(SOURCE)) for each in (SOURCE / FOLDER).glob("*.proto"))
    # The paths given to the compiler are relative to the include path; they become part of the generated code.
    arguments = ["protoc", f"--proto_path={SOURCE}", f"--python_out={target}", f"--pyi_out={target}", *protos]
    code = protoc.main(arguments)
    if code != 0:
        raise SystemExit(code)
    for stub in sorted((target / FOLDER).glob("*_pb2.pyi")):
        stub.write_text(_STUB_HEAD + stub.read_text("utf-8"), "utf-8")


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)
