"""Results and errors of writes that the conformance cases do not cover."""

from __future__ import annotations

import json

import pytest

from certplane import testing
from tests.flow import plane as flow

MAPS = "/api/v1/namespaces/default/configmaps"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
GRACE = 'ConfigMap "a" is invalid: metadata.deletionGracePeriodSeconds'
GENERIC = "the server rejected our request due to an error in our request"


async def create_map(plane, name="a", **fields):
    """Create a ConfigMap with data and finalizers, and return it."""
    metadata = {"name": name, "finalizers": ["x.y/a", "x.y/b"], **fields.pop("metadata", {})}
    document = {"metadata": metadata, "data": {"a": "1", "b": "2"}, **fields}
    status, body = await flow.ask(plane, MAPS, "POST", body=json.dumps(document).encode(), user_agent="creator")
    assert status == 201
    return json.loads(body)


async def patch_map(plane, body, kind=JSON_PATCH, query="", name="a"):
    """Status and response of a patch of that ConfigMap."""
    body = body if isinstance(body, str) else json.dumps(body)
    path = f"{MAPS}/{name}?{query}"
    status, answer = await flow.ask(plane, path, "PATCH", body=body.encode(), content_type=kind, user_agent="patcher")
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("-", ["x.y/a", "x.y/b", "x.y/z"]),
        ("-1", ["x.y/a", "x.y/b", "x.y/z"]),
        ("-2", ["x.y/a", "x.y/z", "x.y/b"]),
        ("-3", ["x.y/z", "x.y/a", "x.y/b"]),
        ("01", ["x.y/a", "x.y/z", "x.y/b"]),
        ("+1", ["x.y/a", "x.y/z", "x.y/b"]),
        ("2", ["x.y/a", "x.y/b", "x.y/z"]),
        ("3", None),
        ("-4", None),
        ("x", None),
    ],
)
async def test_list_indexes_of_a_json_patch(path, expected):
    """A negative index counts from the end; an index that is out of range or not a number is refused."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(
            plane, [{"op": "add", "path": f"/metadata/finalizers/{path}", "value": "x.y/z"}]
        )
    if expected is None:
        assert (status, answer["message"]) == (422, GENERIC)
    else:
        assert answer["metadata"]["finalizers"] == expected


@pytest.mark.parametrize(
    ("operations", "data"),
    [
        ([{"op": "copy", "from": "/data/zz", "path": "/data/c"}], {"a": "1", "b": "2", "c": ""}),
        ([{"op": "replace", "path": "/data/zz", "value": "3"}], {"a": "1", "b": "2", "zz": "3"}),
        ([{"op": "test", "path": "/data/zz"}], {"a": "1", "b": "2"}),
        ([{"op": "add", "path": "x/data/c", "value": "3"}], {"a": "1", "b": "2", "c": "3"}),
        ([], {"a": "1", "b": "2"}),
        ("null", {"a": "1", "b": "2"}),
    ],
)
async def test_lenient_json_patches_are_applied(operations, data):
    """As in the library that Kubernetes uses, a copied or replaced member may be missing."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(plane, operations)
    assert (status, answer.get("data")) == (200, data)


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "", "value": {}},
        {"op": "replace", "path": "", "value": None},
        {"op": "replace", "path": "", "value": "x"},
        {"op": "copy", "from": "", "path": "/data/x"},
        {"op": "remove", "path": ""},
        {"op": "add", "path": "/data/a/b", "value": "1"},
        {"op": "move", "from": "/data", "path": "/data/x"},
        {"op": "move", "from": "/data/zz", "path": "/data/x"},
        {"op": "test", "path": "/data/a", "value": 1},
        {"op": "frob", "path": "/data/a"},
        {},
        None,
    ],
)
async def test_json_patches_that_cannot_be_applied(operation):
    """All get the same error, which does not have the reason."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(plane, [operation])
    assert (status, answer["reason"], answer["message"]) == (422, "Invalid", GENERIC)


STRICT = "error decoding patch: json: cannot unmarshal "


@pytest.mark.parametrize(
    ("kind", "body", "message", "message_when_ignored"),
    [
        (JSON_PATCH, "{}", STRICT + "object into Go value of type []handlers.jsonPatchOp",
         "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
        (JSON_PATCH, '["x"]', STRICT + "string into Go value of type handlers.jsonPatchOp",
         "json: cannot unmarshal string into Go value of type jsonpatch.Operation"),
        (JSON_PATCH, '[{"op":1}]', STRICT + "number into Go struct field jsonPatchOp.op of type string", GENERIC),
        (JSON_PATCH, "[", "error decoding patch: unexpected end of JSON input", "unexpected end of JSON input"),
        (MERGE, "{", "error decoding patch: unexpected end of JSON input", "Invalid JSON Patch"),
        (MERGE, "null", "Invalid JSON Patch", "Invalid JSON Patch"),
        (MERGE, "5", STRICT + "number into Go value of type map[string]interface {}", "Invalid JSON Patch"),
        (STRATEGIC, "5", "json: cannot unmarshal number into Go value of type map[string]interface {}",
         "json: cannot unmarshal number into Go value of type map[string]interface {}"),
    ],
)  # fmt: skip
async def test_a_body_that_is_not_a_patch(kind, body, message, message_when_ignored):
    """With fieldValidation=Ignore it is read by another decoder, which has other error texts."""
    async with flow.running() as plane:
        await create_map(plane)
        _, first = await patch_map(plane, body, kind)
        _, second = await patch_map(plane, body, kind, "fieldValidation=Ignore")
    assert (first["message"], second["message"]) == (message, message_when_ignored)


async def test_a_patch_of_a_missing_object_is_not_parsed():
    """The response is a 404, even if the patch is invalid."""
    async with flow.running() as plane:
        status, _ = await patch_map(plane, "[")
    assert status == 404


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (JSON_PATCH, '[{"op":"remove","op":"add","path":"/data/c","value":"1","nope":2}]',
         ['json patch duplicate field "[0].op"', 'json patch unknown field "[0].nope"']),
        (JSON_PATCH, '[{"op":"add","path":"/data","value":{"x":"1","x":"2"}}]',
         ['json patch duplicate field "[0].value.x"', 'duplicate field "data.x"']),
        (MERGE, '{"data":{"z":"1","z":"2"},"data":{"y":"3"},"nope":1,"also":1}',
         ['duplicate field "data.z"', 'duplicate field "data"', 'unknown field "also"', 'unknown field "nope"']),
        (STRATEGIC, '{"nope":1,"metadata":{"b":1,"a":2}}',
         ['unknown field "metadata.a"', 'unknown field "metadata.b"', 'unknown field "nope"']),
    ],
)  # fmt: skip
async def test_strict_decoding_of_patches(kind, body, message):
    """Errors about the patch come first, in its order, then those about the patched document."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(plane, body, kind, "fieldValidation=Strict")
    assert status == 422
    assert answer["message"].endswith("strict decoding error: " + ", ".join(message))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"data": {"a": 5}}, "cannot convert int64 to string"),
        ({"data": {"a": True}}, "unrecognized type: string"),
        ({"data": []}, "cannot restore map from slice"),
        ({"metadata": "x"}, "cannot restore struct from: string"),
        ({"metadata": {"finalizers": {"a": "b"}}}, "cannot restore slice from map"),
        ({"metadata": {"generation": 7.5}}, "cannot convert float64 to int64"),
        ({"metadata": {"creationTimestamp": 5}}, "json: cannot unmarshal number into Go value of type string"),
        ({"immutable": {"a": None}}, 'patch: Invalid value: "map[immutable:map[]]": unrecognized type: bool'),
        ({"immutable": "yes"}, "unrecognized type: bool"),
        ({"binaryData": {"k": "@@"}}, "error decoding from json: illegal base64 data at input byte 0"),
    ],
)
async def test_wrong_types_in_a_strategic_merge_patch(body, why):
    """The errors are those of Go's converter, not of its decoder."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(plane, body, STRATEGIC)
    assert (status, answer["message"].endswith(f": {why}")) == (422, True)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"data": {"$patch": "frob"}}, 500, "unknown patch type: frob in map: map[$patch:frob]"),
        ({"data": {"$patch": [5, None]}}, 500,
         "unknown patch type: [%!s(int64=5) <nil>] in map: map[$patch:[5 <nil>]]"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": [5]}}, 500,
         "list element types are not identical: [[x.y/a x.y/b] [5]]"),
        ({"metadata": {"$setElementOrder/finalizers": None}}, 500,
         "expected a []interface {}, but received a %!s(<nil>)"),
        ({"metadata": {"$setElementOrder/ownerReferences": [5]}}, 500, "value for key 0 is not a map"),
        ({"data": {"$setElementOrder/x": ["a"]}}, 500,
         "merging an object in json but data type is not struct, instead is: map"),
        ({"data": {"$patch": None}}, 500, "unknown patch type: %!s(<nil>) in map: map[$patch:<nil>]"),
        ({"data": {"$retainKeys": ["a"], "c": "3"}}, 400, "invalid patch format of retainKeys"),
        ({"metadata": {"$setElementOrder/finalizers": "x"}}, 500,
         "expected a []interface {}, but received a string"),
        ({"metadata": {"$setElementOrder/nope": ["b"]}}, 500,
         'unable to find api field in struct ObjectMeta for the json field "nope"'),
        ({"metadata": {"finalizers": [1]}}, 500, "list element types are not identical: [[x.y/a x.y/b] [1]]"),
        ({"metadata": {"finalizers": [[]]}}, 500, "list element types are not identical: [[x.y/a x.y/b] [[]]]"),
    ],
)  # fmt: skip
async def test_contradictory_strategic_merge_patches(body, status, message):
    """They get the error text of the merge, and mostly status 500."""
    async with flow.running() as plane:
        await create_map(plane)
        code, answer = await patch_map(plane, body, STRATEGIC)
    assert (code, answer["message"]) == (status, message)


@pytest.mark.parametrize(
    ("body", "finalizers"),
    [
        ({"finalizers": ["x.y/c", "x.y/c"]}, ["x.y/c", "x.y/a", "x.y/b"]),
        ({"$setElementOrder/finalizers": ["x.y/b", "x.y/a"]}, ["x.y/b", "x.y/a"]),
        ({"$deleteFromPrimitiveList/finalizers": ["x.y/a"], "$setElementOrder/finalizers": ["x.y/c", "x.y/b"],
          "finalizers": ["x.y/c"]}, ["x.y/c", "x.y/b"]),
        ({"$deleteFromPrimitiveList/finalizers": "x.y/a"}, ["x.y/a", "x.y/b"]),
    ],
)  # fmt: skip
async def test_strategic_merge_of_a_set(body, finalizers):
    """Each item occurs once, in the order that the patch specifies."""
    async with flow.running() as plane:
        await create_map(plane)
        _, answer = await patch_map(plane, {"metadata": body}, STRATEGIC)
    assert answer["metadata"]["finalizers"] == finalizers


@pytest.mark.parametrize("kind", [JSON_PATCH, MERGE])
@pytest.mark.parametrize(
    ("field", "value", "status", "message"),
    [
        ("apiVersion", "v2", 422, 'no kind "ConfigMap" is registered for version "v2" in scheme'),
        ("kind", "Namespace", 422, "converting (v1.Namespace) to (core.ConfigMap): unknown conversion"),
        ("kind", 5, 422, "json: cannot unmarshal number into Go struct field .kind of type string"),
        ("apiVersion", None, 400, "the name of the object (a based on URL) was undeterminable"),
        ("kind", None, 200, ""),
    ],
)
async def test_a_patch_of_kind_or_api_version(kind, field, value, status, message):
    """The patched document must have the same kind, and an apiVersion."""
    body = {field: value} if kind == MERGE else [{"op": "replace", "path": f"/{field}", "value": value}]
    if kind == JSON_PATCH and field == "apiVersion" and value is None:
        body = [{"op": "remove", "path": "/apiVersion"}]
    async with flow.running() as plane:
        await create_map(plane)
        code, answer = await patch_map(plane, body, kind)
    assert (code, message in answer.get("message", "")) == (status, True)


@pytest.mark.parametrize("kind", [MERGE, STRATEGIC])
@pytest.mark.parametrize(
    ("metadata", "status", "message"),
    [
        ({"resourceVersion": "x"}, 500, 'strconv.ParseUint: parsing "x": invalid syntax'),
        ({"resourceVersion": "9" * 20}, 500, f'strconv.ParseUint: parsing "{"9" * 20}": value out of range'),
        ({"deletionGracePeriodSeconds": 5}, 422, f"{GRACE}: Invalid value: 5: field is immutable"),
    ],
)  # fmt: skip
async def test_immutable_metadata_in_a_patch(kind, metadata, status, message):
    """Each field has its own error."""
    async with flow.running() as plane:
        await create_map(plane)
        code, answer = await patch_map(plane, {"metadata": metadata}, kind)
    assert (code, answer["message"]) == (status, message)


@pytest.mark.parametrize("value", [[], [{}]])
async def test_managed_fields_can_be_cleared(value):
    """An empty list or one empty entry clears them; they are not tracked again until a client applies."""
    async with flow.running() as plane:
        assert (await create_map(plane))["metadata"]["managedFields"]
        _, answer = await patch_map(plane, {"metadata": {"managedFields": value}}, MERGE)
        _, later = await patch_map(plane, {"data": {"c": "3"}}, MERGE)
    assert "managedFields" not in answer["metadata"]
    assert "managedFields" not in later["metadata"]


@pytest.mark.parametrize("kind", [MERGE, STRATEGIC])
async def test_a_deeply_nested_patch_is_refused(kind):
    """The depth is checked before the patch is processed."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(plane, '{"a":' + "[" * 5000 + "]" * 5000 + "}", kind)
    assert (status, answer["message"]) == (400, "json: exceeded max depth")


