"""The form that every lesson keeps: each law is a function from a notebook to what breaks it.

A second test breaks an exemplary lesson on purpose, once per law, so that no law is empty.
"""

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from coursekit.lessons import KEPT_CELL_METADATA, WIDGET_VIEW

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LAWS: dict[str, Callable[[NotebookNode], Iterator[str]]] = {}


def law(function):
    LAWS[function.__name__] = function
    return function


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def begin(cell: NotebookNode) -> str:
    return repr(cell.source.strip().split("\n")[0][:60])


def tree(cell: NotebookNode) -> ast.Module:
    """The cell's Python, without the lines that only IPython understands."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE))


def texts(cell: NotebookNode) -> str:
    """What a cell printed or returned as plain text."""
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def has_ellipsis(cell: NotebookNode) -> bool:
    return any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(tree(cell)))


def is_start(notebook: NotebookNode) -> bool:
    """Lesson 00 has no exercises."""
    return markdown(notebook).startswith("# 00")


@law
def cells_ran_in_order(notebook):
    """`nbval` compares nothing in a cell without a number."""
    cells = [cell for cell in code_cells(notebook) if "nbval-skip" not in tags(cell)]
    for number, cell in enumerate(cells, start=1):
        if cell.execution_count != number:
            yield f"{begin(cell)} has number {cell.execution_count}, not {number}"


@law
def no_cell_failed(notebook):
    for cell in code_cells(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed and not tags(cell) & {"raises-exception", "nbval-raises-exception"}:
            yield f"{begin(cell)} ended in an error"


@law
def no_cell_is_empty_or_longer_than_25_lines(notebook):
    for cell in code_cells(notebook):
        length = sum(bool(line.strip()) for line in cell.source.splitlines())
        if not 0 < length <= 25:
            yield f"{begin(cell)} has {length} lines"


@law
def no_function_is_longer_than_15_lines(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 15:
                yield f"{node.name} has {node.end_lineno - node.lineno + 1} lines: it belongs in coursekit"


@law
def the_first_code_cell_seeds_and_sets_the_style(notebook):
    first = code_cells(notebook)[0].source
    for wanted in ("seed_everything(", "set_style()"):
        if wanted not in first:
            yield f"the first code cell does not call {wanted}"


@law
def figures_are_png_with_alternative_text(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            kinds = output.get("data", {}).keys()
            if "image/svg+xml" in kinds:
                yield f"{begin(cell)} gives SVG, which differs between versions"
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            if "image/png" in kinds and len(alt.split()) < 4:
                yield f"{begin(cell)} shows a figure with the text {alt!r}: use plots.show(fig, alt=...)"


@law
def a_lecture_of_15_to_30_slides_with_notes(notebook):
    types = [cell.metadata.get("slideshow", {}).get("slide_type", "") for cell in notebook.cells]
    slides = sum(kind in ("slide", "subslide") for kind in types)
    if not 15 <= slides <= 30:
        yield f"{slides} slides"
    if "notes" not in types:
        yield "no speaker notes"
    if types[0] != "slide":
        yield "the first cell is no slide"


@law
def one_title_at_the_top(notebook):
    prose = re.sub(r"^```.*?^```", "", markdown(notebook), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^# .+", prose, flags=re.MULTILINE)
    if len(titles) != 1 or not notebook.cells[0].source.startswith("# "):
        yield f"titles {titles}"


@law
def three_to_five_exercises_with_check_hint_and_solution(notebook):
    if is_start(notebook):
        return
    cells = code_cells(notebook)
    solutions = [cell for cell in cells if "solution" in tags(cell)]
    untried = sum(texts(cell).count("not tried yet") for cell in cells)
    if not 3 <= untried <= 5:
        yield f"{untried} stubs say 'not tried yet', 3 to 5 are wanted"
    if sum(has_ellipsis(cell) for cell in cells if cell not in solutions) < untried:
        yield "fewer stubs with `...` than checks"
    if len(re.findall(r"<summary>\s*Hint", markdown(notebook))) < untried:
        yield "fewer folded hints than exercises"
    if sum(texts(cell).count("correct: ") for cell in solutions) < untried:
        yield "fewer worked solutions that their checks call correct than exercises"
    for cell in solutions:
        if not cell.metadata.get("jupyter", {}).get("source_hidden"):
            yield f"the solution {begin(cell)} is not hidden"


@law
def most_outputs_are_compared_and_the_others_assert(notebook):
    ignored = [cell for cell in code_cells(notebook) if "nbval-ignore-output" in tags(cell)]
    if len(ignored) > len(code_cells(notebook)) / 3:
        yield f"{len(ignored)} of {len(code_cells(notebook))} code cells are not compared"
    for cell in ignored:
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(tree(cell))) or "assert_" in cell.source
        if not asserts:
            yield f"{begin(cell)} is not compared and asserts nothing"
    for cell in notebook.cells:
        if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source) or "nbval-skip" in tags(cell):
            yield f"{begin(cell)} hides from the comparison"


@law
def nothing_names_a_place_on_one_machine(notebook):
    for cell in notebook.cells:
        text = cell.source + (texts(cell) if cell.cell_type == "code" else "")
        for place in re.findall(r"(?<![\w./:])/(?:home|root|work|tmp|Users|usr|opt|mnt)/\S*|\b[A-Z]:\\\w+", text):
            yield f"{begin(cell)} names {place}"
        for address in re.findall(r" at 0x[0-9a-f]{6,}", text):
            yield f"{begin(cell)} prints an address{address}"


@law
def references_have_arxiv_numbers(notebook):
    if not re.search(r"arXiv[:\s]*\d{4}\.\d{4,5}|arxiv\.org/abs/", markdown(notebook)):
        yield "no reference with an arXiv number"


@law
def markdown_is_what_jupyterlab_shows(notebook):
    for found in re.findall(r"^(?:```\{\w+.*|:::.*|\{\w+\}`.*)", markdown(notebook), flags=re.MULTILINE):
        yield f"{found!r} shows raw in JupyterLab"
    if markdown(notebook).count("<details>") != markdown(notebook).count("</details>"):
        yield "a <details> is not closed"


@law
def outputs_come_from_make_refresh(notebook):
    if "version" in notebook.metadata.get("language_info", {}) or "widgets" in notebook.metadata:
        yield "metadata holds versions or widgets: run `make refresh`"
    for cell in notebook.cells:
        if extra := set(cell.metadata) - set(KEPT_CELL_METADATA):
            yield f"{begin(cell)} has metadata {sorted(extra)}: run `make refresh`"
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" or WIDGET_VIEW in output.get("data", {}):
                yield f"{begin(cell)} holds a progress bar or a widget: run `make refresh`"


def exemplary() -> NotebookNode:
    """The smallest lesson that keeps every law."""

    def prose(source: str, kind: str) -> NotebookNode:
        return new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})

    def code(source: str, text: str = "", metadata: dict | None = None) -> NotebookNode:
        output = new_output("execute_result", data={"text/plain": text}, execution_count=1)
        return new_code_cell(source, metadata=metadata or {}, outputs=[output] if text else [])

    figure = new_output(
        "display_data",
        data={"image/png": "aGk=", "text/plain": "alt"},
        metadata={"image/png": {"alt": "Points on two moons, apart."}},
    )
    cells = [prose("# 99. An example\n\nHo et al. 2020, arXiv:2006.11239", "slide"), prose("Say this.", "notes")]
    cells += [prose(f"## Part {i}", "slide") for i in range(15)]
    cells += [code("import coursekit\ncoursekit.seed_everything(0)\nplots.set_style()")]
    cells += [new_code_cell("plots.show(fig, alt='...')", outputs=[figure])]
    cells += [code("seconds = 3.1\nassert seconds < 90\nseconds", "3.1", {"tags": ["nbval-ignore-output"]})]
    hidden = {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    for number in range(3):
        cells += [code(f"answer = ...\ncheck{number}(answer)", "not tried yet: replace the ...")]
        cells += [prose("<details><summary>Hint</summary>\n\nLook.\n\n</details>", "skip")]
        cells += [code(f"solved = 3\ncheck{number}(solved)", "correct: it is three", hidden)]
    notebook = new_notebook(cells=cells)
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = number
    return notebook


def first_code(notebook):
    return code_cells(notebook)[0]


def last_code(notebook):
    return code_cells(notebook)[-1]


BREAKS: dict[str, list[Callable[[NotebookNode], object]]] = {
    "cells_ran_in_order": [
        lambda n: first_code(n).update(execution_count=None),
        lambda n: last_code(n).update(execution_count=99),
    ],
    "no_cell_failed": [
        lambda n: last_code(n).outputs.append(new_output("error", ename="E", evalue="no", traceback=[]))
    ],
    "no_cell_is_empty_or_longer_than_25_lines": [
        lambda n: last_code(n).update(source="x = 1\n" * 26),
        lambda n: last_code(n).update(source=" \n"),
    ],
    "no_function_is_longer_than_15_lines": [
        lambda n: last_code(n).update(source="%matplotlib inline\ndef f():\n" + "    x = 1\n" * 15)
    ],
    "the_first_code_cell_seeds_and_sets_the_style": [
        lambda n: first_code(n).update(source="plots.set_style()"),
        lambda n: first_code(n).update(source="coursekit.seed_everything(0)"),
    ],
    "figures_are_png_with_alternative_text": [
        lambda n: code_cells(n)[1].outputs[0].update(metadata={}),
        lambda n: code_cells(n)[1].outputs[0].data.update({"image/svg+xml": "<svg/>"}),
    ],
    "a_lecture_of_15_to_30_slides_with_notes": [
        lambda n: n.cells[0].update(metadata={}),
        lambda n: n.cells[1].update(metadata={}),
        lambda n: [cell.update(metadata={}) for cell in n.cells[2:6]],
        lambda n: n.cells.extend(copy.deepcopy(n.cells[2:17])),
    ],
    "one_title_at_the_top": [
        lambda n: n.cells[3].update(source="# Another title"),
        lambda n: n.cells.reverse(),
    ],
    "three_to_five_exercises_with_check_hint_and_solution": [
        lambda n: n.cells.pop(-3),
        lambda n: n.cells[-3].update(source="check(3)"),
        lambda n: n.cells.pop(-2),
        lambda n: n.cells.pop(-1),
        lambda n: n.cells[-1].metadata.pop("jupyter"),
        lambda n: n.cells[-1].update(outputs=[]),
    ],
    "most_outputs_are_compared_and_the_others_assert": [
        lambda n: code_cells(n)[2].update(source="seconds"),
        lambda n: [cell.metadata.update(tags=["nbval-ignore-output"]) for cell in code_cells(n)[1:7]],
        lambda n: last_code(n).update(source="# NBVAL_IGNORE_OUTPUT\n1"),
        lambda n: last_code(n).metadata.update(tags=["nbval-skip"]),
    ],
    "nothing_names_a_place_on_one_machine": [
        lambda n: last_code(n).update(source="open('/home/me/animals.npz')"),
        lambda n: last_code(n).outputs[0].data.update({"text/plain": "<Generator at 0x7f3a2b1c4d>"}),
        lambda n: n.cells[0].update(source="see C:\\Users"),
    ],
    "references_have_arxiv_numbers": [lambda n: n.cells[0].update(source="# 99. An example\n\nHo et al. 2020")],
    "markdown_is_what_jupyterlab_shows": [
        lambda n: n.cells[3].update(source="```{note}\nhi\n```"),
        lambda n: n.cells[3].update(source=":::{hint}\nhi\n:::"),
        lambda n: n.cells[3].update(source="<details> open for ever"),
    ],
    "outputs_come_from_make_refresh": [
        lambda n: n.metadata.update(language_info={"name": "python", "version": "3.11.7"}),
        lambda n: last_code(n).metadata.update(execution={}),
        lambda n: last_code(n).outputs.append(new_output("stream", name="stderr", text="50 %")),
    ],
}


def test_there_are_lessons_and_only_lessons():
    assert NOTEBOOKS
    assert all(re.fullmatch(r"\d\d_[a-z_]+\.ipynb", path.name) for path in NOTEBOOKS)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_keeps_the_law(path, name):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert list(LAWS[name](notebook)) == []


@pytest.mark.parametrize("name", LAWS)
def test_the_exemplary_lesson_keeps_the_law(name):
    assert list(LAWS[name](exemplary())) == []


@pytest.mark.parametrize(("name", "number"), [(name, i) for name in LAWS for i in range(len(BREAKS.get(name, [0])))])
def test_a_broken_lesson_breaks_the_law(name, number):
    notebook = exemplary()
    BREAKS[name][number](notebook)
    assert list(LAWS[name](notebook)) != []


def test_nbval_compares_what_is_printed_but_no_progress_bars(tmp_path):
    """With the options of `make notebooks` and the repository's conftest."""
    printed = new_output("stream", name="stdout", text="4\n")
    bar = new_output("stream", name="stderr", text="50 %\n")
    source = "import sys; print('100 %', file=sys.stderr); print(2 + 2)"
    books = {
        "same": new_code_cell(source, outputs=[printed, bar], execution_count=1),
        "other": new_code_cell(source.replace("2 + 2", "2 + 3"), outputs=[printed, bar], execution_count=1),
    }
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    for name, cell in books.items():
        nbformat.write(new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    options = ["--nbval", "--nbval-current-env", "-q", "-rA", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    report = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout
    assert "PASSED same.ipynb" in report
    assert "FAILED other.ipynb" in report
