"""The link's limits in time and memory."""

import itertools

import msgspec

from protocol.framing import frame
from protocol.hostend import MAX_PENDING
from protocol.ids import LeaseId
from protocol.messages import Code, Renewed, VmLost
from protocol.session import MAX_UNACKED, Envelope
from tests.unit.protocol.link_case import AGAIN, NEW, LinkCase, Raw, renew, renewed
from tests.unit.protocol.memory_net import HIGH_WATER


def message(n: int) -> bytes:
    return frame(msgspec.json.encode(Envelope(ack=0, n=n, msg=renew(n))))


class TimeTests(LinkCase):
    def test_idle_ends_stay_connected(self) -> None:
        bait, heard = self.make_bait()
        self.net.advance(300, step=1)
        assert bait.connected
        assert heard.events == [("connected", "h1", 1, NEW)]

    def test_a_half_open_connection_is_noticed_by_both(self) -> None:
        bait, heard = self.make_bait()
        bait.send(renew(1))
        self.net.settle()
        self.net.swallow = True
        bait.send(renew(2))
        self.net.advance(29.5, step=0.5)
        assert bait.connected
        self.net.advance(1, step=0.5)
        assert not bait.connected
        assert self.host.connected_baits() == frozenset()
        self.net.swallow = False
        self.net.advance(30, step=0.5)
        assert heard.events[-1] == ("connected", "h1", 1, AGAIN)
        assert [m for _, m in self.at_host.messages] == [renew(1), renew(2)]

    def test_a_client_that_never_speaks_is_cut(self) -> None:
        silent = Raw()
        self.net.open(silent)
        self.net.advance(9.5)
        assert silent.lost is None
        self.net.advance(1)
        assert silent.lost is not None

    def test_tls_without_hello_is_cut(self) -> None:
        client = self.raw()
        self.net.advance(9.5)
        assert client.lost is None
        self.net.advance(1)
        assert client.lost is not None

    def test_a_hello_that_drips_is_cut(self) -> None:
        client = self.raw()
        for byte in self.hello()[:22]:
            client.say(bytes([byte]))
            self.net.advance(0.5)
        assert client.lost is not None

    def test_a_frame_that_drips_is_cut(self) -> None:
        client = self.raw()
        client.say(self.hello() + (100).to_bytes(4, "big"))
        for _ in range(31):
            client.say(b" ")
            self.net.advance(1)
        assert client.lost is not None

    def test_a_flood_does_not_cut_a_bait_that_was_let_in_before(self) -> None:
        bait, _ = self.make_bait()
        for _ in range(MAX_PENDING + 20):
            self.net.open(Raw())
        self.net.settle()
        assert bait.connected

    def test_an_acknowledgement_comes_soon_without_an_answer(self) -> None:
        client = self.raw()
        client.say(self.hello() + message(1))
        self.net.settle()
        assert len(client.bodies) == 1
        self.net.advance(0.25)
        assert client.bodies[1:] == [b'{"ack":1}']

    def test_many_messages_are_acknowledged_at_once(self) -> None:
        client = self.raw()
        client.say(self.hello() + b"".join(message(n) for n in range(1, 65)))
        self.net.settle()
        assert client.bodies[1:] == [b'{"ack":64}']

    def test_a_peer_that_does_not_take_the_farewell_is_cut(self) -> None:
        client = self.raw()
        near, far = self.net.pipes[0]
        client.say(self.hello(versions=(9,)))
        self.net.reactor.advance(0)
        near.reads = False
        self.net.advance(4.5)
        assert not far.closed
        self.net.advance(1)
        assert far.closed

    def test_a_flood_of_silent_clients_does_not_lock_a_bait_out(self) -> None:
        silent = [Raw() for _ in range(MAX_PENDING + 20)]
        for client in silent:
            self.net.open(client)
        self.net.settle()
        bait, _ = self.make_bait()
        assert bait.connected
        assert sum(client.lost is None for client in silent) == MAX_PENDING - 1

    def test_delays_between_attempts_grow_and_stay_bounded(self) -> None:
        self.net.refuse = True
        self.make_bait()
        self.net.advance(120, step=0.05)
        tries = self.net.tries
        delays = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert delays[0] < 1
        assert max(delays) < 15.5
        assert min(delays[-4:]) > 4.9
        assert len(set(delays)) == len(delays)


class SlowPeerTests(LinkCase):
    def big(self) -> VmLost:
        return VmLost(lease=LeaseId("1" * 32), generation=1, code=Code.INTERNAL, text="x" * 1000)  # type: ignore[arg-type]

    def test_a_peer_that_takes_nothing_is_cut_and_memory_stays_bounded(self) -> None:
        client = self.raw()
        client.say(self.hello())
        self.net.settle()
        near, far = self.net.pipes[0]
        near.reads = False
        for _ in range(1000):
            self.host.send("bait-h1", self.big())
            self.net.settle()
        assert len(far.outgoing) < 3 * 65536
        for _ in range(31):
            client.say(frame(b'{"ack":0}'))
            self.net.advance(1)
        assert self.at_host.events[-1] == ("disconnected", "bait-h1")
        assert "disconnected: takes no data" in self.warnings()

    def test_nothing_is_written_to_a_peer_that_takes_nothing(self) -> None:
        client = self.raw()
        client.say(self.hello())
        self.net.settle()
        near, far = self.net.pipes[0]
        near.reads = False
        for _ in range(200):
            self.host.send("bait-h1", self.big())
            self.net.settle()
        held = len(far.outgoing)
        client.say(b"".join(message(n) for n in range(1, 500)))
        self.net.advance(11)
        assert len(self.at_host.messages) == 499
        assert len(far.outgoing) == held

    def test_heartbeats_go_on_after_a_pause(self) -> None:
        bait, _ = self.make_bait()
        near, far = self.net.pipes[0]
        near.reads = False
        while len(far.outgoing) <= HIGH_WATER:
            self.host.send("bait-h1", self.big())
            self.net.settle()
        self.net.advance(15)
        near.reads = True
        self.net.advance(60)
        assert bait.connected
        assert self.at_host.events == [("connected", "bait-h1", 1, NEW)]

    def test_what_a_slow_peer_did_not_take_arrives_when_it_reads_again(self) -> None:
        _, heard = self.make_bait()
        near, _ = self.net.pipes[0]
        near.reads = False
        for i in range(500):
            self.host.send("bait-h1", renewed(i))
            self.host.send("bait-h1", self.big())
        self.net.settle()
        near.reads = True
        self.net.settle()
        assert [m for _, m in heard.messages if isinstance(m, Renewed)] == [renewed(i) for i in range(500)]

    def test_too_much_unacknowledged_ends_the_session(self) -> None:
        bait, heard = self.make_bait()
        self.net.refuse = True
        self.net.cut()
        for i in range(MAX_UNACKED + 1):
            bait.send(renew(i))
        self.net.refuse = False
        self.net.advance(5)
        assert heard.events[-1] == ("connected", "h1", 1, NEW)
        assert self.at_host.messages == []
