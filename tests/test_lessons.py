"""Running lessons: nothing committed is touched, failures are named, pages need no network."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from coursekit import lessons

TITLE = "# 00. Start & look\n\nThe noise axis $x_t = \\alpha_t x$, [a paper](https://arxiv.org/abs/2006.11239)."
FIGURE = (
    "import matplotlib.pyplot as plt\nfrom coursekit import plots\n"
    "plots.show(plt.figure(figsize=(2, 1)), alt='A figure that is \"empty\" & small.')"
)
PROGRESS = "import sys; from tqdm import tqdm\nfor _ in tqdm(range(3)): pass\nprint(sys.executable)"


def lesson(*sources: str) -> nbformat.NotebookNode:
    solution = new_code_cell("6 * 7", metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}})
    code = [new_code_cell(source) for source in sources]
    notes = new_markdown_cell("Ask the room.", metadata={"slideshow": {"slide_type": "notes"}})
    return new_notebook(
        cells=[new_markdown_cell(TITLE, metadata={"slideshow": {"slide_type": "slide"}}), *code, solution, notes]
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a lesson that runs and one that fails, and what `run` made of them."""
    folder = tmp_path_factory.mktemp("a folder")
    nbformat.write(lesson(FIGURE, PROGRESS), folder / "00_good.ipynb")
    bad = lesson("x = 1\n1 / 0", "print('later')")
    bad.cells[2].outputs = [new_output("stream", name="stdout", text="from an earlier run")]
    nbformat.write(bad, folder / "01_bad.ipynb")
    before = {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}
    outcomes = lessons.run(lessons.find_lessons(folder=folder), folder / "build")
    assert {path.name: path.read_bytes() for path in folder.glob("*.ipynb")} == before
    return outcomes


