"""Run the lessons from the top, show each as a page, refresh the committed outputs.

`run` executes a copy of each notebook in a fresh kernel of the Python that runs this module, in the
notebook's own folder, and never writes to the notebook. What came out becomes an HTML page that asks no
other host for anything: maths is drawn by the MathJax file beside it. `refresh` executes in place; it is
the only way that committed outputs change.

Both need the extra `lab` (nbclient, nbconvert, nbformat).
"""

import html
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from tqdm import tqdm

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
STATIC = Path(__file__).resolve().parent / "static"
KEPT_CELL_METADATA = ("jupyter", "slideshow", "tags")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Outcome:
    """How one lesson went.

    Attributes:
        name: the notebook's file name without its ending, such as `08_destroying`.
        title: its first heading.
        seconds: wall-clock time of the execution.
        error: what stopped it, with the cell that did; `None` when every cell ran.
        page: the HTML page, where one was written.
    """

    name: str
    title: str
    seconds: float
    error: str | None = None
    page: Path | None = None


def find_lessons(names: Iterable[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """The lessons' notebooks in order; all of them, or those whose names start with one of `names`.

    Raises:
        FileNotFoundError: if the folder holds no notebook (an installed wheel has none: work in a clone).
        ValueError: if a name fits no lesson.
    """
    found = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no lesson NN_name.ipynb in {folder}; run this in a clone of the course")
    names = tuple(names)
    for name in names:
        if not any(path.stem.startswith(name) for path in found):
            raise ValueError(f"no lesson starts with {name!r}; there are {', '.join(p.stem for p in found)}")
    return [path for path in found if not names or path.stem.startswith(names)]


def run(paths: Sequence[Path], build: Path, cell_seconds: int | None = 900) -> list[Outcome]:
    """Execute a copy of every notebook and write its page and an index of all pages.

    A lesson that fails does not stop the next one; its page shows how far it came.

    Args:
        paths: the notebooks, which stay untouched.
        build: the folder for the pages, made if need be.
        cell_seconds: the longest that one cell may take; `None` for no limit.

    Returns:
        One outcome per notebook, in the same order.
    """
    build = Path(build)
    build.mkdir(parents=True, exist_ok=True)
    shutil.copytree(STATIC / "mathjax", build / "mathjax", dirs_exist_ok=True)
    outcomes = [_run_one(Path(path), build, cell_seconds) for path in paths]
    (build / "index.html").write_text(index_page(outcomes), encoding="utf-8")
    return outcomes


def refresh(paths: Sequence[Path], cell_seconds: int | None = 900) -> list[Outcome]:
    """Execute notebooks in place and drop what changes from run to run; a failing one stays as it was."""
    outcomes = []
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        seconds, error = execute(notebook, path.parent, path.stem, cell_seconds)
        if error is None:
            tidy(notebook)
            _replace(path, nbformat.writes(notebook) + "\n")
        outcomes.append(Outcome(path.stem, title_of(notebook, path.stem), seconds, error))
    return outcomes


def execute(
    notebook: NotebookNode, folder: Path, name: str, cell_seconds: int | None = 900
) -> tuple[float, str | None]:
    """Run all cells of `notebook` (changed in place) in a fresh kernel, with a progress bar on stderr.

    Returns:
        The seconds it took, and what went wrong (`None` if nothing did).
    """
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None  # nothing old may pass for new
    total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    started: list[NotebookNode] = []
    start = time.perf_counter()
    with tqdm(total=total, desc=name, unit="cell", file=sys.stderr, mininterval=0.5) as bar:
        client = NotebookClient(
            notebook,
            km=_kernel_of_this_python(),
            timeout=cell_seconds,
            startup_timeout=300,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no remark on loopback sockets
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=lambda cell, **_: started.append(cell),
            on_cell_executed=lambda **_: bar.update(),
        )
        error = _error_of(client, started)
    return time.perf_counter() - start, error


def tidy(notebook: NotebookNode) -> None:
    """Keep a notebook's slides, tags and comparable outputs; drop versions, widget state, progress bars."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET_VIEW, None)


def lesson_page(notebook: NotebookNode, title: str) -> str:
    """The notebook as one HTML page; its only companion is the folder `mathjax` beside it."""
    notebook.metadata["title"] = title
    exporter = HTMLExporter(
        template_name="lesson",
        extra_template_basedirs=[str(STATIC)],
        mathjax_url="mathjax/tex-svg-full.js",
    )
    return exporter.from_notebook_node(notebook)[0]


def index_page(outcomes: Sequence[Outcome]) -> str:
    """The list of lessons as HTML, with the time and the result of each."""
    rows = "\n".join(
        f'<tr><td><a href="{outcome.name}.html">{html.escape(outcome.title)}</a></td>'
        f"<td>{outcome.seconds:.0f} s</td><td>{html.escape(outcome.error or 'ran to the end')}</td></tr>"
        for outcome in outcomes
    )
    return (STATIC / "index.html").read_text(encoding="utf-8").replace("{{ rows }}", rows)


def report(outcomes: Sequence[Outcome]) -> str:
    """A table with the time and the result of each lesson, then the error of each that failed.

    Example:
        >>> print(report([Outcome("00_start", "Start here", 3.2), Outcome("01_two", "Two", 61.0, "cell [2]: no")]))
        lesson    seconds  result
        00_start        3  ran to the end
        01_two         61  FAILED
        <BLANKLINE>
        01_two: cell [2]: no
    """
    width = max([len("lesson"), *(len(outcome.name) for outcome in outcomes)])
    lines = [f"{'lesson':{width}}  seconds  result"]
    for outcome in outcomes:
        result = "FAILED" if outcome.error else "ran to the end"
        lines.append(f"{outcome.name:{width}}  {outcome.seconds:7.0f}  {result}")
    failures = [f"\n{outcome.name}: {outcome.error}" for outcome in outcomes if outcome.error]
    return "\n".join(lines + failures)


def conclude(outcomes: Sequence[Outcome]) -> int:
    """Print the report and the page to open; return the exit code, 1 if a lesson failed."""
    print(report(outcomes))
    pages = [outcome.page for outcome in outcomes if outcome.page]
    if pages:
        print(f"\nOpen {pages[0].resolve().parent / 'index.html'}")
    return int(any(outcome.error for outcome in outcomes))


def title_of(notebook: NotebookNode, default: str) -> str:
    """The first heading of a notebook, without Markdown signs."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ").strip()
    return default


def _run_one(path: Path, build: Path, cell_seconds: int | None) -> Outcome:
    notebook = nbformat.read(path, as_version=4)
    title = title_of(notebook, path.stem)
    seconds, error = execute(notebook, path.parent, path.stem, cell_seconds)
    page = build / f"{path.stem}.html"
    page.write_text(lesson_page(notebook, title), encoding="utf-8")
    return Outcome(path.stem, title, seconds, error, page)


def _kernel_of_this_python() -> AsyncKernelManager:
    """A kernel of `sys.executable`, whatever kernels are registered under the same name elsewhere."""
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))


