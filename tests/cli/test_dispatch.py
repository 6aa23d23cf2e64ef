"""The overview, the verbs, and what becomes of errors."""

import subprocess
import sys

import pytest

from diffpolicy import __version__
from diffpolicy.cli.verbs import VERBS


def test_help_names_every_verb_with_its_line(command):
    status, out, _ = command("--help")
    assert status == 0
    for name, verb in VERBS.items():
        assert f"{name:<10} {verb.help}" in out


def test_no_words_is_a_wrong_command_that_shows_the_help(command):
    status, out, _ = command()
    assert status == 2
    assert "train" in out


def test_version(command):
    assert command("--version") == (0, f"diffpolicy {__version__}\n", "")


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "'train'"), ("eval", "'evaluate'"), ("benchmrak", "'benchmark'")]
)
def test_unknown_verb_names_the_nearest(command, typed, meant):
    status, _, err = command(typed)
    assert status == 2
    assert meant in err


def test_unknown_verb_like_no_other_lists_them(command):
    assert "demo, collect, data" in command("xyzzy")[2]


def test_overview_imports_neither_torch_nor_hydra():
    code = (
        "import sys; from diffpolicy.cli.dispatch import dispatch; dispatch(['--help']);"
        "print(sorted({'torch', 'hydra', 'gymnasium', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_an_error_of_the_packages_is_one_line(command):
    assert command("trivial", "fails=user") == (1, "", "error: rewards: has 3 rows\n")


def test_an_error_of_the_operating_system_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = command("trivial", f"run={tmp_path}/file/run")
    assert status == 1
    assert err.startswith("error: ")
    assert "Not a directory" in err
    assert err.count("\n") == 1


def test_a_missing_package_is_named_with_its_cure(command):
    status, _, err = command("trivial", "fails=missing")
    assert status == 1
    assert "'stable_baselines3' is missing: run `make setup`" in err


def test_an_interruption_says_how_to_go_on(command, tmp_path):
    status, _, err = command("trivial", "run=here", "fails=interrupt")
    assert status == 130
    assert err.splitlines()[-1].endswith(f"run={tmp_path / 'here'}")


def test_a_defect_keeps_its_traceback(command):
    with pytest.raises(KeyError, match="a defect"):
        command("trivial", "fails=defect")


@pytest.mark.parametrize("switch", ["DIFFPOLICY_DEBUG", "HYDRA_FULL_ERROR"])
def test_debugging_keeps_every_traceback(command, monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    with pytest.raises(ValueError, match="3 rows"):
        command("trivial", "fails=user")
