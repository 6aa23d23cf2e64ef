"""Certificates: what is written reads back, what was changed is named, whatever the bytes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy.evaluation import provenance, schema
from diffpolicy.evaluation.certificate import (
    CertificateError,
    check,
    digest,
    read_certificate,
    write_certificate,
)

HASH = "0123456789abcdef" * 4


def write(evaluation: Any, path: Path, **changes: Any) -> Path:
    options: dict[str, Any] = {
        "data_hash": HASH,
        "weights_hashes": {arm.name: [HASH] * 3 for arm in evaluation.arms},
        "command": ["diffpolicy", "evaluate", "run=/home/somebody/runs/a", "task=BallCircle"],
        "manifest": {"arm": "fisor", "sizes": [256, 256]},
    }
    return write_certificate(evaluation, path, **{**options, **changes})


@pytest.fixture(scope="module")
def document(evaluation: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write(evaluation, tmp_path_factory.mktemp("certificate") / "certificate.json")
    return read_certificate(path).document


def resealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document as a forger would leave it: with a digest that fits."""
    return {**document, "digest": digest(document)}


def test_round_trip(evaluation: Any, tmp_path: Path) -> None:
    path = write(evaluation, tmp_path / "new" / "certificate.json")
    certificate = read_certificate(path)
    assert certificate.evaluation == evaluation
    assert list(path.parent.iterdir()) == [path]
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert "somebody" not in text
    assert certificate.document["command"] == "diffpolicy evaluate run=a task=BallCircle"


def test_the_published_schema_is_the_one_in_use() -> None:
    published = Path(__file__).parents[2] / "docs" / "certificate.schema.json"
    assert json.loads(published.read_text()) == schema.SCHEMA


def test_provenance_is_in_words(document: dict[str, Any]) -> None:
    assert document["machine"].keys() == {"cpu", "cores", "accelerator", "system"}
    assert document["versions"]["torch"]
    assert len(document["code"]["sha256"]) == 64


def test_the_hash_of_sources_sees_every_change(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    first = provenance.sources_hash([package])
    (package / "a.py").write_text("x = 2\n")
    second = provenance.sources_hash([package])
    (package / "a.py").rename(package / "b.py")
    assert len({first, second, provenance.sources_hash([package])}) == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("arms", 1, "episodes", 0, 3, "episode_cost"), 0.5, "arms.FISOR.summary.cost.mean"),
        (
            ("arms", 1, "summary", "normalized_return", "iqm"),
            0.99,
            "arms.FISOR.summary.normalized_return.iqm",
        ),
        (("arms", 2, "summary", "limits", 0, "safe"), True, r"arms.reward only.summary.limits\[0\].safe"),
        (("arms", 2, "summary", "limits", 0, "exceeded"), 0, r"limits\[0\].exceeded"),
        (("differences", 0, "cost", "mean_interval", 1), -9.0, r"differences\[0\].cost.mean_interval\[1\]"),
        (("arms", 0, "weights"), [HASH], r"arms\[0\].weights"),
        (("arms", 0, "name"), "FISOR", r"arms\[1\].name"),
        (("protocol", "reference"), "nobody", "reference arm"),
        (("protocol", "episodes"), 21, r"arms\[0\].episodes"),
        (("protocol", "limits"), [10], "summary.limits"),
        (("task",), "OfflineBallCirlce-v0", "task: "),
        (("task",), "OfflineBallRun-v0", "normalized_return"),
        (("schema",), "diffpolicy.certificate/9", "schema: "),
        (("machine", "host"), "somebody", "machine: the field 'host' is not known"),
        (("code", "commit"), "main", "code.commit"),
        (("arms", 0, "episodes", 0, 0, "terminated"), 0, r"arms\[0\].episodes\[0\]\[0\].terminated"),
        (("arms", 0, "episodes", 0, 0, "episode_return"), 10**400, "finite"),
    ],
)
def test_tampering_is_named(
    document: dict[str, Any], path: tuple[Any, ...], value: Any, message: str
) -> None:
    forged = copy.deepcopy(document)
    place = forged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CertificateError, match=message):
        check(resealed(forged))


def test_the_digest_covers_what_cannot_be_recomputed(document: dict[str, Any]) -> None:
    forged = {**document, "data": {"sha256": HASH[::-1]}}
    with pytest.raises(CertificateError, match="digest"):
        check(forged)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not a JSON document"),
        (b'{"schema": NaN}', "NaN"),
        (b"\xff\xfe\x00", "not a JSON document"),
        (b"[" * 100_000, "not a JSON document"),
        (b"[]", "expected object"),
        (b"{}", "'schema' is missing"),
    ],
)
def test_malformed_files(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(contents)
    with pytest.raises(CertificateError, match=message):
        read_certificate(path)


def test_a_number_beyond_all_floats_is_named(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(document).replace('"sizes": [256', '"sizes": [1e999'))
    with pytest.raises(CertificateError, match=r"manifest.sizes\[0\]: is inf"):
        read_certificate(path)


def test_missing_file_and_folder_in_the_way(evaluation: Any, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="cannot be read"):
        read_certificate(tmp_path / "certificate.json")
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match="cannot be written"):
        write(evaluation, tmp_path / "file" / "certificate.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_hash": "abc"}, "data.sha256"),
        ({"weights_hashes": {}}, "weights_hashes"),
        ({"manifest": {"loss": float("nan")}}, "JSON"),
        ({"manifest": {"path": Path("x")}}, "JSON"),
    ],
)
def test_writing_bad_provenance_leaves_no_file(
    evaluation: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CertificateError, match=message):
        write(evaluation, tmp_path / "certificate.json", **changes)
    assert not any(tmp_path.iterdir())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a document, but to the first few entries of long lists only."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    return [here, *(place for key, child in children for place in places(child, (*here, key)))]


@settings(deadline=None)
@given(st.data())
def test_any_change_is_refused_with_a_certificate_error(
    document: dict[str, Any], data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(places(document)[1:]))
    changed = copy.deepcopy(document)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()):
        del parent[place[-1]]
    else:
        parent[place[-1]] = data.draw(JSON)
    if json.dumps(changed) == json.dumps(document):
        return
    with pytest.raises(CertificateError):
        check(changed)


@settings(deadline=None)
@given(JSON)
def test_any_json_is_refused_with_a_certificate_error(value: Any) -> None:
    with pytest.raises(CertificateError):
        check(value)


@settings(deadline=None)
@given(st.data())
def test_any_broken_bytes_are_refused(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    contents = json.dumps(document).encode()
    cut = data.draw(st.integers(0, len(contents) - 1))
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(contents[:cut] + data.draw(st.binary(max_size=8)))
    with pytest.raises(CertificateError):
        read_certificate(path)
