"""What the documents say is so: links, settings, states, commands, versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from enginefarm import __version__
from enginefarm.cli import main as command_line
from enginefarm.contract.spec import BuildSpec
from models.catalogue.states import CLOSED, IN_FLIGHT, MOVES, ActionState
from models.settings import PREFIX, Settings

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"
OPERATIONS = CHECKOUT / "docs" / "operations.md"
DOCUMENTS = [README, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))


@documents
def test_relative_links_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    broken = [link for link in links if ":" not in link and not (document.parent / link).exists()]
    assert not broken


@documents
def test_modules_that_are_run_exist(document: Path) -> None:
    for module in re.findall(r"python -m ([a-z_][\w.]*)", document.read_text()):
        assert find_spec(module) is not None, module


@documents
def test_make_targets_exist(document: Path) -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"(?:^    |`)make (\w+)", document.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@documents
def test_settings_that_are_named_exist(document: Path) -> None:
    others = {
        *("URL", "API_KEY", "CACHE", "TRUSTED_KEYS", "TRTLLM_EXAMPLES"),
        *("TEST_S3_URL", "TEST_POSTGRES_URL", "BENCH_GIB"),
    }
    known = {name.upper() for name in Settings.model_fields} | others
    for name in re.findall(PREFIX + r"([A-Z0-9_]*[A-Z0-9])\b(?!_\*)", document.read_text()):
        assert name in known, name


def test_readme_shows_both_commands() -> None:
    lines = [line.split("#")[0].strip() for line in README.read_text().splitlines() if line.startswith("    ")]
    assert "make demo" in lines
    assert "make test" in lines


def test_readme_submits_what_the_farm_accepts() -> None:
    (body,) = re.findall(r"--data '(.+?)'", README.read_text(), re.DOTALL)
    spec = BuildSpec.model_validate_json(body)
    (flags,) = re.findall(r"enginefarm submit (.+?) --wait", README.read_text().replace("\\\n", " "))
    given = dict(zip(flags.split()[::2], flags.split()[1::2], strict=True))
    assert given == {
        "--model": spec.model,
        "--toolchain": spec.toolchain.name,
        "--max-input-len": str(spec.limits.max_input_len),
        "--max-output-len": str(spec.limits.max_output_len),
    }


@documents
def test_commands_of_the_command_line_exist(document: Path) -> None:
    for name, flags in _invocations(document):
        assert name in command_line.commands, name
        options = {option for parameter in command_line.commands[name].params for option in parameter.opts}
        assert set(flags) <= options, name


def _invocations(document: Path) -> Iterator[tuple[str, list[str]]]:
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?:bin/|`)enginefarm ([^`\n]+)", text):
        yield line.split()[0], [word for word in line.split() if word.startswith("--")]


def test_settings_page_is_the_settings() -> None:
    page = (CHECKOUT / "docs" / "settings.md").read_text().split("## Read elsewhere")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", page, re.MULTILINE)
    expected = [
        (PREFIX + name.upper(), _default(field), field.description) for name, field in Settings.model_fields.items()
    ]
    assert rows == expected


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    match field.default:
        case None | ():
            return "–"
        case bool():
            return f"`{str(field.default).lower()}`"
        case float():
            return f"`{field.default:g}`"
    return f"`{field.default}`"


def test_picture_of_the_states_is_the_table_of_moves() -> None:
    page = (CHECKOUT / "docs" / "architecture.md").read_text()
    (picture,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.+?)```", page, re.DOTALL)
    drawn = re.findall(r"^ +(\S+) --> (\w+)", picture, re.MULTILINE)
    moves = {(str(source), str(to)) for to, sources in MOVES.items() for source in sources}
    assert {move for move in drawn if move[0] != "[*]"} == moves
    assert len(drawn) == len(set(drawn))
    begins = {to for source, to in drawn if source == "[*]"}
    assert begins == {"waiting", "queued"}
    assert set(ActionState) == IN_FLIGHT | CLOSED


@pytest.mark.parametrize("cell", re.findall(r"^\| `(.+?)` \| (?:API|worker)", OPERATIONS.read_text(), re.MULTILINE))
def test_log_lines_of_trouble_are_in_the_code(cell: str) -> None:
    """The longest run of fixed words of each line stands in the source as it is."""
    fixed = max(re.split(r"…|\(|\)|=", cell), key=len).strip(" :,;")
    rooms = ("api", "workers", "models", "enginefarm", "migrations")
    sources = (path.read_text() for room in rooms for path in (CHECKOUT / room).rglob("*.py"))
    assert any(fixed in re.sub(r'"\s+f?"', "", source) for source in sources), fixed


def test_tests_that_are_named_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (CHECKOUT / "docs" / "reliability.md").read_text()))
    there = {
        name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= there


def test_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_every_decision_is_listed_and_complete() -> None:
    listed = re.findall(r"\(adr/(\S+\.md)\)", (CHECKOUT / "docs" / "architecture.md").read_text())
    there = sorted(path.name for path in (CHECKOUT / "docs" / "adr").glob("*.md"))
    assert listed == there
    for name in there:
        headings = re.findall(r"^## (.+)$", (CHECKOUT / "docs" / "adr" / name).read_text(), re.MULTILINE)
        assert headings == ["Context", "Options", "Decision", "Consequences"], name
