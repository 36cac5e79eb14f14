import hashlib
import io
import zipfile

import jax
import numpy as np
import pytest

from workers.program import BundleError, load, read_bundle


def test_bundle_of_another_digest_is_refused(bigram):
    with pytest.raises(BundleError, match="fetch the bundle again"):
        read_bundle(bigram.data + b"x", bigram.digest)


def test_bytes_that_are_no_zip_are_refused_as_no_bundle():
    data = b"not a zip"
    with pytest.raises(BundleError, match="is no bundle"):
        read_bundle(data, f"sha256:{hashlib.sha256(data).hexdigest()}")


def test_bundle_of_another_format_is_refused_by_name():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("manifest.json", '{"format": "landbridge.bundle/99"}')
    data = packed.getvalue()
    with pytest.raises(BundleError, match=r"landbridge\.bundle/99"):
        read_bundle(data, f"sha256:{hashlib.sha256(data).hexdigest()}")


def test_program_for_another_mesh_is_refused_with_both_sizes(bigram):
    manifest, parts = read_bundle(bigram.data, bigram.digest)
    manifest["mesh"]["shape"] = [2, 1]
    with pytest.raises(BundleError, match="of 2 devices, the pod has 4"):
        load(manifest, parts)


def test_components_run_on_the_mesh_and_keep_their_shardings(bigram):
    program = load(*read_bundle(bigram.data, bigram.digest))
    seed = jax.device_put(np.uint32(3), program.groups["seed"][0].sharding)
    params, optimizer = program.components["init"]([seed])
    jax.block_until_ready(params)
    for array, buffer in zip(params, program.groups["params"], strict=True):
        assert array.shape == buffer.shape
        assert array.sharding == buffer.sharding
    assert int(optimizer[0]) == 0


def test_compiler_reports_the_bytes_a_component_needs(bigram):
    program = load(*read_bundle(bigram.data, bigram.digest))
    arguments = program.components["forward"].device_bytes["arguments"]
    held = sum(np.prod(b.shape) * 4 for b in program.groups["params"])
    assert held / 2 <= arguments <= held + 4096
