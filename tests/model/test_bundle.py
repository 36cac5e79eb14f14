import dataclasses
import io
import json
import math
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from model import bundle, flops
from model.config import AdafactorConfig, ModelConfig, SlotConfig
from model.layout import MESH_AXES
from model.palm_program import palm_program
from model.planner import NUM_METRICS
from model.program import Buffer, Call, Component, Program
from model.sharding import named_sharding


def unpack(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(files["manifest.json"]), files


def call(content, name, mesh, arguments):
    """Runs a component as a worker does: from the bytes alone, with the manifest's donations."""
    manifest, files = unpack(content)
    entry = manifest["components"][name]
    sizes = [len(manifest["groups"][group]) for group in entry["inputs"]]
    starts = np.cumsum([0, *sizes])
    donated = [i for at in entry["donated"] for i in range(starts[at], starts[at + 1])]
    exported = export.deserialize(bytearray(files[entry["file"]]))
    buffers = [b for group in entry["inputs"] for b in manifest["groups"][group]]
    placed = [
        jax.device_put(np.asarray(x), named_sharding([a and tuple(a) for a in b["spec"]], mesh))
        for x, b in zip(arguments, buffers, strict=True)
    ]
    return jax.block_until_ready(jax.jit(exported.call, donate_argnums=donated)(*placed))


def mesh_of(shape):
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    return jax.sharding.Mesh(devices, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


def arguments(program, component):
    rng = np.random.default_rng(0)
    for buffer in program.buffers(component.inputs):
        if buffer.dtype == "float32":
            # Second moments must not be negative, and weights of slots not zero; kernels this
            # small keep attention from being a maximum, which no two orders of summation share.
            yield (0.01 + 0.1 * np.abs(rng.normal(size=buffer.shape))).astype(np.float32)
        else:
            yield rng.integers(0, 200, buffer.shape).astype(buffer.dtype)


def test_bundle_every_component_read_back_equals_the_function(small_model, functions):
    mesh_shape = (2, 2)
    slot = SlotConfig(microbatch=4, sequence_length=16)
    program = palm_program("small", small_model, AdafactorConfig(), slot, mesh_shape)
    content = bundle.bundle_bytes(program, "cpu")
    for name, component in program.components.items():
        given = list(arguments(program, component))
        found = call(content, name, mesh_of(mesh_shape), given)
        wanted = functions[name](*given)
        outputs = program.buffers(component.outputs)
        for got, want, buffer in zip(found, wanted, outputs, strict=True):
            assert got.sharding.is_equivalent_to(
                named_sharding(buffer.spec, mesh_of(mesh_shape)), got.ndim
            ), buffer
            if got.dtype == jnp.float32:
                np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(got, want)


def test_manifest_small_program_describes_every_file_and_argument(small_program):
    content = bundle.bundle_bytes(small_program, "cpu")
    manifest, files = unpack(content)
    assert manifest["format"] == "landbridge.bundle/2"
    assert manifest["mesh"] == {"axes": ["data", "model"], "shape": [1, 1]}
    assert manifest["tokens_per_slot"] == 64
    assert sorted(files) == sorted(
        ["manifest.json", *(c["file"] for c in manifest["components"].values())]
    )
    assert manifest["groups"]["record"][0]["fields"] == ["loss", "grad_norm", "learning_rate"]
    for entry in manifest["components"].values():
        exported = export.deserialize(bytearray(files[entry["file"]]))
        assert len(exported.in_avals) == sum(len(manifest["groups"][g]) for g in entry["inputs"])
        assert exported.platforms == ("cpu",)


def scalar_add(name="add"):
    """A program with no batch and nothing to exchange."""
    scalar = (Buffer.replicated("total", (), "float32"),)

    def add(total):
        return (total + 1.0,)

    return Program(
        name=name,
        mesh_shape=(1, 1),
        groups={"params": scalar, "batch": (), "nothing": ()},
        components={
            "drop": Component(lambda total: (), ("params", "batch"), ("nothing",)),
            "apply_update": Component(add, ("params",), ("params",), donated=(0,)),
        },
    )


def test_bundle_program_that_is_not_palm_is_written_and_run():
    content = bundle.bundle_bytes(scalar_add(), "cpu")
    assert call(content, "apply_update", mesh_of((1, 1)), [np.float32(41)])[0] == 42
    assert call(content, "drop", mesh_of((1, 1)), [np.float32(41)]) == ()
    manifest = unpack(content)[0]
    assert manifest["parameters"] is None
    assert (manifest["slot"], manifest["segments"]) == ([], [])


def test_bundle_function_that_breaks_its_declaration_is_refused():
    scalar = (Buffer.replicated("total", (), "float32"),)
    component = Component(lambda total: (total.astype(jnp.int32),), ("params",), ("params",))
    program = Program("wrong", (1, 1), {"params": scalar}, {"cast": component})
    with pytest.raises(ValueError, match="declare"):
        bundle.bundle_bytes(program, "cpu")


def test_manifest_says_how_the_gradient_of_a_slot_is_computed(small_model):
    slot = SlotConfig(microbatch=4, sequence_length=16)
    program = palm_program("small", small_model, AdafactorConfig(), slot, (1, 1), 2)
    manifest = bundle.manifest(program, "cpu")
    assert [(call["component"], call["values"]) for call in manifest["slot"]] == [
        ("forward", {}),
        ("backward_1", {"first_layer": 1}),
        ("backward_1", {"first_layer": 0}),
        ("embed_backward", {}),
    ]
    assert manifest["slot"][1]["inputs"] == ["params", "first_layer", "cotangent", "residuals"]
    assert manifest["slot"][1]["outputs"] == ["cotangent", "grads_1"]
    assert manifest["segments"] == [
        {"groups": ["grads_1"], "accumulate": "accumulate_1", "first": 1},
        {"groups": ["grads_0"], "accumulate": "accumulate_1", "first": 0},
        {
            "groups": ["grads_embedding", "metrics"],
            "accumulate": "accumulate_embedding",
            "first": 0,
        },
    ]
    assert manifest["components"]["apply_update"]["inputs"] == [
        "params", "optimizer", "grads_1", "grads_0", "grads_embedding", "metrics",
    ]  # fmt: skip
    named = {name for call in manifest["slot"] for name in call["inputs"] + call["outputs"]}
    assert named <= set(manifest["groups"])


def test_bundle_call_with_other_buffers_than_its_component_is_refused(small_program):
    wrong = Call("forward", ("params", "batch"), ("residuals", "cotangent", "params", "metrics"))
    program = dataclasses.replace(small_program, slot=(wrong,))
    with pytest.raises(ValueError, match="forward is for grads_readout and called with params"):
        bundle.bundle_bytes(program, "cpu")


def test_write_bundle_twice_leaves_one_complete_file(tmp_path):
    for _ in range(2):
        path = bundle.write_bundle(b"content", tmp_path / "bundles")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert f"sha256:{path.stem}" == bundle.bundle_digest(path.read_bytes())


def test_export_palm_540b_backward_pass_for_its_published_mesh():
    """3,072 devices are described, not had; layers are scanned, so 118 are as small as one."""
    model = ModelConfig.from_spec({"preset": "palm-540b"})
    slot = SlotConfig(microbatch=1024, sequence_length=2048)
    program = palm_program("palm", model, AdafactorConfig(), slot, (256, 12))
    called = {call.component for call in program.slot}
    assert called == {"forward", "backward_7", "backward_8", "embed_backward"}
    for name in called:
        content = bundle.export_component(program, program.components[name], "tpu")
        assert len(content) < 40_000
        exported = export.deserialize(bytearray(content))
        assert (exported.platforms, exported.nr_devices) == (("tpu",), 3072)
    numbers = sum(math.prod(b.shape) for b in program.buffers(program.gradients)) - NUM_METRICS
    assert numbers == flops.parameter_count(model) + flops.norm_scale_count(model)