# --- server-side apply ------------------------------------------------------------------------------------------------

APPLY = "application/apply-patch+yaml"
NO_YAML = "error decoding YAML: error "
NO_MAPPING = "mapping values are not allowed in this context"
GO_MAP = "Go value of type map[string]interface {}"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


async def apply_map(plane, body, manager="m", query=""):
    """Status and response of an apply of the ConfigMap `a`. `body` is a text, or the fields of a document."""
    if isinstance(body, dict):
        metadata = {"name": "a", **body.pop("metadata", {})}
        body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **body})
    path = f"{MAPS}/a?fieldManager={manager}&{query}"
    status, answer = await flow.ask(plane, path, "PATCH", body=body.encode(), content_type=APPLY)
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"data": "x"}, ".data: expected map, got &{x}"),
        ({"data": {"a": 5}}, ".data.a: expected string, got &value.valueUnstructured{Value:5}"),
        ({"immutable": "x"}, ".immutable: expected boolean, got &{x}"),
        ({"metadata": {"generation": "x"}}, ".metadata.generation: expected numeric (int or float), got string"),
        ({"metadata": {"finalizers": "x"}}, ".metadata.finalizers: expected list, got &{x}"),
        ({"metadata": {"finalizers": [None]}},
         ".metadata.finalizers: element 0: associative list without keys has an element that's an explicit null"),
        ({"metadata": {"finalizers": ["x.y/a", "x.y/a"]}},
         '.metadata.finalizers: duplicate entries for key [="x.y/a"]'),
        ({"metadata": {"ownerReferences": [{"uid": "u", "nope": 1}]}},
         '.metadata.ownerReferences[uid="u"].nope: field not declared in schema'),
        ({"metadata": {"managedFields": "x"}}, ".metadata.managedFields: expected list, got &{x}"),
    ],
)  # fmt: skip
async def test_an_applied_document_with_invalid_types(fields, problem):
    """The error is that of the typed conversion, at any depth."""
    async with flow.running() as plane:
        status, answer = await apply_map(plane, fields)
    assert status == 500
    assert answer["message"] == f"failed to create typed patch object (/a; /v1, Kind=ConfigMap): {problem}"


