"""Site files: which one is selected, its values, and the message for each mistake."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from roundhouse.config.site import Site, load_site
from roundhouse.errors import RoundhouseError
from roundhouse.schema import keys_of

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "site_file.md").read_text(encoding="utf-8")


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(textwrap.dedent(text))


def test_without_a_site_file_that_matches_the_defaults_are_used(tmp_path: Path) -> None:
    write(tmp_path, "cluster", "hosts: [login*]\n")
    assert load_site(None, tmp_path, "laptop") == Site()
    assert load_site(None, tmp_path / "none", "laptop") == Site()
    assert (Site().name, Site().scheduler, Site().command_limit) == ("default", "auto", 60)


@pytest.mark.parametrize("hostname", ["login3", "login3.cluster.example", "LOGIN3.cluster.example"])
@pytest.mark.parametrize("pattern", ["login?", "Login[1-3]*"])
def test_the_site_whose_pattern_matches_the_local_host_is_selected(tmp_path: Path, hostname: str, pattern: str) -> None:
    write(tmp_path, "cluster", f"hosts: [other, '{pattern}']\nscheduler: pbs\n")
    write(tmp_path, "elsewhere", "hosts: [node3]\n")
    site = load_site(None, tmp_path, hostname)
    assert (site.name, site.scheduler) == ("cluster", "pbs")


def test_two_sites_that_match_are_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, "first", "hosts: ['login*']\n")
    write(tmp_path, "second", "hosts: ['*1']\n")
    with pytest.raises(RoundhouseError, match="first and second .* login1: choose one with --site"):
        load_site(None, tmp_path, "login1")
    assert load_site("second", tmp_path, "login1").name == "second"


def test_the_message_for_an_unknown_site_names_the_nearest_and_all_that_exist(tmp_path: Path) -> None:
    write(tmp_path, "lengau", "")
    write(tmp_path, "hex", "")
    with pytest.raises(RoundhouseError, match="no site 'lenguo' .* did you mean 'lengau'.* hex, lengau"):
        load_site("lenguo", tmp_path, "x")
    with pytest.raises(RoundhouseError, match="no site file"):
        load_site("lengau", tmp_path / "none", "x")


def test_values_of_the_environment_become_text(tmp_path: Path) -> None:
    write(tmp_path, "x", "environment: {A: 1, B: 1.5, C: $HOME, D: '007'}\n")
    assert load_site("x", tmp_path, "h").environment == {"A": "1", "B": "1.5", "C": "$HOME", "D": "007"}


def test_paths_can_contain_variables_of_the_host_where_the_site_is_selected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "x", "hosts: [here]\npython: ~/bin/python\ndata: $SCRATCH/sets\n")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SCRATCH", raising=False)
    assert load_site(None, tmp_path, "elsewhere") == Site()
    with pytest.raises(RoundhouseError, match=r"x.yaml:3: data: '\$SCRATCH/sets' names a variable that is not set"):
        load_site(None, tmp_path, "here")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    site = load_site(None, tmp_path, "here")
    assert (site.python, site.data) == ("/home/me/bin/python", "/scratch/me/sets")


def test_all_mistakes_are_reported_together_each_with_its_line(tmp_path: Path) -> None:
    text = """\
        schedular: pbs                    #! unknown key 'schedular': did you mean 'scheduler'?
        scheduler: lsf                    #! 'slurm', 'pbs'
        hosts: login1                     #! a list, not 'login1'
        queue: a b                        #! 'a b' must be one word
        project: -x                       #! must be one word
        max_jobs: 0                       #! greater than or equal to 1
        command_limit: 0                  #! greater than 0
        directives: ["#SBATCH -A x", ""]  #! leave out the prefix|one line of text
        modules: ["a; b"]                 #! must be one word
        setup: [5]                        #! text, not 5
        environment:
          A-B: x                          #! letters, digits and _ only
          C: true                         #! quote it
          D: 1
          D: 2                            #! appears twice
        python: 3                         #! text, not 3
    """
    text = textwrap.dedent(text)
    write(tmp_path, "x", re.sub(r" *#! .*", "", text))
    with pytest.raises(RoundhouseError) as raised:
        load_site("x", tmp_path, "h")
    reported: dict[int, str] = {}
    for line in str(raised.value).splitlines():
        where, message = line.removeprefix(f"{tmp_path}/x.yaml:").split(":", 1)
        reported[int(where)] = reported.get(int(where), "") + message
    expected = {number: line.split("#! ")[1] for number, line in enumerate(text.splitlines(), 1) if "#! " in line}
    assert reported.keys() == expected.keys()
    for number, parts in expected.items():
        for part in parts.split("|"):
            assert part in reported[number]


def test_setup_lines_that_bash_cannot_read_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "x", 'queue: a\nsetup:\n  - "true"\n  - "if true; then"\n  - "fi )"\n')
    with pytest.raises(RoundhouseError, match=r"x.yaml:\d: setup: bash cannot read these lines: line 3: syntax error"):
        load_site("x", tmp_path, "h")
    write(tmp_path, "x", 'setup: ["if true; then"]\n')
    with pytest.raises(RoundhouseError, match="unexpected end of file"):
        load_site("x", tmp_path, "h")
    write(tmp_path, "x", "setup: ['if true; then', 'export A=1', 'fi', 'cat <<END', 'if', 'END', '[[ a == !(b) ]]']\n")
    assert len(load_site("x", tmp_path, "h").setup) == 7


def test_a_site_with_another_name_than_its_file_or_with_relative_data_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "x", "name: y\n")
    with pytest.raises(RoundhouseError, match="x.yaml:1: the name of the site is 'y'"):
        load_site("x", tmp_path, "h")
    write(tmp_path, "x", "name: x\ndata: sets\n")
    with pytest.raises(RoundhouseError, match="x.yaml:2: data: 'sets' must be absolute"):
        load_site("x", tmp_path, "h")


@pytest.mark.parametrize(("name", "scheduler"), [("example_slurm", "slurm"), ("example_pbs", "pbs")])
def test_the_examples_load_and_are_selected_on_no_real_host(name: str, scheduler: str) -> None:
    assert load_site(name, ROOT / "sites", "h").scheduler == scheduler
    assert load_site(None, ROOT / "sites", "login1") == Site()
    assert load_site(None, ROOT / "sites", f"login1.{scheduler}.example.org").name == name


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL))
def test_the_examples_of_the_reference_load(tmp_path: Path, text: str) -> None:
    write(tmp_path, "x", text)
    load_site("x", tmp_path, "h")
    assert yaml.safe_load(text).keys() > {"scheduler", "hosts"}


def test_the_reference_names_every_key_and_no_other() -> None:
    assert re.findall(r"^\| `(\w+)`", REFERENCE, re.MULTILINE) == list(keys_of(Site))