class Sources(HTMLParser):
    """Collects what a browser would fetch for a page, and its pictures' alternative texts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched, self.alts, self._inside = [], [], None
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._inside = tag
        if tag == "img":
            self.alts.append(attributes.get("alt"))
        if tag != "a":
            wanted = (attributes.get(name) for name in ("src", "href", "data", "srcset", "poster"))
            self.fetched += [url for url in wanted if url and not url.startswith("data:")]

    def handle_data(self, data):
        if self._inside == "style":
            self.fetched += re.findall(r"@import[^;]*|url\(['\"]?(?!data:|#)[^)]*\)", data)
        if self._inside == "script":
            self.fetched += re.findall(r"(?:https?:)?//[\w.]+\.\w+/[^'\"]*", data)

    def handle_endtag(self, tag):
        self._inside = None


def test_a_good_lesson_runs_and_a_bad_one_names_its_cell(built):
    good, bad = built
    assert (good.name, good.title, good.error) == ("00_good", "00. Start & look", None)
    assert good.seconds > 0
    assert bad.error == "cell [1], which begins 'x = 1': ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in bad.page.read_text()
    assert "from an earlier run" not in bad.page.read_text()
    assert "00_good" in lessons.report(built)
    assert "01_bad: cell [1]" in lessons.report(built)


def test_the_end_tells_what_to_open_and_gives_the_exit_code(built, capsys):
    assert lessons.conclude(built) == 1
    assert capsys.readouterr().out.rstrip().endswith(str(built[0].page.parent / "index.html"))
    assert lessons.conclude(built[:1]) == 0


def test_pages_fetch_nothing_but_the_file_beside_them(built):
    for page in [outcome.page for outcome in built]:
        fetched = Sources(page).fetched
        assert fetched == ["mathjax/tex-svg-full.js"]
        assert all((page.parent / source).is_file() for source in fetched)
    assert Sources(built[0].page.parent / "index.html").fetched == []


def test_the_parser_finds_outside_requests(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<script src='https://a.b/c.js'></script><link href='//d.e/f.css'>"
        "<style>@import 'g.css'; a{b:url(h.png)}</style>"
        "<script>import('https://i.j/k.mjs')</script><img src='data:image/png;base64,xx'><a href='https://l.m'>n</a>"
    )
    assert len(Sources(page).fetched) == 5


def test_figures_keep_their_alternative_text(built):
    assert Sources(built[0].page).alts == ['A figure that is "empty" & small.']


def test_solutions_and_speaker_notes_are_folded_and_can_be_opened(built):
    page = built[0].page.read_text()
    folded = re.search(r'<details class="solution"><summary>Worked solution</summary>(.*?)</details>', page, re.DOTALL)
    assert "42" in folded.group(1)
    notes = re.search(r'<details class="notes"><summary>For the lecturer</summary>(.*?)</details>', page, re.DOTALL)
    assert "Ask the room." in notes.group(1)
    assert page.count("<details") == 2


def test_the_kernel_is_this_python_whatever_is_registered_under_its_name(tmp_path, monkeypatch):
    impostor = tmp_path / "kernels" / "python3"
    impostor.mkdir(parents=True)
    spec = {"argv": [sys.executable, "-c", "raise SystemExit(1)"], "display_name": "another", "language": "python"}
    (impostor / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebook = lesson("import sys; print(sys.executable)")
    _, error = lessons.execute(notebook, tmp_path, "00_good")
    assert error is None
    assert notebook.cells[1].outputs[0].text == f"{sys.executable}\n"


def test_the_index_lists_every_lesson_with_its_result(built):
    index = (built[0].page.parent / "index.html").read_text()
    assert '<a href="00_good.html">00. Start &amp; look</a>' in index
    assert "ZeroDivisionError" in index


def test_refresh_writes_outputs_and_drops_what_changes(tmp_path):
    path = tmp_path / "00_good.ipynb"
    notebook = lesson(PROGRESS.replace("sys.executable", "2 + 2"))
    notebook.cells[1].metadata.update(tags=["nbval-ignore-output"], execution={"iopub.status.busy": "2020-01-01"})
    nbformat.write(notebook, path)
    (outcome,) = lessons.refresh([path])
    assert outcome.error is None
    after = nbformat.read(path, as_version=4)
    assert [cell.get("execution_count") for cell in after.cells] == [None, 1, 2, None]
    assert [output.text for output in after.cells[1].outputs] == ["4\n"]  # the progress bar on stderr is gone
    assert after.cells[1].metadata == {"tags": ["nbval-ignore-output"]}
    assert after.cells[0].metadata == {"slideshow": {"slide_type": "slide"}}
    assert "version" not in after.metadata.language_info
    first = path.read_bytes()
    lessons.refresh([path])
    assert path.read_bytes() == first


def test_refresh_leaves_a_failing_lesson_alone(tmp_path):
    path = tmp_path / "00_bad.ipynb"
    nbformat.write(lesson("1 / 0"), path)
    before = path.read_bytes()
    assert "ZeroDivisionError" in lessons.refresh([path])[0].error
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("source", "cell_seconds", "reason"),
    [("import time; time.sleep(60)", 2, "no end after 2 s"), ("import os; os._exit(1)", 60, "the kernel died")],
)
def test_a_stuck_and_a_dead_kernel_are_named(tmp_path, source, cell_seconds, reason):
    _, error = lessons.execute(lesson(source), tmp_path, "00_bad", cell_seconds)
    assert error.startswith("cell [1], which begins")
    assert reason in error


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_control_c_ends_the_run_and_not_only_a_lesson(tmp_path):
    for name in ("00_first", "01_second"):
        nbformat.write(lesson("open('started', 'w').close(); import time; time.sleep(60)"), tmp_path / f"{name}.ipynb")
    script = (
        "import sys; from pathlib import Path; from coursekit import lessons; folder = Path(sys.argv[1])\n"
        "lessons.run(lessons.find_lessons(folder=folder), folder / 'build')"
    )
    root = Path(lessons.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert message.rstrip().endswith("KeyboardInterrupt")
    assert not (tmp_path / "build" / "01_second.html").exists()


def test_lessons_are_found_in_order_and_by_the_start_of_their_names(tmp_path):
    for name in ("09_creating", "00_start", "scratch"):
        nbformat.write(new_notebook(), tmp_path / f"{name}.ipynb")
    assert [path.stem for path in lessons.find_lessons(folder=tmp_path)] == ["00_start", "09_creating"]
    assert [path.stem for path in lessons.find_lessons(["09"], tmp_path)] == ["09_creating"]
    with pytest.raises(ValueError, match="no lesson starts with '08'; there are 00_start, 09_creating"):
        lessons.find_lessons(["08"], tmp_path)


def test_a_folder_without_lessons_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="in a clone of the course"):
        lessons.find_lessons(folder=tmp_path)
