"""The documents: what they name exists, and the messages they explain are the ones the code says."""

import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
import yaml

from bait.rules.lease import Phase
from protocol.messages import VmPhase
from wnod.cli import COMMANDS, _parser
from wnod.config import BaitConfig, HostmasterConfig
from wnod.metrics import BAIT, COMMON, HOSTMASTER

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("install", "configure", "operate", "troubleshoot")]
TEXTS = {path.stem: path.read_text() for path in GUIDES}
ALL = "\n".join(TEXTS.values())
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(path for name in ("docs", "deploy") for path in (ROOT / name).rglob("*.md")),
]
LUA = {"wnod_bait_partitions"}
"""A setting of job_submit.lua."""
DRAWINGS = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
OURS = "bait|hostmaster|protocol|wnod|deploy|tests|docs"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


FENCED = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(wnod [a-z][^`\n]*)`")
COMMAND = re.compile(r"(?:^|&& |\| |; |sudo )(wnod [a-z][^;&|\n]*)", re.MULTILINE)


def commands(page: str) -> set[str]:
    """Every call of wnod that a page shows."""
    shown = "\n".join([*FENCED.findall(page), *INLINE.findall(page)]).replace("\\\n", " ")
    return {line.strip() for line in COMMAND.findall(re.sub(r" #.*", "", shown))}


CALLS = sorted({call for page in PAGES for call in commands(page.read_text())})


@pytest.mark.parametrize("call", CALLS)
def test_every_command_that_a_page_shows_can_be_typed(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as it goes: `wnod explain` in a sentence lacks its job, and that is all that may be wrong with it."""
    words = shlex.split(call)[1:]
    assert words[0] in COMMANDS
    try:
        _parser(words).parse_args(words)
    except SystemExit:
        assert "the following arguments are required" in capsys.readouterr().err


def test_the_commands_are_shown() -> None:
    assert {call.split()[1] for call in CALLS} >= {"status", "explain", "doctor", "check-config", "pki", "image", "vm"}
    assert len(CALLS) > 25


def settings_of(config: type[msgspec.Struct]) -> dict[str, set[str]]:
    """The fields of each section of a configuration file."""
    sections = {field.name: field.type for field in msgspec.structs.fields(config)}
    return {
        name: set(section.__struct_fields__)
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, msgspec.Struct)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    host, bait = settings_of(HostmasterConfig), settings_of(BaitConfig)
    known = {name: host.get(name, set()) | bait.get(name, set()) for name in host.keys() | bait.keys()}
    named = re.findall(r"`([a-z]+)\.(?!(?:sh|sock|yaml)\b)([a-z_]+)(?=[`:= ])", page.read_text())
    assert {f"{name}.{key}" for name, key in named if name in known and key not in known[name]} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_numbers_that_a_page_names_are_exported(page: Path) -> None:
    named = set(re.findall(r"\b(wnod_(?:bait|hostmaster|errors|vms|link)_\w+)", page.read_text()))
    known = {spec.name for spec in (*COMMON, *HOSTMASTER, *BAIT)}
    assert named - known - LUA == set()


@pytest.mark.parametrize("stem", TEXTS)
def test_links_lead_somewhere(stem: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[stem]):
        assert (ROOT / "docs" / target).exists(), target


def test_files_of_the_tree_that_are_named_exist() -> None:
    named = set(re.findall(r"\b(deploy/[a-z/]+/[\w.-]*\w)", ALL))
    assert {path for path in named if not (ROOT / path).exists()} == set()
    assert len(named) >= 8


def test_alerts_that_are_named_exist_and_all_are_explained() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "wnod-alerts.yml").read_text())["groups"]
    rules = {rule["alert"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"\bWnod[A-Z]\w+", TEXTS["troubleshoot"])) == rules


MESSAGES = (
    "no such socket",
    "permission denied",
    "another process has it open",
    "this is the journal of",
    "cannot be written",
    "an older copy",
    "file is not a database",
    "does not decode",
    "written by a newer wnod",
    "only TCG works on this host",
    "wnod: refused:",
)
THEIRS = {"file is not a database"}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_that_are_explained_are_really_said(message: str) -> None:
    assert message.strip() in TEXTS["troubleshoot"]
    sources = [path for name in ("wnod", "bait", "hostmaster", "protocol") for path in (ROOT / name).rglob("*.py")]
    assert message in THEIRS or any(message in path.read_text() for path in sources)


def test_every_section_of_the_trouble_guide_says_what_to_type_or_do() -> None:
    sections = re.split(r"^## ", TEXTS["troubleshoot"], flags=re.MULTILINE)[1:]
    assert len(sections) > 10
    assert [text.splitlines()[0] for text in sections if "`" not in text] == []


def first_words(heading: str) -> list[str]:
    """The first column of the table under a heading of architecture.md, as far as it is code."""
    text = (ROOT / "docs" / "architecture.md").read_text().split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_every_page_lead_somewhere(page: Path) -> None:
    targets = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if "://" not in link]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """NAME in a path is for the reader to fill in."""
    named = set(re.findall(rf"`((?:{OURS})/[\w./-]*)`", page.read_text()))
    assert {path for path in named if "NAME" not in path and not (ROOT / path).exists()} == set()


def test_tests_that_a_page_names_exist() -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)\(", written)) | {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert named - known == set()
    assert len(named) > 60


def test_make_targets_that_a_page_names_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)}
    assert named <= targets
    assert {"demo", "test", "check", "lab-up"} <= named


def test_the_tables_of_states_have_every_phase() -> None:
    assert first_words("The bait's states") == list(Phase)
    assert first_words("A VM's states") == list(VmPhase)


def test_every_module_of_the_product_has_its_place_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("\n## Modules", 1)[1].split("\n## ", 1)[0]
    named = {name.rpartition("/")[2] for name in re.findall(r"`([a-z_/]+\w)`", text)}
    files = [path for name in ("protocol", "hostmaster", "bait") for path in (ROOT / name).rglob("*.py")]
    modules = {path.stem for path in (*files, *(ROOT / "wnod").glob("*.py")) if not path.stem.startswith("__")}
    assert {name for name in modules - named if not name.startswith("slurm") and name != "command"} == set()


def test_every_decision_is_in_the_index() -> None:
    directory = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[\d{4}\]\(([^)]+)\)", (directory / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.name for path in directory.glob("0*.md"))


@pytest.mark.parametrize("drawing", DRAWINGS, ids=name_of)
def test_a_picture_says_what_it_shows_and_is_readable_in_the_dark(drawing: Path) -> None:
    text = drawing.read_text()
    root = ET.fromstring(text)
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    assert "prefers-color-scheme: dark" in text
    used = {name for element in root.iter() for name in element.get("class", "").split()}
    assert {name for name in used if f".{name} " not in text and f".{name}," not in text} == set()
    assert any(f"pictures/{drawing.name}" in page.read_text() for page in PAGES)