async def test_an_applied_document_must_not_have_managed_fields():
    """This includes an empty list."""
    async with flow.running() as plane:
        status, answer = await apply_map(plane, {"metadata": {"managedFields": []}})
    assert (status, answer["message"]) == (400, "metadata.managedFields must be nil")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid object type: /, Kind="),
        ("null", "invalid object type: /, Kind="),
        ("kind: ConfigMap", "invalid object type: /, Kind=ConfigMap"),
        ("{apiVersion: v1, kind: 5}", "invalid object type: /v1, Kind="),
        ("[]", f"{NO_YAML}unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into {GO_MAP}"),
        ("a: b: c", f"{NO_YAML}converting YAML to JSON: yaml: {NO_MAPPING}"),
        ("a: b\nc: d: e", f"{NO_YAML}converting YAML to JSON: yaml: line 2: {NO_MAPPING}"),
        ("apiVersion: v1\nkind: ConfigMap\ndata: {}",
         "the name of the object (a based on URL) was undeterminable: name must be provided"),
    ],
)  # fmt: skip
async def test_invalid_applied_documents(text, message):
    """The error has the type of the object, or the line of the YAML error."""
    async with flow.running() as plane:
        status, answer = await apply_map(plane, text)
    assert (status, answer["message"]) == (400, message)


