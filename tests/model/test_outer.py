"""The outer optimizer's components against plain numpy and optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.bundle import manifest
from model.config import AdafactorConfig, SlotConfig
from model.outer import OuterOptimizer
from model.outer_config import OuterConfig
from model.palm_program import palm_program

SLOT = SlotConfig(microbatch=4, sequence_length=16)
STREAMING = OuterConfig(every=30, fragments=3, delay=4, learning_rate=0.4, mixing=0.25)


@pytest.fixture(scope="module")
def five_layers(small_model):
    return dataclasses.replace(small_model, num_layers=5)


def program_of(model, config, mesh=(1, 1)):
    return palm_program("small", model, AdafactorConfig(), SLOT, mesh, 1, config)


def split(program, arrays, *groups):
    """The arrays of groups in a row, by group and name."""
    named, left = {}, list(arrays)
    for group in groups:
        named[group] = {b.name: np.asarray(left.pop(0)) for b in program.groups[group]}
    assert not left
    return named


class Pods:
    """Pods of one program that differ, and what they share."""

    def __init__(self, program, num_pods, seed=0):
        self.program = program
        self.functions = {n: jax.jit(c.function) for n, c in program.components.items()}
        rng = np.random.default_rng(seed)
        shapes = [buffer.shape for buffer in program.groups["params"]]
        start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        self.outer = self.functions["outer_init"](*start)
        self.params = [start for _ in range(num_pods)]
        self.rng = rng

    def wander(self):
        self.params = [
            [p + 0.1 * self.rng.normal(size=p.shape).astype(np.float32) for p in params]
            for params in self.params
        ]

    def gradients(self, index, weights):
        return [
            self.functions[f"outer_gradient_{index}"](*params, *self.outer, np.float32(weight))
            for params, weight in zip(self.params, weights, strict=True)
        ]

    def update(self, component, total):
        updated = []
        for params in self.params:
            arrays = self.functions[component](*params, *self.outer, *total)
            updated.append(split(self.program, arrays, "params", "outer"))
        for other in updated[1:]:
            for name, array in updated[0]["outer"].items():
                np.testing.assert_array_equal(array, other["outer"][name])
        self.outer = list(updated[0]["outer"].values())
        self.params = [list(each["params"].values()) for each in updated]
        return updated


def summed(contributions):
    return [sum(np.asarray(part) for part in parts) for parts in zip(*contributions, strict=True)]


def test_groups_every_component_returns_what_it_declares(five_layers):
    program = program_of(five_layers, STREAMING)
    for name, component in program.components.items():
        if not name.startswith("outer_"):
            continue
        inputs = [buffer.abstract for buffer in program.buffers(component.inputs)]
        results = [(x.shape, x.dtype) for x in jax.eval_shape(component.function, *inputs)]
        outputs = [b.abstract for b in program.buffers(component.outputs)]
        assert results == [(x.shape, x.dtype) for x in outputs], name


@pytest.mark.parametrize("fragments", [1, 2, 3, 5])
def test_fragments_hold_every_number_exactly_once(five_layers, fragments):
    program = program_of(five_layers, OuterConfig(fragments=fragments, mixing=0.5))
    shapes = [buffer.shape for buffer in program.groups["params"]]
    anchor = [jnp.zeros(shape) for shape in shapes]
    numbered, at = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        numbered.append(-jnp.arange(at, at + size, dtype=jnp.float32).reshape(shape))
        at += size
    seen = []
    for index in range(fragments):
        component = program.components[f"outer_gradient_{index}"]
        seen += component.function(*numbered, *anchor, *anchor, jnp.float32(1.0))
    everything = np.concatenate([np.ravel(array) for array in seen])
    np.testing.assert_array_equal(np.sort(everything), np.arange(at))


def test_layers_go_to_fragments_in_strides_and_the_ends_with_the_last(five_layers):
    program = program_of(five_layers, STREAMING)
    stacked = "layers/mlp/up"
    layers = [
        {b.name: b.shape[0] for b in program.groups[f"fragment_{i}"]}[stacked] for i in range(3)
    ]
    assert layers == [2, 2, 1]
    ends = [i for i in range(3) if "embedding" in {b.name for b in program.groups[f"fragment_{i}"]}]
    assert ends == [2]
    whole = np.arange(5)
    optimizer = OuterOptimizer(program.groups["params"], STREAMING)
    assert [whole[optimizer._rows(i)[stacked]].tolist() for i in range(3)] == [[0, 3], [1, 4], [2]]


def test_diloco_is_optax_sgd_with_nesterov_momentum_on_the_weighted_mean(five_layers):
    config = OuterConfig(learning_rate=0.7, momentum=0.9)
    pods = Pods(program_of(five_layers, config), 3)
    weights = [0.5, 0.25, 0.25]
    reference = optax.sgd(0.7, momentum=0.9, nesterov=True)
    anchor = [np.asarray(array) for array in pods.params[0]]
    state = reference.init(anchor)
    for _ in range(4):
        pods.wander()
        mean = [
            sum(w * (a - p[i]) for w, p in zip(weights, pods.params, strict=True))
            for i, a in enumerate(anchor)
        ]
        updates, state = reference.update(mean, state)
        anchor = [a + np.asarray(u) for a, u in zip(anchor, updates, strict=True)]
        for each in pods.update("outer_update_0", summed(pods.gradients(0, weights))):
            for got, own, want in zip(
                each["outer"].values(), each["params"].values(), anchor, strict=False
            ):
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
                np.testing.assert_array_equal(own, got)


def test_streaming_moves_its_fragment_alone_and_mixes_it(five_layers):
    pods = Pods(program_of(five_layers, STREAMING), 2)
    program = pods.program
    pods.wander()
    names = [b.name for b in program.groups["params"]]
    before = [dict(zip(names, params, strict=True)) for params in pods.params]
    anchor = split(program, pods.outer, "outer")["outer"]
    updated = pods.update("outer_update_1", summed(pods.gradients(1, [0.5, 0.5])))
    for own, after in zip(before, updated, strict=True):
        for name in names:
            old = anchor[f"anchor/{name}"]
            inside = np.zeros(old.shape, bool)
            if name.startswith("layers/"):
                inside[1::3] = True
            mean = old - (before[0][name] + before[1][name]) / 2
            # The first step of Nesterov momentum: (1 + 0.9) of the gradient.
            moved = np.where(inside, old - 0.4 * 1.9 * mean, old)
            mixed = np.where(inside, 0.25 * own[name] + 0.75 * moved, own[name])
            got = after["outer"]
            np.testing.assert_allclose(got[f"anchor/{name}"], moved, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(after["params"][name], mixed, rtol=1e-5, atol=1e-6)
            momentum = got[f"momentum/{name}"]
            np.testing.assert_allclose(momentum, np.where(inside, mean, 0), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(after["params"][name][~inside], own[name][~inside])


def test_the_end_leaves_the_mean_of_all_pods_as_one_model(five_layers):
    pods = Pods(program_of(five_layers, STREAMING), 2)
    pods.wander()
    mean = [0.75 * a + 0.25 * b for a, b in zip(*pods.params, strict=True)]
    total = [array for i in range(3) for array in summed(pods.gradients(i, [0.75, 0.25]))]
    first, second = pods.update("outer_finish", total)
    for (name, got), want in zip(first["params"].items(), mean, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got, second["params"][name])
        np.testing.assert_array_equal(got, first["outer"][f"anchor/{name}"])


def test_digest_sees_anchor_and_momentum(five_layers):
    pods = Pods(program_of(five_layers, STREAMING), 1)
    digests = set()
    for index in (None, 0, -1):
        outer = [np.array(array) for array in pods.outer]
        if index is not None:
            outer[index].flat[0] += 1
        digests.add(np.asarray(pods.functions["outer_digest"](*outer)[0]).tobytes())
    assert len(digests) == 3


def test_parameters_of_fewer_bits_have_an_anchor_of_all(five_layers):
    model = dataclasses.replace(five_layers, param_dtype="bfloat16")
    program = program_of(model, STREAMING)
    assert {buffer.dtype for buffer in program.groups["params"]} == {"bfloat16"}
    for group in ("outer", "fragment_0"):
        assert {buffer.dtype for buffer in program.groups[group]} == {"float32"}


def test_nothing_of_it_crosses_the_devices_of_a_pod(five_layers):
    """Slices are along the layers, which no axis splits."""
    program = program_of(five_layers, STREAMING, (2, 2))
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def placed(names):
        return tuple(
            jax.NamedSharding(mesh, jax.P(*(tuple(a) if a else None for a in b.spec)))
            for b in program.buffers(names)
        )

    for name in ("outer_gradient_0", "outer_update_2", "outer_finish"):
        component = program.components[name]
        jitted = jax.jit(
            component.function,
            in_shardings=placed(component.inputs),
            out_shardings=placed(component.outputs),
        )
        text = jitted.lower(*(b.abstract for b in program.buffers(component.inputs))).compile()
        assert not [op for op in ("all-gather", "all-reduce", "permute") if op in text.as_text()]


def test_the_manifest_says_when_and_with_what(five_layers):
    described = manifest(program_of(five_layers, STREAMING), "cpu")
    outer = described["outer"]
    assert (outer["every"], outer["delay"], len(outer["fragments"])) == (30, 4, 3)
    for fragment in outer["fragments"]:
        assert fragment["group"] in described["groups"]
        assert {fragment["gradient"], fragment["update"]} <= described["components"].keys()
    assert {outer["init"], outer["finish"], outer["digest"]} <= described["components"].keys()
    assert manifest(program_of(five_layers, None), "cpu")["outer"] is None
