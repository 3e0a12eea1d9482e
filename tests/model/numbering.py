"""Worlds that differ in nothing but their numbers are one world."""

from dataclasses import dataclass

from tests.model.state import Domain, Host, Job, Lease, View, Vm, World


def renumbered(world: World) -> World:
    """The same world with the smallest numbers: restarts, leases and generations are only ever compared."""
    leases = [x for host in world.hosts for x in host.leases]
    vms = [x for host in world.hosts for x in host.vms]
    domains = [x for host in world.hosts for x in host.domains]
    nodes = [x for host in world.hosts for x in host.nodes]
    runs = [world.job.restart, *(x.restart for x in leases), *(x.asked for x in vms), *(x.asked for x in domains)]
    runs += [x for domain in domains for x in (domain.launch, domain.run, domain.marker) if x >= 0]
    runs += [host.starter.restart for host in world.hosts if host.starter is not None]
    runs += [host.deed.restart for host in world.hosts if host.deed is not None]
    runs += [world.before.restart] if world.before is not None else []
    names = [x.id for x in leases] + [x.lease for x in vms] + [x.lease for x in domains if x.lease >= 0]
    names += [world.job.note] if world.job.note else []
    names += [world.before.note] if world.before is not None and world.before.note else []
    names += [world.echo[1]] if world.echo is not None and world.echo[1] else []
    made = [x.generation for x in vms] + [x.generation for x in domains] + [node[1] for node in nodes]
    made += [x.generation for x in leases if x.generation]
    made += [world.echo[2]] if world.echo is not None and world.echo[2] else []
    if any(host.given != host.most for host in world.hosts):
        made = [1]
    less = _Less(min(runs), min(names, default=world.leases + 1) - 1, min(made, default=_most(world) + 1) - 1)
    return world if less == _Less(0, 0, 0) else less.world(world)


def _most(world: World) -> int:
    return max(host.given for host in world.hosts)


@dataclass(frozen=True)
class _Less:
    """What to take away from every restart, lease and generation."""

    run: int
    lease: int
    made: int

    def world(self, world: World) -> World:
        echo = world.echo
        if echo is not None and echo[1]:
            echo = (echo[0], echo[1] - self.lease, echo[2] - self.made if echo[2] else 0)
        return world._replace(
            job=self._job(world.job), hosts=tuple(self._host(host) for host in world.hosts),
            leases=world.leases - self.lease, before=self._job(world.before) if world.before is not None else None,
            echo=echo,
        )  # fmt: skip

    def _job(self, now: Job) -> Job:
        return now._replace(restart=now.restart - self.run, note=now.note - self.lease if now.note else 0)

    def _host(self, host: Host) -> Host:
        starter, deed = host.starter, host.deed
        return host._replace(
            starter=starter and starter._replace(restart=starter.restart - self.run),
            leases=tuple(map(self._lease, host.leases)), views=tuple(map(self._view, host.views)),
            deed=deed and deed._replace(lease=deed.lease - self.lease, restart=deed.restart - self.run),
            vms=tuple(map(self._vm, host.vms)), domains=tuple(map(self._domain, host.domains)),
            nodes=tuple((slot, made - self.made, up) for slot, made, up in host.nodes),
            given=max(0, host.given - self.made), most=max(0, host.most - self.made),
        )  # fmt: skip

    def _lease(self, lease: Lease) -> Lease:
        made = lease.generation - self.made if lease.generation else 0
        return lease._replace(id=lease.id - self.lease, restart=lease.restart - self.run, generation=made)

    def _view(self, view: View) -> View:
        made = view.generation - self.made if view.generation else 0
        return view._replace(lease=view.lease - self.lease, generation=made)

    def _vm(self, vm: Vm) -> Vm:
        return vm._replace(
            generation=vm.generation - self.made, lease=vm.lease - self.lease, asked=vm.asked - self.run,
            bound=vm.bound - self.run if vm.bound >= 0 else -1,
        )  # fmt: skip

    def _domain(self, domain: Domain) -> Domain:
        lease = domain.lease - self.lease if domain.lease >= 0 else -1
        return domain._replace(
            generation=domain.generation - self.made, lease=lease, asked=domain.asked - self.run,
            launch=domain.launch - self.run if domain.launch >= 0 else -1,
            run=domain.run - self.run if domain.run >= 0 else -1,
            marker=domain.marker - self.run if domain.marker >= 0 else -1,
        )  # fmt: skip