def _error_of(client: NotebookClient, started: Sequence[NotebookNode]) -> str | None:
    """Execute, and turn what stops a notebook into one line that names the cell."""
    try:
        client.execute(cleanup_kc=True)
    except Exception as error:
        if hasattr(client, "_async_cleanup_kernel_future"):  # Ctrl-C: nbclient has shut the kernel down
            raise KeyboardInterrupt from None
        return f"{_where(started)}: {_reason(error, client.timeout)}"
    return None


def _reason(error: Exception, cell_seconds: int | None) -> str:
    """What stopped a cell, in a line; an error that no cell caused is raised again."""
    match error:
        case CellExecutionError():
            return f"{error.ename}: {error.evalue}"
        case CellTimeoutError():
            return f"no end after {cell_seconds} s"
        case DeadKernelError():
            return "the kernel died (out of memory?)"
        case RuntimeError():
            return f"the kernel did not start: {error}"
    raise error


def _where(started: Sequence[NotebookNode]) -> str:
    """The cell that was the last to start, by its number and its first line."""
    if not started:
        return "before the first cell"
    return f"cell [{len(started)}], which begins {started[-1].source.strip().splitlines()[0]!r}"


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename, so that a cut leaves the old one whole."""
    temporary = path.with_suffix(".ipynb.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
