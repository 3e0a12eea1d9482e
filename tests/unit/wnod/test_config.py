"""Configuration files: the documented ones load, and every mistake of a wrong one is told at once."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostmaster.edges.guests import GuestChannels
from protocol.ids import Room, Shape
from wnod.config import (
    BaitConfig,
    Catalogue,
    ConfigMistakes,
    HostmasterConfig,
    Mistake,
    load_bait,
    load_catalogue,
    load_hostmaster,
    split_address,
)

DOC = Path(__file__).resolve().parents[3] / "docs" / "configure.md"
LOADERS: dict[str, Callable[[str], object]] = {
    "hostmaster": load_hostmaster,
    "bait": load_bait,
    "catalogue": load_catalogue,
}
EXAMPLES = re.findall(r"```yaml\n# (\w+)\.yaml\n(.*?)```", DOC.read_text(), re.DOTALL)

HOSTMASTER = """\
host: h1
baits: [bait-h1]
tls: {ca: /t/ca.pem, certificate: /t/h1.pem, key: /t/h1.key}
capacity: {cpus: 4, memory_mib: 8192, disk_mib: 9000}
slots:
  - name: vm1
    mac: 52:54:00:12:34:56
    address: 10.7.0.21/24
hypervisor: {bridge: br0}
lrms: {controller: "ctl:6817", munge_key: /etc/munge.key}
"""
BAIT = """\
bait: bait-h1
hostmaster: {name: h1, address: "h1:9610"}
tls: {ca: /t/ca.pem, certificate: /t/b.pem, key: /t/b.key}
lrms: {cluster: site}
"""
CATALOGUE = f"""\
environments:
  debian12:
    image: /srv/images/debian12
    sha256: {"ab" * 32}
    default: {{cpus: 1, memory_mib: 512, disk_mib: 100}}
    largest: {{cpus: 2, memory_mib: 1024, disk_mib: 200}}
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[..., list[Mistake]]:
    """The mistakes of a text, as a file of that kind."""

    def mistakes(text: str | bytes, kind: str = "hostmaster") -> list[Mistake]:
        path = tmp_path / f"{kind}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigMistakes) as caught:
            LOADERS[kind](str(path))
        assert all(str(mistake).startswith(f"{path}:{mistake.line}: ") for mistake in caught.value.mistakes)
        return list(caught.value.mistakes)

    return mistakes


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# --- what loads --------------------------------------------------------------------------------------------


def test_the_document_has_a_small_and_a_complete_example_of_each() -> None:
    assert [kind for kind, _ in EXAMPLES] == ["hostmaster", "hostmaster", "catalogue", "bait", "bait"]


@pytest.mark.parametrize(("kind", "text"), EXAMPLES, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(EXAMPLES)])
def test_the_documented_examples_load(tmp_path: Path, kind: str, text: str) -> None:
    LOADERS[kind](written(tmp_path / "c.yaml", text))


@pytest.mark.parametrize(
    ("type_", "index"),
    [(HostmasterConfig, 1), (Catalogue, 2), (BaitConfig, 4)],
    ids=["hostmaster", "catalogue", "bait"],
)
def test_the_complete_examples_mention_every_field(type_: type[msgspec.Struct], index: int) -> None:
    text = EXAMPLES[index][1]
    todo, seen = [type_], set()
    while todo:
        struct = todo.pop()
        seen.add(struct)
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"\b{field.name}:", text), f"{struct.__name__}.{field.name} is not in the example"
            todo += [inner for inner in structs_in(field.type) if inner not in seen]
    assert len(seen) > 2