async def test_duplicate_keys_in_an_applied_document():
    """The YAML parser reports all of them."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: '1', a: '2'}\nkind: ConfigMap\n"
    message = 'line 4: key "a" already set in map\n  line 5: key "kind" already set in map'
    async with flow.running() as plane:
        status, answer = await apply_map(plane, text, query="fieldValidation=Strict")
    assert status == 400
    assert answer["message"] == (
        f"error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {message}"
    )


async def test_only_the_first_yaml_document_is_applied():
    """The following documents are not parsed."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: '1'}\n---\n: : :\n"
    async with flow.running() as plane:
        status, answer = await apply_map(plane, text)
    assert (status, answer["data"]) == (201, {"a": "1"})


async def test_apply_can_change_the_order_of_a_set():
    """An apply that changes only an order is a write."""
    async with flow.running() as plane:
        await apply_map(plane, {"metadata": {"finalizers": ["x.y/a", "x.y/c", "x.y/b"]}})
        _, answer = await apply_map(plane, {"metadata": {"finalizers": ["x.y/b", "x.y/a"]}}, "n")
    assert answer["metadata"]["finalizers"] == ["x.y/c", "x.y/b", "x.y/a"]


async def test_an_apply_that_changes_only_timestamps_is_not_written():
    """A new empty map is stored like a missing one, and its ownership alone is not written."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        _, first = await apply_map(plane, {"data": {"a": "1"}, "binaryData": {}})
        await clock.advance(60)
        _, second = await apply_map(plane, {"data": {"a": "1"}, "binaryData": {}})
    assert first == second


async def test_kubectl_takes_over_fields_of_client_side_apply():
    """Fields whose value is in the last-applied annotation cause no conflict with their owner; others do."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}}
    annotations = {LAST_APPLIED: json.dumps(config)}
    document = {**config, "metadata": {"name": "a", "annotations": annotations}, "data": {"a": "1", "b": "2"}}
    async with flow.running() as plane:
        await flow.ask(plane, f"{MAPS}?fieldManager=first", "POST", body=json.dumps(document).encode())
        refused, conflict = await apply_map(plane, {"data": {"a": "5", "b": "6"}}, "kubectl")
        others, _ = await apply_map(plane, {"data": {"a": "5"}}, "m")
        status, answer = await apply_map(plane, {"data": {"a": "5"}}, "kubectl")
    assert (refused, [cause["field"] for cause in conflict["details"]["causes"]]) == (409, [".data.b"])
    assert (others, status, answer["data"]) == (409, 200, {"a": "5", "b": "2"})
    kept = json.loads(answer["metadata"]["annotations"][LAST_APPLIED])
    assert kept == {**config, "data": {"a": "5"}}


