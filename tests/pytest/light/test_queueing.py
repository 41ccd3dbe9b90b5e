"""bench/queueing.py against what queueing theory says, and bench/capacity.py against arithmetic done by hand."""

import importlib.util
import pathlib
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))  # what they import of each other


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"bench/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


queueing, capacity = load("queueing"), load("capacity")


def test_one_client_waits_for_the_work_alone():
    costs = queueing.Costs(0.001, 0.002, {1: 0.004, 32: 0.064}, workers=4, cores=4, engine_threads=2)
    simulation = queueing.closed_loop(costs, 1, 100)
    assert all(seconds == pytest.approx(0.007) for _, seconds in simulation.answers)
    assert set(simulation.batches) == {1}


def test_a_single_server_waits_as_theory_says():
    """M/D/1: one core, decoding alone; mean waiting = service x load / (2 (1 - load)), here 0.01 x 0.7 / 0.6."""
    costs = queueing.Costs(0, 0.01, {1: 1e-9}, workers=1, cores=1, engine_threads=0)
    simulation = queueing.poisson(costs, 70, 60000)
    waiting = statistics.mean(seconds for _, seconds in simulation.answers) - 0.01
    # Waiting times of neighbours hang together: ten runs of other seeds had a standard deviation of 3 %.
    assert waiting == pytest.approx(0.01 * 0.7 / 0.6, rel=0.12)


def test_many_clients_reach_the_capacity_and_fill_batches():
    costs = queueing.Costs(0, 0.0001, {1: 0.01, 32: 0.04}, workers=8, cores=8, engine_threads=0)
    simulation = queueing.closed_loop(costs, 128, 8000)
    assert queueing.summary(simulation)["images_per_s"] == pytest.approx(queueing.capacity(costs), rel=0.02)
    assert max(simulation.batches) == queueing.MAX_BATCH == statistics.mode(simulation.batches)


def test_cores_are_shared():
    """Two cores, four of work asked for: half the speed."""
    costs = queueing.Costs(0, 0.010, {1: 1e-9}, workers=2, cores=2, engine_threads=0)
    simulation = queueing.Simulation(costs)
    simulation.jobs = [queueing.Job("embed", [0.0], 4, 0.010)]
    simulation.engine = True
    simulation.advance()
    assert simulation.now == pytest.approx(0.020)


@pytest.mark.parametrize("items, seconds", [(1, 1), (4, 4), (6, 5), (8, 6), (32, 18)])
def test_batches_cost_a_straight_line_between_what_was_measured(items, seconds):
    costs = queueing.Costs(0, 0, {1: 1, 4: 4, 8: 6}, 1, 1, 1)
    assert costs.engine(items) == pytest.approx(seconds)


def test_machines_and_money():
    """1 G images in 30 days at 100 images/s and 3.60 an hour: 385.8 images/s, 10 dollars per million."""
    machine = capacity.Machine("m", images_per_s=100, price_per_hour=3.6, share=1.0)
    assert machine.count(1e9, 30) == 4
    assert machine.per_million() == pytest.approx(10)
    assert capacity.Machine("m", 100, 3.6, share=0.5).per_million() == pytest.approx(20)


def test_the_slowest_part_is_the_machines_rate():
    parts = capacity.rates(engine_s=0.001, engine_cores=0, decode_core_s=0.064, cores=32, image_bytes=4e6, network_gbit=25)
    assert parts == pytest.approx({"engine": 1000, "decoding": 500, "network": 781.25})
    shared = capacity.rates(engine_s=2.0, engine_cores=2, decode_core_s=1.0, cores=2, image_bytes=1e5, network_gbit=10)
    assert shared["cores"] == pytest.approx(2 / (2 * 2 + 1))


def test_the_page_has_what_the_script_prints():
    page = (ROOT / "docs/scaling.md").read_text()
    for argument in ("machines", "volumes"):
        printed = subprocess.run([sys.executable, ROOT / "bench/capacity.py", argument], capture_output=True, text=True,
                                 check=True).stdout
        assert printed in page, f"docs/scaling.md: put in the output of bench/capacity.py {argument}"
