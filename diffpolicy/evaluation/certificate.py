"""The certificate: one JSON file of every episode, the summary anyone can recompute, and the provenance."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import envs
from diffpolicy.evaluation import provenance, schema
from diffpolicy.evaluation.protocol import Evaluation, judge
from diffpolicy.evaluation.rollout import Episode
from diffpolicy.evaluation.statistics import CONFIDENCE
from diffpolicy.evaluation.summary import RULE, EvaluationError


class CertificateError(Exception):
    """A certificate that cannot be written, read or believed; the message names the field."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate read and checked: the evaluation recomputed from its episodes, and the document."""

    evaluation: Evaluation
    document: dict[str, Any]


def write_certificate(
    evaluation: Evaluation,
    path: str | Path,
    *,
    data_hash: str,
    weights_hashes: Mapping[str, Sequence[str]],
    command: Sequence[str],
    manifest: Mapping[str, Any],
) -> Path:
    """Write certificate.json and return its path; it appears whole or not at all.

    `data_hash` is the dataset's SHA-256, `weights_hashes` maps each arm to the SHA-256 of its model per
    training seed, `command` is the argument list that made it (absolute paths are cut to their last part),
    `manifest` is the checkpoint's. Code, versions and machine are found out here. Raises CertificateError.
    """
    arms = []
    for arm in evaluation.arms:
        if arm.name not in weights_hashes:
            raise CertificateError(f"weights_hashes: there is none for the arm {arm.name!r}")
        entry = asdict(arm)
        entry["episodes"] = [[_judged(episode) for episode in row] for row in entry["episodes"]]
        weights = list(weights_hashes[arm.name])
        arms.append({"name": arm.name, "weights": weights, **entry})
    document = {
        "schema": schema.VERSION,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "task": evaluation.task,
        "protocol": {
            "seed": evaluation.seed,
            "episodes": evaluation.episodes,
            "limits": evaluation.limits,
            "reference": evaluation.reference,
            "confidence": CONFIDENCE,
            "rule": RULE,
        },
        "data": {"sha256": data_hash},
        "code": provenance.code(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "command": provenance.portable_command(command),
        "manifest": dict(manifest),
        "arms": arms,
        "differences": [asdict(difference) for difference in evaluation.differences],
    }
    try:
        document["digest"] = digest(document)
        text = json.dumps(document, allow_nan=False, indent=1)
    except (TypeError, ValueError) as error:
        raise CertificateError(f"the certificate cannot be written as JSON: {error}") from error
    check(json.loads(text))
    return _write(Path(path), text)


def read_certificate(path: str | Path) -> Certificate:
    """Read a certificate, check every field, recompute its summary from its episodes and compare.

    Raises CertificateError, naming the field, for a file that is missing, malformed or was changed by hand.
    """
    where = Path(path)
    try:
        document = json.loads(where.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise CertificateError(f"{where.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{where.name} is not a JSON document: {error}") from error
    try:
        return Certificate(check(document), document)
    except CertificateError as error:
        raise CertificateError(f"{where.name}: {error}") from error
    except RecursionError as error:
        raise CertificateError(f"{where.name}: manifest: is nested too deeply") from error


def check(document: Any) -> Evaluation:
    """The evaluation that a document states, recomputed; CertificateError if anything disagrees."""
    found = schema.problem(document)
    if found is not None:
        raise CertificateError(found)
    evaluation = _recompute(document)
    for arm, stated in zip(evaluation.arms, document["arms"], strict=True):
        _compare(json.loads(json.dumps(asdict(arm.summary))), stated["summary"], f"arms.{arm.name}.summary")
    recomputed = json.loads(json.dumps([asdict(difference) for difference in evaluation.differences]))
    _compare(recomputed, document["differences"], "differences")
    if document["digest"] != digest(document):
        raise CertificateError("digest: does not match; the file was changed after it was written")
    return evaluation


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the document without its digest, in canonical form (sorted keys, no spaces).

    It shows a slip or a careless edit, not a forger: who changes the file can also change the digest.
    """
    body = {key: value for key, value in document.items() if key != "digest"}
    canonical = json.dumps(body, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _recompute(document: dict[str, Any]) -> Evaluation:
    protocol = document["protocol"]
    try:
        task = envs.task(document["task"])
    except envs.UnknownTaskError as error:
        raise CertificateError(f"task: {error}") from error
    played: dict[str, tuple[tuple[Episode, ...], ...]] = {}
    for index, arm in enumerate(document["arms"]):
        where = f"arms[{index}]"
        if arm["name"] in played:
            raise CertificateError(f"{where}.name: {arm['name']!r} is there twice")
        if len(arm["weights"]) != len(arm["episodes"]):
            raise CertificateError(f"{where}.weights: one SHA-256 per training seed is needed")
        if any(len(row) != protocol["episodes"] for row in arm["episodes"]):
            raise CertificateError(f"{where}.episodes: not {protocol['episodes']} per training seed")
        played[arm["name"]] = tuple(tuple(_episode(entry) for entry in row) for row in arm["episodes"])
    limits, reference = protocol["limits"], protocol["reference"]
    try:
        return judge(task, played, seed=protocol["seed"], limits=limits, reference=reference)
    except (EvaluationError, ValueError) as error:
        raise CertificateError(f"arms: {error}") from error


def _judged(entry: dict[str, Any]) -> dict[str, Any]:
    """What the protocol judges of an episode; an episode knows more (best reward, evaluations ...)."""
    return {key: entry[key] for key in schema.EPISODE["properties"]}


def _episode(entry: dict[str, Any]) -> Episode:
    sums = {key: float(entry[key]) for key in ("episode_return", "episode_cost")}
    return Episode(**{**entry, **sums})


def _compare(expected: Any, stated: Any, where: str) -> None:
    """CertificateError naming the first field in which `stated` differs from `expected`."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            _compare(value, stated[key], f"{where}.{key}")
    elif isinstance(expected, list):
        if len(expected) != len(stated):
            raise CertificateError(f"{where}: has {len(stated)} entries, the episodes give {len(expected)}")
        for index, value in enumerate(expected):
            _compare(value, stated[index], f"{where}[{index}]")
    elif isinstance(expected, float):
        if not math.isclose(expected, stated, rel_tol=1e-6, abs_tol=1e-9):
            raise CertificateError(f"{where}: is {stated}, but the episodes give {expected}")
    elif expected != stated:
        raise CertificateError(f"{where}: is {stated!r}, but the episodes give {expected!r}")


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CertificateError(
            f"{path.name} cannot be written: {error.strerror}; name another folder"
        ) from error
    return path


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON number")
