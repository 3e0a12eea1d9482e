"""Every kind of fault there is, by name."""

from collections.abc import Callable

from tests.simulation import faults_journals, faults_machines, faults_outside
from tests.simulation.nemesis import Nemesis
from tests.simulation.site import Site

FAULTS: dict[str, Callable[[Nemesis, Site], str]] = {
    "crash-host": faults_machines.crash_host,
    "crash-bait": faults_machines.crash_bait,
    "crash-at-point": faults_machines.crash_at_point,
    "journal-host": faults_machines.journal_host,
    "journal-bait": faults_machines.journal_bait,
    "journal-old-host": faults_journals.old_host,
    "journal-old-bait": faults_journals.old_bait,
    "journal-torn-host": faults_journals.garbled_host,
    "journal-torn-bait": faults_journals.garbled_bait,
    "disk-full-host": faults_journals.full_host,
    "disk-full-bait": faults_journals.full_bait,
    "lost-writes": faults_journals.lost_writes,
    "reboot": faults_machines.reboot,
    "clock-jump": faults_machines.clock_jump,
    "delay": faults_machines.delay,
    "pieces": faults_machines.pieces,
    "reset": faults_machines.reset,
    "half-open": faults_machines.half_open,
    "one-way": faults_machines.one_way,
    "partition": faults_machines.partition,
    "lrms-away": faults_outside.lrms_away,
    "lrms-hangs": faults_outside.lrms_hangs,
    "lrms-stale": faults_outside.lrms_stale,
    "lrms-empty": faults_outside.lrms_empty,
    "lrms-replies": faults_outside.lrms_replies,
    "amnesia": faults_outside.amnesia,
    "libvirt-hangs": faults_outside.libvirt_hangs,
    "libvirt-away": faults_outside.libvirt_away,
    "libvirt-answers": faults_outside.libvirt_answers,
    "libvirt-events": faults_outside.libvirt_events,
    "libvirt-refuses": faults_outside.libvirt_refuses,
    "vm-death": faults_outside.vm_death,
    "late-vm": faults_outside.late_vm,
    "vm-cut-off": faults_outside.vm_cut_off,
    "host-cut-off": faults_outside.host_cut_off,
    "admin-pauses": faults_outside.admin_pauses,
    "user-cancels": faults_outside.user_cancels,
    "user-holds": faults_outside.user_holds,
    "user-releases": faults_outside.user_releases,
    "user-requeues": faults_outside.user_requeues,
    "user-updates": faults_outside.user_updates,
}
