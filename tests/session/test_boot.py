# SPDX-License-Identifier: GPL-2.0-or-later
"""The one start of a machine: guests in memory, CPUs under vCPUs, and all of it given back."""

import re
from pathlib import Path

import pytest

import vlapic
from tests.support.guest_runs import GUESTS
from tests.support.machines import boot_scripted, end_of_interrupt, scripted, spinning
from vlapic.errors import EngineError, ImageError, UsageError
from vlapic.machine.engines import ENGINES, find_engine
from vlapic.machine.engines.scripted import ScriptedEngine
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.host import ModuleParameters
from vlapic.machine.limits import Limits, run_to_end
from vlapic.session import boot as boot_module
from vlapic.session.boot import boot, switch_on
from vlapic.session.spec import MachineSpec, RunSpec, VmSpec

SOURCES = Path(vlapic.__file__).parent


def small(name="deadline", **fields):
    return VmSpec(PROGRAMS[name], memory_bytes=4 << 20, interrupts=5, delta_cycles=200_000, **fields)


def run(host, vms=None):
    run_to_end(vms or host.vms, Limits(), lambda vm: 0, lambda: None)


def test_a_machine_starts_with_every_vcpu_at_its_first_instruction_and_runs_to_its_end():
    machine = MachineSpec([small(), small("ipi", tsc_khz=[None, None])], pcpus=2)
    interrupts = []
    with boot(machine, on_interrupt=interrupts.append) as host:
        assert [len(vm.vcpus) for vm in host.vms] == [1, 2]
        assert [vcpu.engine.instructions for vm in host.vms for vcpu in vm.vcpus] == [0, 0, 0]
        assert len(host.cpus) == 2
        run(host)
        assert [vm.ports.exit_value for vm in host.vms] == [0, 0]
    assert [each.vm for each in interrupts] == [0] * 5


def test_a_run_s_spec_starts_the_machine_of_the_run():
    spec = RunSpec("deadline", events=30, host="noisy", seed=3, memory_mib=4)
    with boot(spec) as host:
        run(host)
        booted = host.vms[0].vcpus[0].engine.instructions
    assert booted == vlapic.run("deadline", events=30, host="noisy", seed=3, memory_mib=4).instructions


def test_the_guest_is_told_what_machine_it_is_on():
    with boot(MachineSpec([small(tsc_khz=[None] * 3, append="a b")])) as host:
        (vm,) = host.vms
        vm.board.ports.write(0x510, 2, 5)  # fw_cfg: number of CPUs
        assert vm.board.ports.read(0x511, 1) == 3


def test_a_vm_can_be_switched_on_beside_one_that_has_ended():
    machine = MachineSpec([small()])
    with boot(machine) as host:
        run(host)
        more = small()
        vm = switch_on(host, more, more.load())
        run(host, [vm])
        assert [vm.ports.exit_value for vm in host.vms] == [0, 0]


def test_the_end_of_a_host_closes_every_cpu():
    with boot(MachineSpec([small(), small()])) as host:
        engines = [vm.vcpus[0].engine for vm in host.vms]
    for engine in engines:
        with pytest.raises(EngineError, match="the emulated CPU is closed"):
            engine.run(0)
    host.close()


def test_a_machine_that_cannot_be_started_whole_closes_what_it_had(monkeypatch):
    made = []

    class Engine(ScriptedEngine):
        def close(self):
            made.remove(self)

    def cpus_of(guest, cycles_per_insn):
        def make(index, tsc):
            if len(made) == 2:
                raise EngineError("no memory left")
            made.append(Engine(tsc, guest.scripts[index]))
            return made[-1]

        return make

    with pytest.raises(EngineError, match="no memory left"):
        boot_scripted(scripted(spinning(1), spinning(1)), scripted(spinning(1)), engine=cpus_of)
    assert made == []


def test_nothing_is_started_where_a_guest_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(boot_module, "Host", lambda *arguments, **fields: pytest.fail("a host was made"))
    with pytest.raises(ImageError, match="no such file"):
        boot(MachineSpec([small(), VmSpec(tmp_path / "none")]))


def test_scripted_guests_share_a_host_like_any_others():
    interrupts = []
    vms = [scripted(spinning(3), handler=end_of_interrupt) for _ in range(2)]
    host = boot_scripted(*vms, parameters=ModuleParameters(0), pcpus=1, on_interrupt=interrupts.append)
    run(host)
    assert sorted(each.vm for each in interrupts) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_found_by_its_name(name):
    assert callable(find_engine(name, images=ENGINES[name].images))


def test_an_engine_for_another_kind_of_guests_is_refused():
    with pytest.raises(UsageError) as refused:
        boot(MachineSpec([small()], engine="scripted"))
    assert str(refused.value) == (
        "engine 'scripted' plays Python programs, and runs no images; take 'emulated'"
    )
    with pytest.raises(UsageError) as refused:
        boot_scripted(scripted(spinning(1)), engine="emulated")
    assert str(refused.value) == "engine 'emulated' runs no Python programs; take 'scripted'"


def test_a_run_s_spec_that_the_run_would_refuse_starts_nothing():
    protected = str(GUESTS / "checks" / "protected.bin")
    with pytest.raises(UsageError, match="starts in protected mode, where it is told no distance"):
        boot(RunSpec(protected, delta="50us"))


def test_an_unknown_engine_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown engine 'script'; did you mean 'scripted'"):
        find_engine("script")


def test_no_other_file_starts_a_vm():
    starts = re.compile(r"\.create_(?:vm|vcpu)\(")
    found = {path.name for path in SOURCES.rglob("*.py") if starts.search(path.read_text())}
    assert found == {"boot.py"}
