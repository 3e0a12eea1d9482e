"""The documents: what they name exists, and the messages they explain are the ones the code says."""

import re
from pathlib import Path

import pytest
import yaml

from wnod.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("install", "configure", "operate", "troubleshoot")]
TEXTS = {path.stem: path.read_text() for path in GUIDES}
ALL = "\n".join(TEXTS.values())


def test_every_command_that_a_guide_names_exists() -> None:
    named = set(re.findall(r"(?:`|^|&& |\| )wnod ([a-z][a-z-]+)", ALL, re.MULTILINE))
    assert named <= set(COMMANDS)
    assert {"status", "explain", "doctor", "check-config", "pki", "image"} <= named


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