async def test_the_last_applied_annotation_does_not_contain_itself():
    """The annotation has the applied document without the annotation."""
    async with flow.running() as plane:
        _, answer = await apply_map(plane, {"metadata": {"annotations": {LAST_APPLIED: "{}\n"}}}, "kubectl")
    kept = json.loads(answer["metadata"]["annotations"][LAST_APPLIED])
    assert kept["metadata"] == {"name": "a", "annotations": {}}


# --- managedFields ----------------------------------------------------------------------------------------------------


async def test_the_oldest_managers_share_an_entry():
    """Ten managers have separate entries; for the eleventh, the two oldest are merged."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        await create_map(plane, metadata={"finalizers": []})
        for number in range(10):
            await clock.advance(1)
            path = f"{MAPS}/a?fieldManager=u{number}"
            body = json.dumps({"data": {f"k{number}": ""}}).encode()
            _, answer = await flow.ask(plane, path, "PATCH", body=body, content_type=MERGE)
    entries = {entry["manager"]: entry["fieldsV1"] for entry in json.loads(answer)["metadata"]["managedFields"]}
    assert list(entries) == ["ancient-changes", *(f"u{number}" for number in range(1, 10))]
    assert entries["ancient-changes"] == {"f:data": {".": {}, "f:a": {}, "f:b": {}, "f:k0": {}}}


async def test_a_duplicate_set_item_has_one_owner():
    """The owner is the manager that added the duplicate."""
    async with flow.running() as plane:
        await create_map(plane)
        _, answer = await patch_map(plane, {"metadata": {"finalizers": ["x.y/c", "x.y/c"]}}, MERGE)
    owners = {entry["manager"]: entry["fieldsV1"] for entry in answer["metadata"]["managedFields"]}
    assert owners["patcher"]["f:metadata"] == {"f:finalizers": {'v:"x.y/c"': {}}}


@pytest.mark.parametrize(
    "entry",
    [
        {"operation": "X", "apiVersion": "v1", "fieldsType": "FieldsV1"},
        {"operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}},
        {"operation": "Update", "apiVersion": "v1"},
        {"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}},
        {"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"k:{": {}}},
        {"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"v:x": {}}},
        {"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": 5}},
    ],
)
async def test_invalid_managed_fields_are_ignored(entry):
    """If one entry is invalid, the stored managedFields are kept."""
    async with flow.running() as plane:
        before = (await create_map(plane))["metadata"]["managedFields"]
        _, answer = await patch_map(plane, {"metadata": {"managedFields": [{"manager": "z", **entry}]}}, MERGE)
    assert answer["metadata"]["managedFields"] == before


async def test_a_manager_name_that_is_too_long_is_refused():
    """Are valid, but no metadata."""
    entry = {"manager": "z" * 129, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:data": {"f:a": {}}}}  # fmt: skip
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await patch_map(plane, {"metadata": {"managedFields": [entry]}}, MERGE)
    assert status == 422
    assert answer["message"] == (
        'ConfigMap "a" is invalid: metadata.managedFields[0].manager: Too long: may not be more than 128 bytes'
    )


# --- bodies -----------------------------------------------------------------------------------------------------------

HEAD = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}'
YAML = "application/yaml"
UNFIT = 'ConfigMap in version "v1" cannot be handled as a ConfigMap: '


async def post_map(plane, text, kind="application/json", query=""):
    """Status and response of the creation of a ConfigMap."""
    status, answer = await flow.ask(plane, f"{MAPS}?{query}", "POST", body=text.encode(), content_type=kind)
    return status, json.loads(answer)


async def test_duplicate_members_are_merged():
    """As in Go, the members of maps and objects are merged, later ones first; a null in between removes the earlier
    ones.
    """
    text = (
        HEAD
        + ',"data":{"a":"1"},"data":null,"data":{"b":"1","c":"1"},"data":{"c":"2"},"metadata":{"labels":{"x":"y"}}}'
    )
    async with flow.running() as plane:
        status, answer = await post_map(plane, text)
    assert (status, answer["data"]) == (201, {"b": "1", "c": "2"})
    assert (answer["metadata"]["name"], answer["metadata"]["labels"]) == ("a", {"x": "y"})


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (HEAD + ',"nope":1,"nope":2,"data":{"a":"1","a":"2","a":"3"}}', "application/json",
         'unknown field "nope", duplicate field "data.a"'),
        (HEAD + ',"a\\"b":1}', "application/json", r'unknown field "a\"b"'),
        ("metadata: {name: a}\nz: 1\nb: 1\ndata: {a: '1', a: '2'}", YAML,
         'yaml: unmarshal errors:\n  line 4: key "a" already set in map, unknown field "b", unknown field "z"'),
        ("metadata: {name: a, labels: &l {a: b}, annotations: {<<: *l, a: c}}", YAML,
         'yaml: unmarshal errors:\n  line 1: key "a" already set in map'),
    ],
)  # fmt: skip
async def test_strict_decoding_of_bodies(text, kind, message):
    """Each error is listed once. For YAML, which is converted to JSON first, duplicate keys precede the others, which
    are sorted.
    """
    async with flow.running() as plane:
        status, answer = await post_map(plane, text, kind, "fieldValidation=Strict")
    assert (status, answer["message"]) == (400, f"{UNFIT}strict decoding error: {message}")


async def test_strict_decoding_lists_at_most_a_hundred_errors():
    """And no more."""
    text = HEAD + "".join(f',"n{number}":1' for number in range(150)) + "}"
    async with flow.running() as plane:
        _, answer = await post_map(plane, text, query="fieldValidation=Strict")
    assert answer["message"].count("unknown field") == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + ',"binaryData":{"a":["x"]}}', "of type uint8"),
        ('{"metadata":{"name":"a","creationTimestamp":5}}',
         "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string"),
        ('{"metadata":{"name":"a","creationTimestamp":"2020-01-01T00:00:00Zx"}}',
         'parsing time "2020-01-01T00:00:00Zx": extra text: "x"'),
        ('{"metadata":{"name":"a","creationTimestamp":"2020-01-01T00:00:00+25:00"}}',
         "time zone offset hour out of range"),
        ('{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role"}',
         "cannot be handled as a ConfigMap: converting (v1.Role) to (core.ConfigMap): unknown conversion"),
        ('{"apiVersion":"v1","kind":"ConfigMapList"}', "converting (v1.ConfigMapList) to (core.ConfigMap)"),
        ('{"apiVersion":"a/b/c","kind":"ConfigMap"}', "unexpected GroupVersion string: a/b/c"),
    ],
)  # fmt: skip
async def test_invalid_bodies(text, message):
    """The errors are those of Go."""
    async with flow.running() as plane:
        status, answer = await post_map(plane, text)
    assert (status, message in answer["message"]) == (400, True)


@pytest.mark.parametrize(
    ("value", "generation"),
    [("5e0", 5), ("0o10", 8), ("010", 8), ("0x10", 16), ("0b10", 2), ("1_000", 1000), ("+5", 5), ("5.0", 5)],
)
async def test_numbers_in_yaml(value, generation):
    """Several notations of one integer are accepted."""
    async with flow.running() as plane:
        _, answer = await post_map(plane, f"metadata: {{name: a, generation: {value}}}", YAML)
    assert answer["metadata"]["generation"] == generation


@pytest.mark.parametrize("value", ["1:30", "y", "2020-01-01", "!!str 5", "=", "!foo 5"])
async def test_strings_in_yaml(value):
    """A scalar that is neither a boolean nor a number is a string, unlike in YAML 1.1."""
    async with flow.running() as plane:
        status, answer = await post_map(plane, f"metadata: {{name: a}}\ndata: {{k: {value}}}", YAML)
    if value == "y":
        assert answer["message"].endswith("cannot unmarshal bool into Go struct field ConfigMap.data of type string")
    else:
        assert (status, answer["data"]["k"]) == (201, value.rpartition(" ")[2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *x", "yaml: unknown anchor 'x' referenced"),
        ("a:\n  <<: x", "yaml: map merge requires map or sequence of maps as the value"),
        ("a: !!int x", "yaml: cannot decode !!str `x` as a !!int"),
        ("a: -.inf", "json: unsupported value: -Inf"),
        ("{~: a}", 'unsupported map key of type: %!s(<nil>), key: <nil>, value: "a"'),
        ("{[a]: b}", 'yaml: invalid map key: []interface {}{"a"}'),
        ("a:\n\tb: c", "yaml: line 2: found character that cannot start any token"),
        ("a:\n   b: c\n  d: e", "yaml: line 2: did not find expected key"),
    ],
)
async def test_invalid_yaml(text, message):
    """The errors have the texts and line numbers of go-yaml."""
    async with flow.running() as plane:
        status, answer = await post_map(plane, text, YAML)
    assert (status, f"(must be of type ConfigMap): {message} (" in answer["message"]) == (400, True)


@pytest.mark.parametrize(("kind", "status"), [("application/json;", 201), ("application/json;a=b;c", 415)])
async def test_parameters_of_a_content_type(kind, status):
    """They are ignored, but must be well-formed."""
    async with flow.running() as plane:
        code, _ = await post_map(plane, HEAD + "}", kind)
    assert code == status


# --- metadata ---------------------------------------------------------------------------------------------------------


async def test_the_uid_of_a_put_is_checked_before_its_resource_version():
    """The uid counts before the resourceVersion."""
    async with flow.running() as plane:
        uid = (await create_map(plane))["metadata"]["uid"]
        body = json.dumps({"metadata": {"name": "a", "uid": "x", "resourceVersion": "1"}}).encode()
        status, answer = await flow.ask(plane, f"{MAPS}/a", "PUT", body=body)
    assert status == 409
    assert f"Precondition failed: UID in precondition: x, UID in object meta: {uid}" in json.loads(answer)["message"]


@pytest.mark.parametrize(
    ("metadata", "status", "message"),
    [
        ({"resourceVersion": "5"}, 201, ""),
        ({"uid": "x"}, 409, "Precondition failed: UID in precondition: x, UID in object meta: "),
    ],
)  # fmt: skip
async def test_a_put_that_creates_an_object(metadata, status, message):
    """Its resourceVersion is ignored; a UID is refused."""
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/a"
    async with flow.running() as plane:
        code, answer = await flow.ask(
            plane, path, "PUT", body=json.dumps({"metadata": {"name": "a", **metadata}}).encode()
        )
    assert (code, json.loads(answer).get("message", "").endswith(message)) == (status, True)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"ownerReferences": [{"apiVersion": "a/b/c", "kind": "N", "name": "n", "uid": "u"}]},
         'metadata.ownerReferences.apiVersion: Invalid value: "a/b/c": version must not be empty'),
        ({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "n", "uid": "u"}]},
         "/v1, Kind=Event is disallowed from being an owner"),
        ({"labels": {"a." * 127 + "b/c": "1"}}, "prefix part must be no more than 253 bytes"),
    ],
)  # fmt: skip
async def test_invalid_metadata(metadata, why):
    """The error has the text of the rule."""
    async with flow.running() as plane:
        status, answer = await post_map(plane, json.dumps({"metadata": {"name": "a", **metadata}}))
    assert (status, answer["message"].endswith(why)) == (422, True)


# --- deletions --------------------------------------------------------------------------------------------------------


OPTIONS_SCHEME = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27"


async def delete_map(plane, body="", query="", kind="application/json"):
    """Status and response of the deletion of the ConfigMap `a`."""
    status, answer = await flow.ask(plane, f"{MAPS}/a?{query}", "DELETE", body=body.encode(), content_type=kind)
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("{", "application/json", "couldn't get version/kind; json parse error: unexpected end of JSON input"),
        ('{"dryRun":"All"}', "application/json",
         "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type []string"),
        ('{"kind":"ConfigMap","apiVersion":"v1"}', "application/json",
         f'no kind "ConfigMap" is registered for version "v1" in scheme "{OPTIONS_SCHEME}"'),
        ("a: b: c", YAML, "yaml: mapping values are not allowed in this context"),
    ],
)  # fmt: skip
async def test_invalid_delete_options(body, kind, message):
    """The error has the text of the decoder."""
    async with flow.running() as plane:
        await create_map(plane)
        status, answer = await delete_map(plane, body, kind=kind)
    assert (status, answer["message"]) == (400, message)


@pytest.mark.parametrize("version", ["v1", "v2", "apps/v1", "meta.k8s.io/v1"])
async def test_delete_options_of_any_version_are_accepted(version):
    """They are the same everywhere."""
    async with flow.running() as plane:
        await create_map(plane)
        status, _ = await delete_map(plane, json.dumps({"kind": "DeleteOptions", "apiVersion": version}))
    assert status == 200


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("uid=x", 409, "the UID in the precondition (x) does not match the UID in record"),
        ("resourceVersion=0", 409, "the ResourceVersion in the precondition (0) does not match the ResourceVersion"),
        ("propagationPolicy=", 422, 'propagationPolicy: Unsupported value: ""'),
    ],
)
async def test_delete_options_in_the_query(query, status, message):
    """They are used if there is no body, and include preconditions."""
    async with flow.running() as plane:
        await create_map(plane)
        code, answer = await delete_map(plane, query=query)
        other, _ = await delete_map(plane, "{}", query)
    assert (code, message in answer["message"], other) == (status, True, 200)


@pytest.mark.parametrize(("body", "status"), [('{"orphanDependents":false}', 202), ("{}", 200)])
async def test_status_of_an_unfinished_deletion(body, status):
    """It is 202 if orphanDependents is false, 200 otherwise."""
    async with flow.running() as plane:
        await create_map(plane)
        code, _ = await delete_map(plane, body)
    assert code == status


async def test_a_list_item_without_key_fields():
    """The managedFields are dropped, and a following apply is refused."""
    path = "/api/v1/namespaces/default/serviceaccounts"
    named = json.dumps({"metadata": {"name": "a"}, "secrets": [{"name": "x"}]}).encode()
    nameless = json.dumps({"metadata": {"name": "a"}, "secrets": [{}]}).encode()
    config = json.dumps(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, "secrets": []}
    ).encode()
    async with flow.running() as plane:
        await flow.ask(plane, path, "POST", body=named)
        _, answer = await flow.ask(plane, f"{path}/a", "PUT", body=nameless)
        status, refused = await flow.ask(plane, f"{path}/a?fieldManager=m", "PATCH", body=config, content_type=APPLY)
    assert "managedFields" not in json.loads(answer)["metadata"]
    assert status == 500
    assert "omits all key fields" in json.loads(refused)["message"]


async def test_an_invalid_timestamp_in_an_applied_document():
    """The typed conversion accepts any scalar; the conversion to the object fails."""
    async with flow.running() as plane:
        _, number = await apply_map(plane, {"metadata": {"creationTimestamp": 5}})
        _, none = await apply_map(plane, {"metadata": {"creationTimestamp": {}}})
    assert number["message"] == (
        "failed to convert new object (/a; /v1, Kind=ConfigMap) to proper version: unable to convert unstructured "
        "object to /v1, Kind=ConfigMap: json: cannot unmarshal number into Go value of type string"
    )
    assert none["message"].endswith(".metadata.creationTimestamp: expected any scalar, got &{map[]}")


# --- order of checks --------------------------------------------------------------------------------------------------

HUGE = "x" * (3 * 1024 * 1024 + 1)


@pytest.mark.parametrize(("kind", "status"), [("text/plain", 415), (MERGE, 406)])
async def test_the_content_type_of_a_patch_is_checked_before_accept(kind, status):
    """Of the two media types, that of the patch counts first."""
    async with flow.running() as plane:
        code, _ = await flow.ask(plane, f"{MAPS}/a", "PATCH", body=b"{}", content_type=kind, accept="text/html")
    assert code == status


@pytest.mark.parametrize(
    ("method", "path", "kind", "body", "status"),
    [
        ("POST", f"{MAPS}?dryRun=x", "text/plain", HUGE, 415),
        ("POST", f"{MAPS}?dryRun=x", YAML, HUGE, 413),
        ("POST", f"{MAPS}?dryRun=x", YAML, "{", 422),
        ("PUT", f"{MAPS}/a?dryRun=x", "text/plain", HUGE, 413),
        ("PUT", f"{MAPS}/a?dryRun=x", "text/plain", "{", 422),
        ("PUT", f"{MAPS}/a", "text/plain", "{", 415),
        ("PATCH", f"{MAPS}/a?dryRun=x", "text/plain", HUGE, 415),
        ("PATCH", f"{MAPS}/a?dryRun=x", "APPLICATION/MERGE-PATCH+JSON", "{}", 415),
        ("PATCH", f"{MAPS}/a?dryRun=x", MERGE, HUGE, 413),
        ("PATCH", f"{MAPS}/a?dryRun=x", MERGE, "{", 422),
        ("DELETE", f"{MAPS}/a?dryRun=x", "text/plain", HUGE, 413),
        ("DELETE", f"{MAPS}/a?dryRun=x", "text/plain", "{", 415),
        ("DELETE", f"{MAPS}/a?dryRun=x", YAML, "{", 400),
        ("DELETE", f"{MAPS}?resourceVersionMatch=Exact", "text/plain", "{", 422),
    ],
)
async def test_the_order_of_checks_depends_on_the_verb(method, path, kind, body, status):
    """Each verb checks content type, size, options and content in its own order."""
    async with flow.running() as plane:
        code, _ = await flow.ask(plane, path, method, body=body.encode(), content_type=kind)
    assert code == status
