"""The OpenAPI 2 document: all groups in one, as JSON and in the binary form that old clients want.

Made from the OpenAPI 3 documents of `schema`; nothing is said twice. Old kubectl (1.20) reads nothing else, and only in
the binary form: it validates objects against `definitions`, and looks at the parameters of PATCH operations to find
out whether the server can do a dry run.

Sources: the OpenAPI 2.0 specification; the binary form is the message `openapi.v2.Document` in `pb/openapi_v2.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from certplane.meta.pb import openapi_v2_pb2

Document = dict[str, Any]

_METHODS: Final = ("get", "put", "post", "delete", "patch")
_EXTENSION: Final = "x-"
#: The parameter that stands at every path is written once.
_WRITTEN_ONCE: Final = "pretty"


def merge(documents: Iterable[Document]) -> Document:
    """One OpenAPI 2 document that says what these OpenAPI 3 documents say. There must be at least one."""
    paths: Document = {}
    definitions: Document = {}
    shared: Document = {}
    info: Document = {}
    security: Document = {}
    for document in documents:
        info = document["info"]
        security = document["components"]["securitySchemes"]
        for path, item in document["paths"].items():
            paths[path] = _path_item(item, shared)
        for name, schema in document["components"]["schemas"].items():
            _define(definitions, name, _schema(schema))
    return {
        "swagger": "2.0",
        "info": info,
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(definitions.items())),
        "parameters": shared,
        "securityDefinitions": security,
        "security": [{name: []} for name in security],
    }


def _define(definitions: Document, name: str, schema: Document) -> None:
    known = definitions.setdefault(name, schema)
    kinds = known.get("x-kubernetes-group-version-kind", [])
    # Each group adds its own name for the types that all of them use.
    kinds.extend(each for each in schema.get("x-kubernetes-group-version-kind", []) if each not in kinds)


def _schema(schema: Document) -> Document:
    found: Document = {}
    for key, value in schema.items():
        if key == "$ref":
            found[key] = value.replace("#/components/schemas/", "#/definitions/")
        elif key in ("allOf", "oneOf"):
            found |= _schema(value[0])
        elif key in ("items", "additionalProperties"):
            found[key] = _schema(value)
        elif key == "properties":
            found[key] = {name: _schema(each) for name, each in value.items()}
        elif key != "default":  # beside a reference it would not be allowed
            found[key] = list(value) if isinstance(value, list) else value
    return found


def _path_item(item: Document, shared: Document) -> Document:
    found: Document = {method: _operation(item[method]) for method in _METHODS if method in item}
    parameters = []
    for each in item.get("parameters", []):
        parameter = _parameter(each)
        if parameter["name"] == _WRITTEN_ONCE:
            shared[_WRITTEN_ONCE] = parameter
            parameter = {"$ref": f"#/parameters/{_WRITTEN_ONCE}"}
        parameters.append(parameter)
    return found | ({"parameters": parameters} if parameters else {})


def _operation(operation: Document) -> Document:
    parameters = [_parameter(each) for each in operation.get("parameters", [])]
    body = operation.get("requestBody")
    consumes = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]
    if body is not None:
        content = body["content"]
        consumes = list(content)
        first = next(iter(content.values()))
        parameters.append({"name": "body", "in": "body", "required": body.get("required", False)} | _with_schema(first))
    content = operation["responses"]["200"].get("content", {})
    found = {key: value for key, value in operation.items() if key not in ("parameters", "requestBody", "responses")}
    found |= {"consumes": consumes, "produces": list(content), "schemes": ["https"]}
    if parameters:
        found["parameters"] = parameters
    return found | {"responses": {code: _response(each) for code, each in operation["responses"].items()}}


def _with_schema(media: Mapping[str, Any]) -> Document:
    return {"schema": _schema(media["schema"])}


def _response(response: Document) -> Document:
    found: Document = {"description": response["description"]}
    if "content" in response:
        found |= _with_schema(next(iter(response["content"].values())))
    return found


def _parameter(parameter: Document) -> Document:
    found = {key: value for key, value in parameter.items() if key != "schema"}
    found.update(parameter["schema"])
    return found


# --- the binary form ----------------------------------------------------------------------------------------------


def encode(document: Document) -> bytes:
    """An OpenAPI 2 document, as `merge` makes it, in binary form."""
    result = openapi_v2_pb2.Document(
        swagger=document["swagger"],
        info=openapi_v2_pb2.Info(**document["info"]),
        paths=openapi_v2_pb2.Paths(
            path=[
                openapi_v2_pb2.NamedPathItem(name=name, value=_encode_path(item))
                for name, item in document["paths"].items()
            ]
        ),
        definitions=openapi_v2_pb2.Definitions(additional_properties=_encode_schemas(document["definitions"])),
        parameters=openapi_v2_pb2.ParameterDefinitions(
            additional_properties=[
                openapi_v2_pb2.NamedParameter(name=name, value=_encode_parameter(each))
                for name, each in document["parameters"].items()
            ]
        ),
        security=[
            openapi_v2_pb2.SecurityRequirement(
                additional_properties=[
                    openapi_v2_pb2.NamedStringArray(name=name, value=openapi_v2_pb2.StringArray(value=scopes))
                    for name, scopes in each.items()
                ]
            )
            for each in document["security"]
        ],
    )
    for name, each in document["securityDefinitions"].items():
        target = result.security_definitions.additional_properties.add(name=name)
        _fill(target.value.api_key_security, each)
    encoded: bytes = result.SerializeToString(deterministic=True)
    return encoded


def _fill(target: Any, values: Mapping[str, Any]) -> None:
    # Some fields are called like words of Python, so they cannot be written as attributes.
    for name, value in values.items():
        setattr(target, name, value)


def _encode_path(item: Document) -> openapi_v2_pb2.PathItem:
    result = openapi_v2_pb2.PathItem(parameters=[_encode_parameters_item(each) for each in item.get("parameters", [])])
    for method in _METHODS:
        if method in item:
            getattr(result, method).CopyFrom(_encode_operation(item[method]))
    return result


def _encode_operation(operation: Document) -> openapi_v2_pb2.Operation:
    responses = [
        openapi_v2_pb2.NamedResponseValue(
            name=code, value=openapi_v2_pb2.ResponseValue(response=_encode_response(response))
        )
        for code, response in operation["responses"].items()
    ]
    return openapi_v2_pb2.Operation(
        tags=operation["tags"],
        description=operation.get("description", ""),
        operation_id=operation["operationId"],
        produces=operation["produces"],
        consumes=operation["consumes"],
        parameters=[_encode_parameters_item(each) for each in operation.get("parameters", [])],
        responses=openapi_v2_pb2.Responses(response_code=responses),
        schemes=operation["schemes"],
        vendor_extension=_encode_extensions(operation),
    )


def _encode_response(response: Document) -> openapi_v2_pb2.Response:
    result = openapi_v2_pb2.Response(description=response["description"])
    if "schema" in response:
        # The field is called `schema` twice: once in the response, once in the union of what can describe it.
        result.schema.CopyFrom(openapi_v2_pb2.SchemaItem(schema=_encode_schema(response["schema"])))
    return result


def _encode_parameters_item(parameter: Document) -> openapi_v2_pb2.ParametersItem:
    if "$ref" in parameter:
        return openapi_v2_pb2.ParametersItem(json_reference=openapi_v2_pb2.JsonReference(_ref=parameter["$ref"]))
    return openapi_v2_pb2.ParametersItem(parameter=_encode_parameter(parameter))


def _encode_parameter(parameter: Document) -> openapi_v2_pb2.Parameter:
    result = openapi_v2_pb2.Parameter()
    if parameter["in"] == "body":
        body = result.body_parameter
        _fill(body, {key: value for key, value in parameter.items() if key != "schema"})
        body.schema.CopyFrom(_encode_schema(parameter["schema"]))
        return result
    other = result.non_body_parameter
    target = other.path_parameter_sub_schema if parameter["in"] == "path" else other.query_parameter_sub_schema
    _fill(target, {{"uniqueItems": "unique_items"}.get(key, key): value for key, value in parameter.items()})
    return result


def _encode_schemas(schemas: Document) -> list[openapi_v2_pb2.NamedSchema]:
    return [openapi_v2_pb2.NamedSchema(name=name, value=_encode_schema(each)) for name, each in schemas.items()]


def _encode_schema(schema: Document) -> openapi_v2_pb2.Schema:
    result = openapi_v2_pb2.Schema(
        _ref=schema.get("$ref", ""),
        format=schema.get("format", ""),
        description=schema.get("description", ""),
        required=schema.get("required", []),
        enum=[_encode_any(each) for each in schema.get("enum", [])],
        vendor_extension=_encode_extensions(schema),
    )
    if "type" in schema:
        result.type.value.append(schema["type"])
    if "items" in schema:
        result.items.schema.append(_encode_schema(schema["items"]))
    if "additionalProperties" in schema:
        result.additional_properties.schema.CopyFrom(_encode_schema(schema["additionalProperties"]))
    if "properties" in schema:
        result.properties.additional_properties.extend(_encode_schemas(schema["properties"]))
    return result


def _encode_extensions(of: Document) -> list[openapi_v2_pb2.NamedAny]:
    return [
        openapi_v2_pb2.NamedAny(name=key, value=_encode_any(value))
        for key, value in of.items()
        if key.startswith(_EXTENSION)
    ]


def _encode_any(value: Any) -> openapi_v2_pb2.Any:
    # YAML is asked for; every JSON text is one.
    return openapi_v2_pb2.Any(yaml=msgspec.json.encode(value).decode("utf-8") + "\n")
