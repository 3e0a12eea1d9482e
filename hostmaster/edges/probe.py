"""Which accelerator really works here, found by booting a guest that powers itself off at once.

/dev/kvm may exist, open and even create a vCPU, and yet no guest runs on it (lab facts): only a guest that has
booted proves anything. Its kernel and initrd are those of an environment, so the proof is about the real thing.
"""

from collections.abc import Awaitable, Callable

from hostmaster.world import Accelerator, DomainRefused

ORDER = (Accelerator.KVM, Accelerator.TCG)

MAX_TEXT = 300
"""QEMU's last words can be pages; the first line says it."""

Boot = Callable[[Accelerator], Awaitable[str]]
"""Boots a probe guest: empty if it shut itself down in time, else what happened instead."""


async def find_accelerator(offered: frozenset[Accelerator], boot: Boot) -> tuple[Accelerator, str]:
    """The first accelerator of ORDER under which a guest boots, and one sentence that says why it is this one.

    Raises DomainRefused with every finding if none does.
    """
    if Accelerator.NONE in offered:
        return Accelerator.NONE, "libvirt's test driver runs no guests"
    findings = []
    for accelerator in ORDER:
        if accelerator not in offered:
            findings.append(f"{accelerator}: libvirt does not offer it")
            continue
        failure = await boot(accelerator)
        if not failure:
            found = f"{accelerator}: a probe guest booted and shut itself down"
            return accelerator, "; ".join((found, *findings))
        findings.append(f"{accelerator}: {' '.join(failure.split())[:MAX_TEXT]}")
    raise DomainRefused("no accelerator boots a guest: " + "; ".join(findings))
