"""Which accelerator the guests get: the configuration's word, or what a probe guest proved on this boot of the host."""

from typing import Literal

import msgspec

from hostmaster.world import Accelerator, Artifacts, DomainRefused, Hypervisor
from wnod.journal import Journal

KIND = "probe"


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of a probe. Valid as long as host, hypervisor and guest kernel are what they were."""

    circumstances: str
    accelerator: Accelerator
    reason: str


async def choose(
    wish: Literal["auto", "kvm", "tcg"],
    allow_tcg: bool,
    hypervisor: Hypervisor,
    artifacts: Artifacts,
    journal: Journal,
    circumstances: str,
) -> Proof:
    """The accelerator to use, and why, in words for the administrator.

    A probe costs seconds, so its outcome is kept while `circumstances` (host boot, URI, kernel) stay the same: a
    restarted daemon serves at once; but none is refused by what an earlier probe found, because KVM may have been
    repaired. Raises DomainRefused if nothing works, or if only TCG does and it is not allowed: TCG keeps no tenant
    from another.
    """
    if wish == "tcg":
        return Proof(circumstances=circumstances, accelerator=Accelerator.TCG, reason="tcg: set in the configuration")
    serves = {Accelerator.KVM, Accelerator.NONE} if wish == "kvm" or not allow_tcg else set(Accelerator)
    proof = journal.load(KIND, Proof).get(KIND)
    if proof is None or proof.circumstances != circumstances or proof.accelerator not in serves:
        accelerator, reason = await hypervisor.probe(artifacts.kernel, artifacts.initrd)
        proof = Proof(circumstances=circumstances, accelerator=accelerator, reason=reason)
        journal.put(KIND, KIND, proof)
    if proof.accelerator not in serves:
        raise DomainRefused(
            f"only TCG works on this host ({proof.reason}) and TCG does not separate tenants: "
            "repair KVM, or set hypervisor.allow_tcg: true if that is acceptable here"
        )
    return proof
