import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.collectives import Collective, collectives

HEAD = "HloModule jit_step, is_scheduled=true\n"

ADD = """
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}
"""


def entry(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEAD}{ADD}\nENTRY %main (p: bf16[8,4]) -> bf16[8,4] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            (
                "%g = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%p), replica_groups=[3,4]<=[12],"
                " dimensions={1}"
            ),
            Collective("all-gather", 4, 1, 256),
        ),
        (
            (
                "ROOT %r = (f32[10]{0:T(256)S(3)}, bf16[2,3]{1,0}) all-reduce(%p, %q), "
                "replica_groups=mesh['axis_0'=256,'axis_1'=12] {'axis_1'}, to_apply=%add"
            ),
            Collective("all-reduce", 12, 1, 52),
        ),
        (
            "%r = f32[] all-reduce(%p), replica_groups={{0,2,4},{1,3,5}}, to_apply=%add",
            Collective("all-reduce", 3, 1, 4),
        ),
        (
            "%s = f32[5,2]{1,0} reduce-scatter(%p), replica_groups=[2,8]<=[16], to_apply=%add",
            Collective("reduce-scatter", 8, 1, 320),
        ),
        (
            "%a = s8[6]{0} all-to-all(%p), replica_groups={{0,1}}, dimensions={0}",
            Collective("all-to-all", 2, 1, 6),
        ),
        (
            (
                "%c = (bf16[4,2]{1,0}, bf16[4,2]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) "
                "collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}"
            ),
            Collective("collective-permute", None, 1, 16),
        ),
        (
            (
                "%c = (bf16[4,2]{1,0}, bf16[4,2]{1,0}) collective-permute-start(%p), "
                "source_target_pairs={{0,1},{1,0}}"
            ),
            Collective("collective-permute", None, 1, 16),
        ),
        (
            (
                "%g = ((bf16[2], f32[3]), (bf16[4], f32[6])) all-gather-start(%p, %q), "
                "replica_groups=[1,2]<=[2], dimensions={0}"
            ),
            Collective("all-gather", 2, 1, 32),
        ),
        (
            "%r = f32[7]{0} all-reduce-start(%p), replica_groups=[1,2]<=[2], to_apply=%add",
            Collective("all-reduce", 2, 1, 28),
        ),
    ],
)
def test_a_collective_counts_its_whole_array(line, wanted):
    assert collectives(entry(line)) == [wanted]


def test_what_ends_a_collective_and_what_is_none_counts_nothing():
    done = "%d = bf16[4,2]{1,0} collective-permute-done(%c)"
    other = "%f = f32[4]{0} fusion(%p), kind=kLoop, calls=%add"
    assert collectives(entry(done, other)) == []


def test_a_tpu_fusion_that_reduces_and_slices_is_a_reduce_scatter():
    fused = """
%all-reduce-scatter.1 (input: f32[16]) -> f32[4] {
  %input = f32[16]{0} parameter(0)
  %r = f32[16]{0} all-reduce(%input), replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %s = f32[4]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={4}
}
"""
    call = "%f = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1"
    text = entry(call, call).replace("\nENTRY", f"{fused}\nENTRY")
    assert collectives(text) == [Collective("reduce-scatter", 4, 2, 128)]


LOOP = """
%inner_cond (s: (u32[])) -> pred[] {
  %three = u32[]{:T(128)} constant(3), metadata={op_name="x"}
  %i = u32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %three), direction=LT
}

%inner_body (s: (u32[])) -> (u32[]) {
  %c = (f32[2], f32[2]) collective-permute-start(%x), source_target_pairs={{0,1}}
}

%outer_cond (s: (s32[])) -> pred[] {
  ROOT %lt = pred[] opaque(%s)
}

%outer_body (s: (s32[])) -> (s32[]) {
  %g = f32[4]{0} all-gather(%x), replica_groups=[1,2]<=[2], dimensions={0}
  %w = (u32[]) while(%s), condition=%inner_cond, body=%inner_body
}
"""


def looping(turns):
    line = f"%w = (s32[]) while(%p), condition=%outer_cond, body=%outer_body{turns}"
    return entry(line, line).replace("\nENTRY", f"{LOOP}\nENTRY")


def test_a_loop_counts_every_turn_also_of_the_loop_inside():
    turns = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert collectives(looping(turns)) == [
        Collective("all-gather", 2, 10, 160),
        Collective("collective-permute", None, 30, 240),
    ]


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="how often does this loop turn"):
        collectives(looping(""))


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        collectives("module @jit_step {\n}")


def test_a_compiled_scan_over_a_mesh_is_read_as_it_was_written():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * 2)
    kernels = jax.ShapeDtypeStruct((5, 8, 16), jnp.float32)
    rows = jax.ShapeDtypeStruct((4, 8), jnp.float32)

    def layers(x, stacked):
        def layer(x, kernel):
            return jnp.tanh(jnp.tanh(x @ kernel) @ kernel.T), None

        return jax.lax.scan(layer, x, stacked)[0]

    compiled = (
        jax.jit(
            layers,
            in_shardings=(
                NamedSharding(mesh, P("data", None)),
                NamedSharding(mesh, P(None, None, "model")),
            ),
            out_shardings=NamedSharding(mesh, P("data", None)),
        )
        .lower(rows, kernels)
        .compile()
    )
    # Tensor parallelism: each of five layers sums its rows [2, 8] over the model axis.
    assert collectives(compiled.as_text()) == [Collective("all-reduce", 2, 5, 5 * 2 * 8 * 4)]
