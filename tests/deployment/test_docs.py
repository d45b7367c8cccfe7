"""The documents agree with the code: links, settings, states, import rules, commands, versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from docs.generators import import_rules, pictures
from enginefarm import __version__
from enginefarm.cli import main as command_line
from enginefarm.contract.spec import BuildSpec
from models.catalogue.states import CLOSED, IN_FLIGHT, MOVES, ActionState
from models.settings import PREFIX, Settings

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"
OPERATIONS = CHECKOUT / "docs" / "operations.md"
DOCUMENTS = [
    *(README, CHECKOUT / "CHANGELOG.md", CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "tests" / "README.md"),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))


@documents
def test_relative_links_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    broken = [link for link in links if ":" not in link and not (document.parent / link).exists()]
    assert broken == []


@documents
def test_a_module_that_a_document_runs_exists(document: Path) -> None:
    for module in re.findall(r"python -m ([a-z_][\w.]*)", document.read_text()):
        assert find_spec(module) is not None, module


@documents
def test_a_make_target_that_a_document_names_exists(document: Path) -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"(?:^    |`)make ([\w-]+)", document.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@documents
def test_a_setting_that_a_document_names_exists(document: Path) -> None:
    # Read by the command line, by TensorRT-LLM's toolchain, by tests and by benchmarks.
    read_elsewhere = {
        *("URL", "API_KEY", "CACHE", "TRUSTED_KEYS", "REVOCATIONS_MAX_AGE", "TRTLLM_EXAMPLES"),
        *("TEST_S3_URL", "TEST_POSTGRES_URL", "BENCH_GIB"),
    }
    settings = {name.upper() for name in Settings.model_fields} | read_elsewhere
    for name in re.findall(PREFIX + r"([A-Z0-9_]*[A-Z0-9])\b(?!_\*)", document.read_text()):
        assert name in settings, name


def test_the_readme_shows_both_commands() -> None:
    lines = [line.split("#")[0].strip() for line in README.read_text().splitlines() if line.startswith("    ")]
    assert "make demo" in lines
    assert "make test" in lines


def test_the_readme_submits_one_spec_over_rest_and_on_the_command_line() -> None:
    (body,) = re.findall(r"--data '(.+?)'", README.read_text(), re.DOTALL)
    spec = BuildSpec.model_validate_json(body)
    (flags,) = re.findall(r"enginefarm submit (.+?) --wait", README.read_text().replace("\\\n", " "))
    value_by_flag = dict(zip(flags.split()[::2], flags.split()[1::2], strict=True))
    assert value_by_flag == {
        "--model": spec.model,
        "--toolchain": spec.toolchain.name,
        "--max-input-len": str(spec.limits.max_input_len),
        "--max-output-len": str(spec.limits.max_output_len),
    }


def test_every_field_of_a_spec_is_explained() -> None:
    """By its own description, or on the page of the reference."""
    schema = BuildSpec.model_json_schema()
    explained = set(re.findall(r"`(\w+)`", (CHECKOUT / "docs" / "reference" / "spec.md").read_text()))
    for part in (schema, *schema["$defs"].values()):
        for name, field in part.get("properties", {}).items():
            assert "description" in field or name in explained, name


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs" / "quickstart").glob("*.md")), ids=lambda path: path.stem)
def test_a_spec_of_a_quick_start_is_accepted(page: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"^```json\n(.+?)^```$", text, re.DOTALL | re.MULTILINE)
    quoted = re.findall(r"(?:--data|spec=)\s*'(.+?)'", text, re.DOTALL)
    specs = [text for text in blocks + quoted if '"toolchain"' in text]
    assert specs or page.stem == "run-a-farm"
    for spec in specs:
        BuildSpec.model_validate_json(spec)


@documents
def test_a_command_that_a_document_shows_exists_with_its_options(document: Path) -> None:
    for name, flags in _invocations(document):
        assert name in command_line.commands, name
        options = {option for parameter in command_line.commands[name].params for option in parameter.opts}
        assert set(flags) <= options, name


def _invocations(document: Path) -> Iterator[tuple[str, list[str]]]:
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?:bin/|`|^    |^\$ |^)enginefarm ([a-z][^`\n]+)", text, re.MULTILINE):
        words = line.split("#")[0].split()
        yield words[0], [word for word in words if word.startswith("--")]


def test_the_page_of_the_settings_has_every_setting_with_its_default_and_meaning() -> None:
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


@pytest.mark.parametrize("name", sorted(pictures.PICTURES))
def test_a_picture_is_what_the_generator_draws(name: str) -> None:
    """`python -m docs.generators.pictures` draws them all again."""
    assert (pictures.FOLDER / f"{name}.svg").read_text() == pictures.PICTURES[name]()


def test_the_picture_of_the_states_has_every_allowed_move() -> None:
    assert pictures.drawn_moves() == {(source, target) for target, sources in MOVES.items() for source in sources}
    assert set(ActionState) == IN_FLIGHT | CLOSED


def test_the_import_rules_are_those_of_the_linter() -> None:
    """`python -m docs.generators.import_rules` writes them into the page again."""
    assert import_rules.block(import_rules.PAGE.read_text()) == import_rules.import_rules()


def test_writing_the_import_rules_changes_nothing_outside_their_comments() -> None:
    page = f"a b\n{import_rules.BEGIN}\nb\n{import_rules.END}\nb a\n"
    assert import_rules.with_rules(page, "c") == f"a b\n{import_rules.BEGIN}\nc\n{import_rules.END}\nb a\n"
    with pytest.raises(ValueError, match="once"):
        import_rules.with_rules(page + import_rules.END, "c")


@pytest.mark.parametrize("line", re.findall(r"^\| `(.+?)` \| (?:API|worker)", OPERATIONS.read_text(), re.MULTILINE))
def test_a_log_line_of_the_operations_page_is_in_the_code(line: str) -> None:
    """The longest run of fixed words of the line stands in the source as it is."""
    fixed_words = max(re.split(r"…|\(|\)|=", line), key=len).strip(" :,;")
    for package in ("api", "workers", "models", "enginefarm", "migrations"):
        for module in (CHECKOUT / package).rglob("*.py"):
            # A text that the source breaks into several literals is one text.
            if fixed_words in re.sub(r'"\s+f?"', "", module.read_text()):
                return
    pytest.fail(f"no module logs {fixed_words!r}")


def test_a_test_that_the_reliability_page_names_exists() -> None:
    named_tests = set(re.findall(r"`(test_\w+)`", (CHECKOUT / "docs" / "reliability.md").read_text()))
    tests: set[str] = set()
    for module in (CHECKOUT / "tests").rglob("test_*.py"):
        tests.update(re.findall(r"^ *def (test_\w+)", module.read_text(), re.MULTILINE))
    assert named_tests
    assert named_tests <= tests


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("decision", sorted((CHECKOUT / "docs" / "adr").glob("0*.md")), ids=lambda path: path.stem)
def test_a_decision_gives_context_options_decision_and_consequences(decision: Path) -> None:
    text = decision.read_text()
    assert text.startswith(f"# {decision.name[:4]}: ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Options", "Decision", "Consequences"]


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in (CHECKOUT / "docs" / "adr").glob("0*.md")]
    assert len(numbers) == len(set(numbers))
