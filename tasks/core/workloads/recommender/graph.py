"""The core as a file that takes and gives ids: encoders of labels before it, and one behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, compose, helper

from deploy.signature import Signature, Tensor
from tasks.core.workloads.onnx_export import IR_VERSION, OPSET
from tasks.core.workloads.recommender.encoder import HISTORY, ITEMS, NOTHING, SCORES, USER

if TYPE_CHECKING:
    from tasks.core.workloads.recommender.encoder import RecommenderEncoder

_CORE = "core/"
_ML_DOMAIN, _ML_OPSET = "ai.onnx.ml", 3
_DATATYPE = {"text": "BYTES", "integer": "INT64"}
_ELEMENT = {"text": TensorProto.STRING, "integer": TensorProto.INT64}
_KEYS = {"text": "strings", "integer": "int64s"}
_DEFAULT = {"text": "string", "integer": "int64"}


def wrap(core: onnx.ModelProto, encoder: RecommenderEncoder) -> onnx.ModelProto:
    """Put ids around an exported core (float or quantized): user and history in, items and scores out."""
    core = compose.add_prefix(core, _CORE)
    codes, scores = (_CORE + name for name in encoder.core_outputs)
    tables = (USER, encoder.users, encoder.user_kind), (HISTORY, encoder.items, encoder.item_kind)
    read = {name for node in core.graph.node for name in node.input}  # without users' vectors nothing reads the user
    nodes = [
        *(_to_codes(*table) for table in tables if _CORE + table[0] in read),
        *core.graph.node,
        _to_ids(codes, encoder.items, encoder.item_kind),
        helper.make_node("Identity", [scores], [SCORES], "name_scores"),
    ]
    inputs = [
        helper.make_tensor_value_info(USER, _ELEMENT[encoder.user_kind], ["batch", 1]),
        helper.make_tensor_value_info(HISTORY, _ELEMENT[encoder.item_kind], ["batch", "history_length"]),
    ]
    outputs = [
        helper.make_tensor_value_info(ITEMS, _ELEMENT[encoder.item_kind], ["batch", encoder.answer_count]),
        helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["batch", encoder.answer_count]),
    ]
    # Behind an operator that onnx does not know no shape is inferred, and its LabelEncoder crashes where there is none.
    known = [helper.make_tensor_value_info(codes, TensorProto.INT64, ["batch", encoder.answer_count])]
    graph = helper.make_graph(nodes, "model", inputs, outputs, core.graph.initializer, value_info=known)
    used = {node.domain for node in graph.node}
    opsets = {e.domain: e.version for e in core.opset_import if e.domain in used} | {"": OPSET, _ML_DOMAIN: _ML_OPSET}
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())],
        ir_version=IR_VERSION,
        functions=core.functions,
    )


def _to_codes(name: str, known: tuple[Any, ...], kind: str) -> onnx.NodeProto:
    keys: dict[str, Any] = {f"keys_{_KEYS[kind]}": list(known)}
    return helper.make_node(
        "LabelEncoder",
        [name],
        [_CORE + name],
        f"encode_{name}",
        domain=_ML_DOMAIN,
        values_int64s=list(range(1, len(known) + 1)),
        default_int64=0,
        **keys,
    )


def _to_ids(codes: str, known: tuple[Any, ...], kind: str) -> onnx.NodeProto:
    return helper.make_node(
        "LabelEncoder",
        [codes],
        [ITEMS],
        "decode_items",
        domain=_ML_DOMAIN,
        keys_int64s=list(range(1, len(known) + 1)),
        **{f"values_{_KEYS[kind]}": list(known), f"default_{_DEFAULT[kind]}": NOTHING[kind]},
    )


def signature(encoder: RecommenderEncoder) -> Signature:
    """What the exported model takes and gives."""

    of_user, of_item = _DATATYPE[encoder.user_kind], _DATATYPE[encoder.item_kind]
    nobody, nothing = (NOTHING[kind] or "empty" for kind in (encoder.user_kind, encoder.item_kind))
    count = encoder.answer_count
    about_history = f"the user's items, oldest first; {nothing} fills shorter rows; unknown ones are ignored"
    about_items = f"items that are not in the history, best first; {nothing} where none is left"
    return Signature(
        (
            Tensor(USER, of_user, (-1, 1), f"user; {nobody} where unknown"),
            Tensor(HISTORY, of_item, (-1, -1), about_history),
        ),
        (
            Tensor(ITEMS, of_item, (-1, count), about_items),
            Tensor(SCORES, "FP32", (-1, count), "scores of the items; only their order within a row has a meaning"),
        ),
    )