def structs_in(annotation: object) -> list[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [annotation]
    return [struct for inner in getattr(annotation, "__args__", ()) for struct in structs_in(inner)]


def test_the_smallest_hostmaster_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = load_hostmaster(written(tmp_path / "h.yaml", HOSTMASTER))
    assert config.listen == "0.0.0.0:9610"
    assert config.capacity == Room(cpus=4, memory_mib=8192, disk_mib=9000)
    assert config.slots[0].mac == "52:54:00:12:34:56", "YAML 1.1 would read digits and colons as a number"
    assert (config.hypervisor.accelerator, config.hypervisor.allow_tcg) == ("auto", False)
    assert (config.times.boot_limit_s, config.times.lease_ttl_s, config.lrms.features) == (180.0, 90.0, ("vwn",))
    assert (config.state, config.runtime) == ("/var/lib/wnod/hostmaster", "/run/wnod/hostmaster")
    assert config.metrics == "127.0.0.1:9611"


@pytest.mark.parametrize(
    ("times", "longest"),
    [("", 90.0), ("pause_limit_s: 20", 20.0), ("fence_pause_s: 60", 60.0), ("fence_pause_s: 50, fence_resume_s: 80, "
      "lrms_gives_up_s: 150", 45.0), ("fence_pause_s: 86398, fence_resume_s: 86399, lrms_gives_up_s: 86400", 90.0),
     ("lrms_gives_up_s: 900, fence_resume_s: 400, fence_pause_s: 300, pause_limit_s: 270", 270.0)],
)  # fmt: skip
def test_a_pause_is_never_longer_than_the_lrms_waits(tmp_path: Path, times: str, longest: float) -> None:
    config = load_hostmaster(written(tmp_path / "h.yaml", HOSTMASTER + f"times: {{{times}}}\n"))
    assert config.times.longest_pause_s == longest


def test_the_smallest_bait_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = load_bait(written(tmp_path / "b.yaml", BAIT))
    assert config.hook.socket == "/run/wnod/bait/hook.sock"
    assert (config.lrms.vm_partition, config.lrms.poll_s, config.retry.longest_s) == ("vwn", 1.0, 600)
    moved = load_bait(written(tmp_path / "b.yaml", BAIT + "runtime: /run/x\n"))
    assert moved.hook.socket == "/run/x/hook.sock"
    named = load_bait(written(tmp_path / "b.yaml", BAIT + "hook: {socket: /run/y.sock}\n"))
    assert named.hook.socket == "/run/y.sock"


def test_the_catalogue_is_what_it_says(tmp_path: Path) -> None:
    catalogue = load_catalogue(written(tmp_path / "c.yaml", CATALOGUE))
    ((name, environment),) = catalogue.environments.items()
    assert (name, environment.image, environment.delivery) == ("debian12", "/srv/images/debian12", "migrate")
    assert environment.largest == Shape(cpus=2, memory_mib=1024, disk_mib=200)


def test_the_longest_name_of_a_vm_makes_a_channel(tmp_path: Path) -> None:
    """Longer ones were accepted, and no VM of such a slot was ever made."""
    config = load_hostmaster(written(tmp_path / "hostmaster.yaml", HOSTMASTER.replace("vm1", "v" * 62)))
    channels = GuestChannels(None, f"{config.runtime}/guests", lambda name, said: None, frozenset)
    path = channels._path(f"{config.slots[0].name}-g{10**10 - 1}")
    assert len(path) == 107


def test_configuration_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    config = load_hostmaster(written(tmp_path / "h.yaml", HOSTMASTER))
    with pytest.raises(AttributeError):
        config.host = "other"  # type: ignore[misc]


def test_text_that_yaml_takes_for_something_else_stays_text(tmp_path: Path) -> None:
    rules = "defaults:\n  - {user: no, partition: 010, account: 1.50, environment: yes}\n"
    (rule,) = load_bait(written(tmp_path / "b.yaml", BAIT + rules)).defaults
    assert (rule.user, rule.partition, rule.account, rule.environment) == ("no", "010", "1.50", "yes")


def test_null_turns_an_optional_field_off(tmp_path: Path) -> None:
    assert load_hostmaster(written(tmp_path / "h.yaml", HOSTMASTER + "metrics: null\n")).metrics is None
    assert load_hostmaster(written(tmp_path / "h.yaml", HOSTMASTER + "metrics:\n")).metrics is None


# --- what does not ------------------------------------------------------------------------------------------


def test_five_mistakes_are_told_in_one_answer(wrong: Callable[..., list[Mistake]]) -> None:
    text = HOSTMASTER.replace("host: h1", "host: H1").replace("cpus: 4", "cpus: four").replace("baits:", "bait:")
    text = text.replace("52:54:00:12:34:56", "53:54:00:12:34:56").replace("{bridge: br0}", "{bridge: br0, uri: qemu}")
    found = wrong(text)
    assert [(m.line, m.field) for m in found] == [
        (1, "baits"),
        (1, "host"),
        (2, "bait"),
        (4, "capacity.cpus"),
        (7, "slots[0].mac"),
        (9, "hypervisor.uri"),
    ]
    told = {m.field: str(m) for m in found}
    assert "'H1'" in told["host"]
    assert "did you mean 'h1'?" in told["host"]
    assert "did you mean 'baits'?" in told["bait"]
    assert "missing" in told["baits"]
    assert "'four': expected a whole number from 0 to" in told["capacity.cpus"]
    assert "group address" in told["slots[0].mac"]
    assert all(m.expected and (m.remedy or "from" in m.expected) for m in found)


MOUNT = "mounts:\n- {{type: nfs4, source: '{}', target: '{}', options: '{}'}}\n"
CASES = [
    ("hostmaster", HOSTMASTER + "listen: here\n", "listen", 11, "HOST:PORT"),
    ("hostmaster", HOSTMASTER + "listen: ':9610'\n", "listen", 11, "HOST:PORT"),
    ("hostmaster", HOSTMASTER + "listen: h:70000\n", "listen", 11, "1 to 65535"),
    ("hostmaster", HOSTMASTER + "metrics: 0.0.0.0:9610\n", "metrics", 11, "another port"),
    ("hostmaster", HOSTMASTER + "state: var/lib\n", "state", 11, "whole path"),
    ("hostmaster", HOSTMASTER + "state: /var/../etc\n", "state", 11, "without . and .."),
    ("hostmaster", HOSTMASTER + 'state: "/a\\nb"\n', "state", 11, "control characters"),
    ("hostmaster", HOSTMASTER + f"runtime: /{'r' * 90}\n", "runtime", 11, "80 bytes"),
    ("hostmaster", HOSTMASTER + f"runtime: /{'r' * 79}\n", "slots[0].name", 6, "at most 2 characters"),
    ("hostmaster", HOSTMASTER.replace("vm1", "v" * 63), "slots[0].name", 6, "at most 62 characters"),
    ("hostmaster", HOSTMASTER + "runtime: /var/lib/wnod/hostmaster\n", "runtime", 11, "another directory"),
    ("hostmaster", HOSTMASTER + "times: {boot_limit_s: -1}\n", "times.boot_limit_s", 11, "above 0"),
    ("hostmaster", HOSTMASTER + "times: {boot_limit_s: 601}\n", "times.boot_limit_s", 11, "at most 600"),
    ("hostmaster", HOSTMASTER + "times: {fence_pause_s: 200}\n", "times.fence_pause_s", 11, "less than fence_resume_s"),
    ("hostmaster", HOSTMASTER + "times: {fence_resume_s: 300}\n", "times.fence_resume_s", 11, "lrms_gives_up_s"),
    ("hostmaster", HOSTMASTER + "times: {pause_limit_s: 91}\n", "times.pause_limit_s", 11, "at most 90, which is 0.3"),
    ("hostmaster", HOSTMASTER + "times: {pause_limit_s: 0}\n", "times.pause_limit_s", 11, "above 0"),
    ("hostmaster", HOSTMASTER + "times: {pause_limit_s: 1 h}\n", "times.pause_limit_s", 11, "seconds"),
    (
        "hostmaster",
        HOSTMASTER + "times: {pause_limit_s: 80, fence_pause_s: 70}\n",
        "times.pause_limit_s",
        11,
        "at most fence_pause_s (70)",
    ),
    ("hostmaster", HOSTMASTER + "times: {boot_limit_s: .nan}\n", "times.boot_limit_s", 11, "seconds"),
    ("hostmaster", HOSTMASTER + "times: {boot_limit_s: 1e999}\n", "times.boot_limit_s", 11, "seconds"),
    ("hostmaster", HOSTMASTER + "times: {retries: 1.5}\n", "times.retries", 11, "whole number"),
    ("hostmaster", HOSTMASTER + "times: 5\n", "times", 11, "mapping"),
    ("hostmaster", HOSTMASTER + "mounts: {type: nfs4}\n", "mounts", 11, "list"),
    ("hostmaster", HOSTMASTER + MOUNT.format("a b", "/home", "ro"), "mounts[0].source", 12, "one word"),
    ("hostmaster", HOSTMASTER + MOUNT.format("nas:/$x", "/home", "ro"), "mounts[0].source", 12, "guests take letters"),
    ("hostmaster", HOSTMASTER + MOUNT.format("nas:/x", "/a b", "ro"), "mounts[0].target", 12, "guests take letters"),
    ("hostmaster", HOSTMASTER + MOUNT.format("nas:/x", "/", "ro"), "mounts[0].target", 12, "no path that is /"),
    ("hostmaster", HOSTMASTER + MOUNT.format("nas:/x", "/a/..b", "ro"), "mounts[0].target", 12, "no path that is /"),
    ("hostmaster", HOSTMASTER + MOUNT.format("nas:/x", "/a", "a b"), "mounts[0].options", 12, "guests take letters"),
    (
        "hostmaster",
        HOSTMASTER + MOUNT.format("nas:/x", "/a", "ro") + MOUNT.format("nas:/y", "/a", "ro")[8:],
        "mounts[1].target",
        13,
        "mounts[0] has it too",
    ),
    ("hostmaster", HOSTMASTER + "host: h1\n", "host", 11, "twice"),
    ("hostmaster", HOSTMASTER + "network: {hosts: {nowhere: x}}\n", "network.hosts.nowhere", 11, "IP address"),
    ("hostmaster", HOSTMASTER + "network: {hosts: {10.0.0.1: 'a b'}}\n", "network.hosts.10.0.0.1", 11, "host name"),
    ("hostmaster", HOSTMASTER.replace("/24", ""), "slots[0].address", 8, "prefix length"),
    ("hostmaster", HOSTMASTER.replace("21/24", "0/24"), "slots[0].address", 8, "host's address"),
    ("hostmaster", HOSTMASTER.replace("[bait-h1]", "[]"), "baits", 2, "at least one"),
    ("hostmaster", HOSTMASTER.replace("[bait-h1]", "[bait-h1, 'b;rm -rf']"), "baits[1]", 2, "inner hyphens"),
    ("hostmaster", HOSTMASTER.replace("br0", "'br0\"; drop'"), "hypervisor.bridge", 9, "interface name"),
    ("hostmaster", HOSTMASTER.replace("br0}", "br0, accelerator: tcg}"), "hypervisor.accelerator", 9, "allow_tcg"),
    ("hostmaster", HOSTMASTER.replace("br0}", "br0, allow_tcg: maybe}"), "hypervisor.allow_tcg", 9, "true or false"),
    ("bait", BAIT + "gate: {hold_s: long}\n", "gate.hold_s", 5, "seconds"),
    ("bait", BAIT + "defaults: [{user: alice}]\n", "defaults[0]", 5, "environment, cpus"),
    ("bait", BAIT + "defaults: [{usr: alice, cpus: 1}]\n", "defaults[0].usr", 5, "did you mean 'user'"),
    ("bait", BAIT.replace("cluster: site", "cluster: 'my site'"), "lrms.cluster", 4, "did you mean 'my-site'"),
    ("bait", BAIT.replace("cluster: site", "kind: slrum, cluster: site"), "lrms.kind", 4, "did you mean 'slurm'"),
    ("bait", BAIT.replace("lrms: {cluster: site}", ""), "lrms", 1, "mapping with cluster"),
    ("catalogue", CATALOGUE.replace("cpus: 1", "cpus: 9"), "environments.debian12.default.cpus", 5, "at most 2"),
    ("catalogue", CATALOGUE + "    delivery: execute\n", "environments.debian12.delivery", 7, "not in this version"),
    ("catalogue", CATALOGUE.replace("ab" * 32, "abc"), "environments.debian12.sha256", 4, "64 lower-case hex"),
    ("catalogue", CATALOGUE.replace("debian12:", "'../etc':"), "environments.../etc", 2, "letter or digit first"),
    ("catalogue", "environments: {}\n", "environments", 1, "at least one"),
    ("catalogue", "environments:\n", "environments", 1, "nothing is there"),
]


@pytest.mark.parametrize(("kind", "text", "field", "line", "words"), CASES, ids=[f"{c[2]}-{c[4]}" for c in CASES])
def test_one_mistake(
    wrong: Callable[..., list[Mistake]], kind: str, text: str, field: str, line: int, words: str
) -> None:
    (mistake,) = wrong(text, kind)
    assert (mistake.field, mistake.line) == (field, line)
    assert words in f"{mistake.expected}; {mistake.remedy}"


def test_slots_must_differ_even_where_one_of_them_is_broken(wrong: Callable[..., list[Mistake]]) -> None:
    second = "  - name: vm1\n    mac: no\n    address: 10.7.0.21/16\n"
    text = HOSTMASTER.replace("hypervisor:", second + "hypervisor:")
    assert [m.field for m in wrong(text)] == ["slots[1].name", "slots[1].mac", "slots[1].address"]


def test_the_gate_must_not_flutter(wrong: Callable[..., list[Mistake]]) -> None:
    small, big = "{cpus: 1, memory_mib: 64, disk_mib: 64}", "{cpus: 2, memory_mib: 65, disk_mib: 64}"
    found = wrong(BAIT + f"gate:\n  close_below: {big}\n  open_above: {small}\n", "bait")
    assert [(m.field, m.line) for m in found] == [("gate.open_above.cpus", 7), ("gate.open_above.memory_mib", 7)]


@pytest.mark.parametrize(
    "value", ["a'b", 'a"b', "a\nb", "../../etc/passwd", "пример", "x" * 10_000, "nul\0", "\x1b[31mred", "-", ""]
)
@pytest.mark.parametrize("field", ["host", "slots[0].name", "hypervisor.bridge", "tls.ca", "catalogue"])
def test_nasty_values_are_refused_and_shown_safely(wrong: Callable[..., list[Mistake]], field: str, value: str) -> None:
    quoted = '"' + "".join(f"\\u{ord(c):04x}" for c in value) + '"'
    old = {
        "host": "host: h1",
        "slots[0].name": "name: vm1",
        "hypervisor.bridge": "bridge: br0",
        "tls.ca": "ca: /t/ca.pem",
    }
    line = old.get(field, "")
    key = field.rsplit(".", 1)[-1]
    text = HOSTMASTER.replace(line, f"{line.split(':')[0]}: {quoted}", 1) if line else HOSTMASTER + f"{key}: {quoted}\n"
    (mistake,) = wrong(text)
    assert mistake.field == field
    assert str(mistake).isprintable()
    assert len(str(mistake)) < 500


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", 1, "empty"),
        (b"# only a comment\n", 1, "empty"),
        (b"host: [h1\nbaits: }\n", 2, "not YAML"),
        (b"a: 1\n b: 2\n", 2, "not YAML"),
        (b"a: 1\n---\nb: 2\n", 2, "not YAML"),
        (b"\thost: h1\n", 1, "not YAML"),
        (b"host: h1\nx: \xff\n", 2, "UTF-8"),
        (b"host: h1\nx: a\x00b\n", 2, "control character"),
        (b"[" * 5000, 1, "nested too deeply"),
        (b"a: " + b"x" * (1 << 20), 1, "larger than"),
        (b"- h1\n", 1, "mapping"),
        (b"h1\n", 1, "mapping"),
        (b"? [a, b]\n: 1\n", 1, "word as key"),
        (b"x: !!python/object/apply:os.system ['true']\n", 1, "no such field"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_files_that_are_no_configuration(
    wrong: Callable[..., list[Mistake]], content: bytes, line: int, words: str
) -> None:
    first = [m for m in wrong(content) if words in f"{m.expected} {m.remedy}"]
    assert [m.line for m in first] == [line]


@pytest.mark.parametrize("name", ["missing.yaml", "a\nb.yaml", "x" * 10_000, "nul\0.yaml", ".", "\udcff.yaml"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigMistakes) as caught:
        load_hostmaster(f"{tmp_path}/{name}")
    (mistake,) = caught.value.mistakes
    assert "cannot be read" in mistake.expected
    assert mistake.remedy
    assert str(mistake).isprintable()


def test_a_fifo_does_not_make_us_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "h.yaml")
    with pytest.raises(ConfigMistakes, match="not a regular file"):
        load_hostmaster(str(tmp_path / "h.yaml"))


@settings(max_examples=150)
@given(st.text(max_size=40), st.integers(0, len(HOSTMASTER)))
def test_whatever_is_typed_into_a_file_it_loads_or_is_explained(junk: str, at: int) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write((HOSTMASTER[:at] + junk + HOSTMASTER[at:]).encode("utf-8", "surrogatepass"))
        file.flush()
        mistakes = mistakes_of(file.name)
    assert all(str(mistake).isprintable() and mistake.line >= 1 for mistake in mistakes)


def mistakes_of(path: str) -> tuple[Mistake, ...]:
    try:
        load_hostmaster(path)
    except ConfigMistakes as error:
        return error.mistakes
    return ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [("10.0.0.1:1", ("10.0.0.1", 1)), ("[::1]:9610", ("::1", 9610)), ("h1.site:65535", ("h1.site", 65535))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", ":1", "h", "h:0", "h:65536", "h:١", "::1:5", "[::1]", "h h:1", "h:1:2", "[x]:1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_address(text)
