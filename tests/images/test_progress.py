"""What is told about a build that runs, and what is left of one that fails."""

import io
import sys
from pathlib import Path

import pytest
from e2e.cluster.errors import ClusterError
from e2e.cluster.images_buildah import follow, how_far, size_of
from e2e.cluster.progress import Progress


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[4/5] STEP 2/5: COPY pyproject.toml /src/\n", "stage 4/5, step 2/5"),
        ("[5/5] COMMIT oci:/x/layout:operator-1\n", "writing the image"),
        ("#12 [operator-code 2/5] COPY api /src/api\n", "stage operator-code, step 2/5"),
        ("Step 24/28 : FROM operator-dependencies AS operator\n", "step 24/28"),
        ("--> 9571eda7edd\n", None),
        ("#12 CACHED\n", None),
    ],
)
def test_each_builder_tells_how_far_it_is(line: str, told: str | None) -> None:
    assert how_far(line) == told


def test_a_failed_build_shows_its_last_words_and_where_all_of_them_are(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "engine.log"
    script = "print('\\n'.join(map(str, range(1000)))); raise SystemExit('no space left')"
    screen = io.StringIO()
    with (
        pytest.raises(ClusterError, match="no space left") as raised,
        Progress(screen).step("Build the image engine") as step,
    ):
        follow([sys.executable, "-u", "-c", script], step, log)
    assert str(log) in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert log.read_text().startswith("0\n1\n")
    assert "Build the image engine" in screen.getvalue()


def test_a_storage_without_books_is_empty(tmp_path: Path) -> None:
    assert size_of(tmp_path) == 0
    books = tmp_path / "overlay-layers" / "layers.json"
    books.parent.mkdir()
    books.write_text('[{"id": "a", "diff-size": 7}, {"id": "b"}]')
    assert size_of(tmp_path) == 7
    books.write_text("{")
    assert size_of(tmp_path) == 0
