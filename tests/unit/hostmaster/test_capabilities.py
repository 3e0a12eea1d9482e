"""What libvirt says of a machine, read: what it offers, whom it runs QEMU as, and what a saved memory depends on."""

from hostmaster.edges.capabilities import emulator_path, machine_facts, offered_accelerators, qemu_ids
from hostmaster.world import Accelerator

CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch></cpu>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel>
    <baselabel type='qemu'>+64055:+108</baselabel></secmodel></host>
  <guest><arch name='i686'><domain type='kvm'/></arch></guest>
  <guest><arch name='x86_64'><domain type='qemu'/>{}</arch></guest></capabilities>"""


def test_accelerators_are_those_of_the_hosts_own_architecture() -> None:
    assert offered_accelerators(CAPABILITIES.format("")) == {Accelerator.TCG}
    assert offered_accelerators(CAPABILITIES.format("<domain type='kvm'/>")) == {Accelerator.TCG, Accelerator.KVM}


def test_qemus_user_is_read_from_the_dac_model_only() -> None:
    assert qemu_ids(CAPABILITIES.format("")) == (64055, 108)
    assert qemu_ids("<capabilities><host/></capabilities>") is None


def test_the_machines_facts_are_those_a_saved_memory_depends_on() -> None:
    host = "<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor>{}</cpu></host>"
    host += "</capabilities>"
    offered = "<domainCapabilities><path>/usr/bin/qemu</path><machine>pc-q35-{}</machine></domainCapabilities>"
    plain = machine_facts(host.format("<feature name='avx'/>"), offered.format("7.2"))
    ticking = "<feature name='avx'/><counter name='tsc' frequency='2596120000'/>"
    assert machine_facts(host.format(ticking), offered.format("7.2")) == plain, "measured anew at each boot"
    others = [
        machine_facts(host.format(""), offered.format("7.2")),
        machine_facts(host.format("<microcode version='2'/><feature name='avx'/>"), offered.format("7.2")),
        machine_facts(host.format("<feature name='avx'/>"), offered.format("8.0")),
        machine_facts(host.format("<feature name='avx'/>"), ""),
        machine_facts("<capabilities/>", ""),
    ]
    assert len({plain, *others}) == 6


def test_the_emulator_is_the_one_that_is_offered_if_any_is() -> None:
    assert emulator_path("<domainCapabilities><path>/usr/bin/qemu</path></domainCapabilities>") == "/usr/bin/qemu"
    assert emulator_path("") == emulator_path("<domainCapabilities/>") == ""
