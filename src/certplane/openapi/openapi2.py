"""The OpenAPI 2 document of all groups, as JSON and in protobuf.

It is converted from the OpenAPI 3 documents of `openapi3`. Old kubectl (1.20) reads only this document, and only in
protobuf: it validates objects against `definitions`, and checks the parameters of PATCH operations to find out whether
the server supports dry run.

Sources: the OpenAPI 2.0 specification; the message `openapi.v2.Document` in `pb/openapi_v2.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from certplane.wire.pb import openapi_v2_pb2

Document = dict[str, Any]

_METHODS: Final = ("get", "put", "post", "delete", "patch")
_EXTENSION: Final = "x-"
#: The parameter of every path, which is defined once and referenced.
_SHARED_PARAMETER: Final = "pretty"


def from_openapi3(documents: Iterable[Document]) -> Document:
    """Convert OpenAPI 3 documents, at least one, to one OpenAPI 2 document."""
    paths: Document = {}
    definitions: Document = {}
    shared_parameters: Document = {}
    info: Document = {}
    security: Document = {}
    for document in documents:
        info = document["info"]
        security = document["components"]["securitySchemes"]
        for path, item in document["paths"].items():
            paths[path] = _path_item(item, shared_parameters)
        for name, schema in document["components"]["schemas"].items():
            _define(definitions, name, _schema(schema))
    return {
        "swagger": "2.0",
        "info": info,
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(definitions.items())),
        "parameters": shared_parameters,
        "securityDefinitions": security,
        "security": [{name: []} for name in security],
    }


def _define(definitions: Document, name: str, schema: Document) -> None:
    definition = definitions.setdefault(name, schema)
    kinds = definition.get("x-kubernetes-group-version-kind", [])
    # Each group adds its own kind to the types that all groups share.
    kinds.extend(kind for kind in schema.get("x-kubernetes-group-version-kind", []) if kind not in kinds)


def _schema(schema: Document) -> Document:
    converted: Document = {}
    for key, value in schema.items():
        if key == "$ref":
            converted[key] = value.replace("#/components/schemas/", "#/definitions/")
        elif key in ("allOf", "oneOf"):
            converted |= _schema(value[0])
        elif key in ("items", "additionalProperties"):
            converted[key] = _schema(value)
        elif key == "properties":
            converted[key] = {name: _schema(field) for name, field in value.items()}
        elif key != "default":  # not allowed beside a reference
            converted[key] = list(value) if isinstance(value, list) else value
    return converted


def _path_item(item: Document, shared_parameters: Document) -> Document:
    converted: Document = {method: _operation(item[method]) for method in _METHODS if method in item}
    parameters = []
    for parameter in map(_parameter, item.get("parameters", [])):
        if parameter["name"] == _SHARED_PARAMETER:
            shared_parameters[_SHARED_PARAMETER] = parameter
            parameters.append({"$ref": f"#/parameters/{_SHARED_PARAMETER}"})
        else:
            parameters.append(parameter)
    return converted | ({"parameters": parameters} if parameters else {})


def _operation(operation: Document) -> Document:
    parameters = [_parameter(parameter) for parameter in operation.get("parameters", [])]
    body = operation.get("requestBody")
    consumes = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]
    if body is not None:
        content = body["content"]
        consumes = list(content)
        first = next(iter(content.values()))
        parameters.append({"name": "body", "in": "body", "required": body.get("required", False)} | _with_schema(first))
    content = operation["responses"]["200"].get("content", {})
    converted = {
        key: value for key, value in operation.items() if key not in ("parameters", "requestBody", "responses")
    }
    converted |= {"consumes": consumes, "produces": list(content), "schemes": ["https"]}
    if parameters:
        converted["parameters"] = parameters
    return converted | {"responses": {code: _response(response) for code, response in operation["responses"].items()}}


def _with_schema(media: Mapping[str, Any]) -> Document:
    return {"schema": _schema(media["schema"])}


def _response(response: Document) -> Document:
    converted: Document = {"description": response["description"]}
    if "content" in response:
        converted |= _with_schema(next(iter(response["content"].values())))
    return converted


def _parameter(parameter: Document) -> Document:
    converted = {key: value for key, value in parameter.items() if key != "schema"}
    converted.update(parameter["schema"])
    return converted


# --- protobuf -----------------------------------------------------------------------------------------------------


def encode(document: Document) -> bytes:
    """Encode an OpenAPI 2 document of `from_openapi3` as protobuf."""
    message = openapi_v2_pb2.Document(
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
                openapi_v2_pb2.NamedParameter(name=name, value=_encode_parameter(parameter))
                for name, parameter in document["parameters"].items()
            ]
        ),
        security=[
            openapi_v2_pb2.SecurityRequirement(
                additional_properties=[
                    openapi_v2_pb2.NamedStringArray(name=name, value=openapi_v2_pb2.StringArray(value=scopes))
                    for name, scopes in requirement.items()
                ]
            )
            for requirement in document["security"]
        ],
    )
    for name, definition in document["securityDefinitions"].items():
        entry = message.security_definitions.additional_properties.add(name=name)
        _set_fields(entry.value.api_key_security, definition)
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def _set_fields(message: object, values: Mapping[str, object]) -> None:
    # setattr, because some names are keywords of Python (`in`).
    for name, value in values.items():
        setattr(message, name, value)


def _encode_path(item: Document) -> openapi_v2_pb2.PathItem:
    message = openapi_v2_pb2.PathItem(
        parameters=[_encode_parameters_item(parameter) for parameter in item.get("parameters", [])]
    )
    for method in _METHODS:
        if method in item:
            getattr(message, method).CopyFrom(_encode_operation(item[method]))
    return message


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
        parameters=[_encode_parameters_item(parameter) for parameter in operation.get("parameters", [])],
        responses=openapi_v2_pb2.Responses(response_code=responses),
        schemes=operation["schemes"],
        vendor_extension=_encode_extensions(operation),
    )


def _encode_response(response: Document) -> openapi_v2_pb2.Response:
    message = openapi_v2_pb2.Response(description=response["description"])
    if "schema" in response:
        # Two nested fields are called `schema`: that of the response, and that of the union in it.
        message.schema.CopyFrom(openapi_v2_pb2.SchemaItem(schema=_encode_schema(response["schema"])))
    return message


def _encode_parameters_item(parameter: Document) -> openapi_v2_pb2.ParametersItem:
    if "$ref" in parameter:
        return openapi_v2_pb2.ParametersItem(json_reference=openapi_v2_pb2.JsonReference(_ref=parameter["$ref"]))
    return openapi_v2_pb2.ParametersItem(parameter=_encode_parameter(parameter))


def _encode_parameter(parameter: Document) -> openapi_v2_pb2.Parameter:
    message = openapi_v2_pb2.Parameter()
    if parameter["in"] == "body":
        body = message.body_parameter
        _set_fields(body, {key: value for key, value in parameter.items() if key != "schema"})
        body.schema.CopyFrom(_encode_schema(parameter["schema"]))
        return message
    union = message.non_body_parameter
    target = union.path_parameter_sub_schema if parameter["in"] == "path" else union.query_parameter_sub_schema
    _set_fields(target, {{"uniqueItems": "unique_items"}.get(key, key): value for key, value in parameter.items()})
    return message


def _encode_schemas(schemas: Document) -> list[openapi_v2_pb2.NamedSchema]:
    return [openapi_v2_pb2.NamedSchema(name=name, value=_encode_schema(schema)) for name, schema in schemas.items()]


def _encode_schema(schema: Document) -> openapi_v2_pb2.Schema:
    message = openapi_v2_pb2.Schema(
        _ref=schema.get("$ref", ""),
        format=schema.get("format", ""),
        description=schema.get("description", ""),
        required=schema.get("required", []),
        enum=[_encode_any(value) for value in schema.get("enum", [])],
        vendor_extension=_encode_extensions(schema),
    )
    if "type" in schema:
        message.type.value.append(schema["type"])
    if "items" in schema:
        message.items.schema.append(_encode_schema(schema["items"]))
    if "additionalProperties" in schema:
        message.additional_properties.schema.CopyFrom(_encode_schema(schema["additionalProperties"]))
    if "properties" in schema:
        message.properties.additional_properties.extend(_encode_schemas(schema["properties"]))
    return message


def _encode_extensions(document: Document) -> list[openapi_v2_pb2.NamedAny]:
    return [
        openapi_v2_pb2.NamedAny(name=key, value=_encode_any(value))
        for key, value in document.items()
        if key.startswith(_EXTENSION)
    ]


def _encode_any(value: object) -> openapi_v2_pb2.Any:
    # The field is YAML, and every JSON text is YAML.
    return openapi_v2_pb2.Any(yaml=msgspec.json.encode(value).decode("utf-8") + "\n")
